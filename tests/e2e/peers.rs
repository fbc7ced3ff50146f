//! Hosts that find each other, and lose each other again.

use std::time::Duration;

use codiusd_kit::{Host, until, web};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::host;

const WITHIN: Duration = Duration::from_secs(60);

/// The hosts a host knows, as it tells them in three ways.
async fn known(host: &Host) -> Vec<String> {
    let list = host.api(Method::GET, "/peers", None, None).await.json();
    let mut known: Vec<String> = serde_json::from_value(list["peers"].clone()).unwrap();
    known.sort();
    known
}

async fn knows(host: &Host, others: &[&Host]) {
    let mut expected: Vec<String> = others.iter().map(|other| other.uri()).collect();
    expected.sort();
    until(&format!("{} to know {expected:?}", host.uri()), WITHIN, async || (known(host).await == expected).then_some(())).await;
}

async fn submit(host: &Host, peers: &[&str]) -> Value {
    let answer = host.api(Method::POST, "/peers/discover", Some(&json!({ "peers": peers })), None).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hosts_find_each_other_from_one_and_do_without_one_that_is_gone() {
    let first = host().without_pods().start().await;
    let [mut second, mut third] = {
        let start = async || host().without_pods().set("CODIUS_BOOTSTRAP_PEERS", first.uri()).start().await;
        [start().await, start().await]
    };
    knows(&first, &[&second, &third]).await;
    knows(&second, &[&first, &third]).await;
    knows(&third, &[&first, &second]).await;
    let info = first.api(Method::GET, "/info?requestPeers=true", None, None).await.json();
    assert_eq!((&info["numPeers"], info["peers"].as_array().map(Vec::len)), (&json!(2), Some(2)), "{info}");
    assert_eq!(first.api(Method::GET, "/peers?limit=1", None, None).await.json()["peers"].as_array().map(Vec::len), Some(1));

    third.terminate().await;
    knows(&first, &[&second]).await;
    knows(&second, &[&first]).await;

    // It has a new port: nobody could tell it of the first again but its own memory.
    second.terminate().await;
    second.set("CODIUS_BOOTSTRAP_PEERS", "");
    second.start_again().await;
    knows(&second, &[&first]).await;
    knows(&first, &[&second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_told_of_others_and_looks_for_itself() {
    let [told, other] = [host().without_pods().start().await, host().without_pods().start().await];
    let (own, uri) = (told.uri(), other.uri());
    let answer = submit(&told, &[&uri, &own, "http://localhost:1", "nonsense"]).await;
    assert_eq!(answer, json!({ "name": "Codiusd (Rust)", "version": env!("CARGO_PKG_VERSION"), "peers": [] }), "before they are looked at");
    knows(&told, &[&other]).await;
    assert_eq!(submit(&told, &[]).await["peers"], json!([uri]));
    knows(&other, &[&told]).await;
}

/// Nothing runs at a host of the noop runtime, so it never passes its test.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_its_self_test_neither_announces_itself_nor_asks_others() {
    let asked = host().without_pods().start().await;
    let with_bootstrap = || host().without_pods().set("CODIUS_BOOTSTRAP_PEERS", asked.uri());
    let untested = with_bootstrap().set("CODIUS_SELF_TEST", "on").set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0");
    let untested = untested.start().await;
    // It has as much time as one that doesn't test itself, and more.
    let well = with_bootstrap().start().await;
    knows(&asked, &[&well]).await;
    knows(&well, &[&asked]).await;
    for _ in 0..3 {
        let test = Request::post("/self-test").header("host", "localhost").body(web::full(String::new())).unwrap();
        let report = web::send(untested.admin(), test).await.unwrap().json();
        assert_eq!(report["selfTestSuccess"], false, "{report}");
    }
    assert_eq!(known(&asked).await, [well.uri()], "it isn't told of");
    assert_eq!(known(&untested).await, [""; 0], "it has asked nobody");
}
