//! What a host reports about itself, to programs and to people.

use base64::{Engine, prelude::BASE64_STANDARD};
use codiusd_supervisor::Cause;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;

/// Field names of ours, after all of the Node codiusd's.
const OURS: [&str; 5] = ["assetScale", "runtime", "isolation", "machines", "limits"];
/// Element ids of the Node codiusd's page, which other programs may look for.
const IDS: [&str; 9] = ["uri", "numPeers", "serverUptime", "serviceUptime", "avgLoad", "currency", "costPerMonth", "memory", "fullMem"];

#[tokio::test]
async fn info_has_the_recorded_fields_in_their_order() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("../../../tests/data/http-info.json")).unwrap();
    assert_eq!(rows.len(), 8);
    for row in rows {
        let setup = match row["host"].as_str().unwrap() {
            "full" => Setup { memory_bytes: Some(252_765), ..Setup::default() },
            "reticent" => Setup { reticent: true, ..Setup::default() },
            _ => Setup::default(),
        };
        let (_, said) = TestApi::with(setup).await.ask(&format!("GET {}", row["path"].as_str().unwrap()), "", b"").await;
        let (ours, theirs): (Value, &Value) = (serde_json::from_str(&said).unwrap(), &row["answer"]);
        let names: Vec<&str> = ours.as_object().unwrap().keys().map(String::as_str).collect();
        let recorded = theirs.as_object().unwrap().keys().map(String::as_str);
        assert_eq!(names, recorded.chain(OURS).collect::<Vec<_>>(), "{row}");
        // These are the same for every host; the others depend on the machine.
        for name in ["numPeers", "currency", "costPerMonth", "runningContracts"] {
            assert_eq!(ours.get(name), theirs.get(name), "{name}: {row}");
        }
        assert_eq!(said.contains(r#""costPerMonth":10,"#), theirs["costPerMonth"] == 10, "a whole number: {said}");
        assert_eq!(ours["selfTestSuccess"], Value::Null, "there was none");
        // The Node codiusd announced free capacity to peers while it refused uploads for lack of it.
        assert_eq!(
            (&ours["fullMem"], &ours["acceptingUploads"]),
            (&(row["host"] == "full").into(), &(row["host"] != "full").into()),
            "{row}"
        );
        assert_eq!(ours["limits"]["uploadBytes"], 1_048_576);
    }
}

#[tokio::test]
async fn a_host_is_ready_when_each_part_is() {
    let api = TestApi::open().await;
    let asks = async |path: &str| {
        let (head, body) = api.ask(&format!("GET {path}"), "", b"").await;
        (head, serde_json::from_str::<Value>(&body).unwrap())
    };
    let expect = async |status: &str, wrong: Option<(&str, bool)>| {
        let (head, said) = asks("/readyz").await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        assert_eq!(head.contains("\r\nretry-after: 10\r\n"), wrong.is_some(), "{head}");
        let usual =
            [("ready", wrong.is_none()), ("uplink", true), ("store", true), ("runtime", true), ("tasks", true), ("draining", false)];
        for (part, value) in usual {
            let value = wrong.filter(|(other, _)| *other == part).map_or(value, |(_, value)| value);
            assert_eq!(said[part], value, "{part}: {said}");
        }
        assert_eq!(asks("/info").await.1["acceptingUploads"], wrong.is_none());
        let (head, health) = asks("/healthz").await;
        assert!(head.starts_with("http/1.1 200 ") && health["healthy"] == true, "{head}");
    };
    expect("200", None).await;
    let asset = api.asset.send_replace(None);
    expect("503", Some(("uplink", false))).await;
    api.asset.send_replace(asset);
    expect("200", None).await;
    api.draining.cancel();
    expect("503", Some(("draining", true))).await;

    let api = TestApi::open().await;
    api.supervisor.fail("a task", Cause::Panicked);
    let (head, said) = api.ask("GET /readyz", "", b"").await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(head.starts_with("http/1.1 503 ") && said["tasks"] == false && said["store"] == true, "{head} {said}");
}

#[tokio::test]
async fn an_error_has_the_id_of_its_request() {
    let api = TestApi::open().await;
    let id_of = async |head: &str| {
        let (_, said) = api.ask("GET /pods?manifestHash=x", head, b"").await;
        serde_json::from_str::<Value>(&said).unwrap()["requestId"].as_str().unwrap().to_owned()
    };
    assert_eq!(id_of("X-Request-Id: 0f8fad5b-d9cb\r\n").await, "0f8fad5b-d9cb", "as the edge has it");
    let made = id_of("").await;
    assert!(made.len() == 32 && made != id_of("X-Request-Id: no word\r\n").await, "{made}");
}

#[tokio::test]
async fn the_page_says_what_the_host_is() {
    let api = TestApi::open().await;
    let (_, page) = api.ask("GET /", "", b"").await;
    for id in IDS {
        assert_eq!(page.matches(&format!(r#" id="{id}">"#)).count(), 1, "{id}: {page}");
    }
    for shown in [
        r#"id="costPerMonth">10<"#,
        r#"id="currency">XRP<"#,
        r#"id="uri">http://host.example/?&lt;&amp;"#,
        r#"id="fullMem">no"#,
        r#"id="memory">64 GiB"#,
        r#"id="runningContracts">0"#,
        r#"id="runtime">noop"#,
        r#"<h3>small</h3><p class="price">10 <small>XRP a month</small></p><p class="note">0.013698631 XRP an hour</p>"#,
        "<li>1 processor</li><li>512 MiB memory</li><li>1 GiB disk</li>",
        "codiusd upload manifest.json <span>--host</span> http://host.example/?&lt;&amp; <span>--duration 1h</span></pre>",
        r#"id="acceptingUploads"><span class="pill good">Accepts uploads</span>"#,
    ] {
        assert!(page.contains(shown), "{shown} in {page}");
    }
    assert!(!page.contains("?<&") && !page.contains("{{") && !page.contains("}}"), "{page}");
    let reticent = TestApi::with(Setup { reticent: true, ..Setup::default() }).await;
    let (_, page) = reticent.ask("GET /", "", b"").await;
    assert!(page.contains(r#"id="runningContracts">unknown"#), "{page}");
    reticent.asset.send_replace(None);
    let (_, page) = reticent.ask("GET /", "", b"").await;
    assert!(page.contains(r#"id="currency">unknown"#) && page.contains("10 <small>a month</small></p><ul"), "{page}");
}

/// A page's scripts and styles are those its policy allows, and nothing is fetched from elsewhere.
#[tokio::test]
async fn pages_hold_all_they_need_and_may_do_no_more() {
    let api = TestApi::open().await;
    for request in ["GET /", "GET /nowhere"] {
        let mut stream = UnixStream::connect(&api.socket).await.unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
            let texts: Vec<&str> =
                page.split(&format!("<{tag}>")).skip(1).map(|rest| rest.split(&format!("</{tag}>")).next().unwrap()).collect();
            let expected = match texts.as_slice() {
                [] => "'none'".to_owned(),
                [text] => format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text))),
                more => panic!("{} <{tag}>", more.len()),
            };
            assert!(policy.contains(&format!("; {directive} {expected};")), "{request}: {policy}");
            assert_eq!(page.matches(&format!("<{tag}")).count(), texts.len(), "{tag}s without attributes");
        }
        for foreign in [" src=", "url(", "@import", "<iframe", "<form", " style=", " onclick=", "<base"] {
            assert!(!page.contains(foreign), "{foreign} in {page}");
        }
        // Links lead somewhere only if they are followed.
        let links: Vec<&str> = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let known = ["data:,", "/", "/info", "/peers", "/openapi.json", "https://interledger.org", env!("CARGO_PKG_REPOSITORY")];
        assert!(links.iter().all(|link| known.contains(link)), "{links:?}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    }
}
