//! What a host tells its operator, and the public.

use std::{fs, path::Path, time::Duration};

use codiusd_kit::{Payer, Upload, payer::pay_token, process::Signal, until, web};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::host;

const WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_pods_apart_and_the_public_does_not() {
    let files = tempfile::tempdir().expect("make a directory");
    let (log, moved) = (files.path().join("access.log"), files.path().join("access.log.1"));
    let settings = [
        ("CODIUS_ADMIN_API", "true".to_owned()),
        ("CODIUS_ADMIN_PORT", "0".to_owned()),
        ("CODIUS_PUBLIC_METRICS", "true".to_owned()),
        ("CODIUS_ACCESS_LOG", log.display().to_string()),
    ];
    let mut host = settings.into_iter().fold(host(), |host, (key, value)| host.set(key, value)).start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
    assert_eq!(host.pod(&hash, "/before").await.status, StatusCode::OK);

    let shown = async |path: &str| web::send(host.admin(), web::get(&host.admin().to_string(), path)).await.expect(path).text();
    let line = format!("codius_pod_requests_total{{pod=\"{hash}\"}} 1\n");
    until("the request to be over", WITHIN, async || shown("/metrics/pods?top=1").await.contains(&line).then_some(())).await;
    assert!(!shown("/metrics/pods?top=0").await.contains(&hash));
    assert!(shown("/metrics/pods?top=many").await.contains("invalid digit"));
    let public = host.api(Method::GET, "/metrics", None, None).await;
    assert_eq!((public.status, public.header("content-type")), (StatusCode::OK, Some("text/plain; version=0.0.4")));
    for text in [public.text(), shown("/metrics").await] {
        assert!(text.contains("codius_edge_requests_total{method=\"read\",status=\"2xx\",to=\"pod\"} 1\n"), "{text}");
        assert!(!text.contains(&hash), "{text}");
    }

    let logged = |file: &Path, text: &str| fs::read_to_string(file).is_ok_and(|lines| lines.contains(text)).then_some(());
    until("the first line", WITHIN, async || logged(&log, "\"/before\" 200")).await;
    fs::rename(&log, &moved).expect("move the log away");
    host.running().signal(Signal::SIGHUP);
    until("a new log", WITHIN, async || log.exists().then_some(())).await;
    assert_eq!(host.pod(&hash, "/after").await.status, StatusCode::OK);
    until("a line in it", WITHIN, async || logged(&log, "\"/after\" 200")).await;
    assert_eq!(logged(&moved, "/after"), None);
}

/// Through the edge, which adds and takes nothing that matters here.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_says_what_it_is_and_keeps_what_it_should() {
    let host = host().without_pods().set("CODIUS_ADDITIONAL_HOST_INFO", "false").start().await;
    let asked = async |path: &str| host.api(Method::GET, path, None, None).await;
    for path in ["/healthz", "/readyz"] {
        let answer = asked(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    }
    let info = asked("/info?requestPeers=true").await.json();
    assert_eq!((info.get("runningContracts"), info.get("peers")), (None, None), "{info}");
    assert_eq!((&info["acceptingUploads"], &info["selfTestSuccess"]), (&Value::Bool(true), &Value::Null), "{info}");
    let document = asked("/openapi.json").await.json();
    assert!(document["paths"]["/readyz"].is_object() && document["paths"]["/metrics"].is_null(), "{document}");
    let page = asked("/").await;
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'; ")));
    assert!(page.text().contains("id=\"runningContracts\">unknown"), "{}", page.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_upload_is_followed_by_its_request_id() {
    let files = tempfile::tempdir().expect("make a directory");
    let access = files.path().join("access.log");
    let mut host = host().set("CODIUS_ACCESS_LOG", access.display().to_string()).set("RUST_LOG", "debug").start().await;
    let payer = Payer::connect(host.ilp()).await;
    let nowhere = json!({ "id": "nowhere", "image": host.image(), "workdir": "/codius-demo-page" });
    let upload = Upload::of(host.image()).container(nowhere);
    let refused = payer.upload(&host, &upload, 60).await;
    let told = refused.answer.json();
    assert_eq!((refused.answer.status, refused.paid > 0), (StatusCode::UNPROCESSABLE_ENTITY, true), "{told}");
    let id = told["requestId"].as_str().expect("an id").to_owned();
    assert_eq!(refused.answer.header("x-request-id"), Some(&*id), "{told}");
    let logged = || fs::read_to_string(&access).unwrap_or_default().lines().find(|line| line.contains(&id)).map(str::to_owned);
    let line = until("the access log to have it", WITHIN, async || logged()).await;
    assert!(line.contains("POST control \"/pods\" 422 "), "{line}");

    let log = host.running().log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&id)).collect();
    let has = |parts: &[&str]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["request{", "method=POST", "path=\"/pods\"", "pod=", "payment=", "request refused", "422"]), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("codiusd_runtime")), "what the runtime has done for it: {lines:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_paid_upload_is_logged() {
    let files = tempfile::tempdir().expect("make a directory");
    let access = files.path().join("access.log");
    let connector = host().without_pods().set("RUST_LOG", "debug").start().await;
    let (uplink, login) = ("0123456789abcdef0123456789abcde1", "n0t-in-the-log");
    let credentials = format!(r#"{{"server":"btp+ws://:{uplink}@{}"}}"#, connector.ilp());
    let builder = host().set("CODIUS_ILP", "uplink").set("ILP_CREDENTIALS", credentials).set("RUST_LOG", "debug");
    let builder = builder.set("CODIUS_ACCESS_LOG", access.display().to_string());
    let mut host = builder.set("CODIUS_REGISTRY_CREDENTIALS", format!(r#"{{"ghcr.io":"me:{login}"}}"#)).start().await;
    let payer = Payer::connect(connector.ilp()).await;

    let upload = Upload::of(host.image()).private("SECRET", "hush-private-value").env("SECRET", "$SECRET");
    let nonce = upload.json()["private"]["vars"]["SECRET"]["nonce"].as_str().expect("a nonce").to_owned();
    let (token, target) = (pay_token(), "/pods?duration=60");
    let quoted = host.api(Method::POST, target, Some(upload.json()), Some(&token)).await;
    let shared = quoted.header("pay").and_then(|pay| pay.rsplit(' ').next()).expect("a shared secret").to_owned();
    let bought = payer.buy(&host, Method::POST, target, Some(upload.json()), &token, u64::MAX).await;
    assert_eq!(bought.answer.status, StatusCode::OK, "{}", bought.answer.text());
    let hash = bought.answer.json()["manifestHash"].as_str().expect("a hash").to_owned();
    assert_eq!(host.pod(&hash, "/?token=in-a-query").await.status, StatusCode::OK);
    until("the access log to have it", WITHIN, async || fs::read_to_string(&access).is_ok_and(|log| log.contains("200")).then_some(()))
        .await;

    let hexed = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let log = host.running().log();
    assert!(log.contains("DEBUG") && log.contains(&hash), "it is a log of all that");
    let access = fs::read_to_string(&access).expect("the access log");
    for secret in [&*token, &*shared, &*nonce, uplink, login, "hush-private-value", &*hexed("hush-private-value"), "in-a-query"] {
        for (name, log) in [("the log", &log), ("the access log", &access)] {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} is in {name}");
        }
    }
}
