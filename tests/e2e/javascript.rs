//! The codius CLI, ilp-fetch and interledger-stream, as published, over moneyd and over our own connector.

use std::{net::SocketAddr, time::Duration};

use codiusd_control::manifest::{Rules, Upload as Checked, merge};
use codiusd_kit::{CodiusCli, Host, IlpFetch, Moneyd, StreamSender, Upload, in_time, javascript::Generated, payer::pay_token, web};
use futures::StreamExt;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::{expiry, host, quote, seconds_between};

/// At this cost 2628 s are 1000 units, and 1 s is one.
const CHEAP: &str = "0.001";

#[tokio::test(flavor = "multi_thread")]
async fn the_codius_cli_works_over_moneyd() {
    let moneyd = Moneyd::start().await;
    let host = host().uplink(moneyd.btp()).start().await;
    let upload = with_variables(&host);
    the_codius_cli_works(&host, CodiusCli::new(moneyd.btp(), &upload)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_codius_cli_works_over_the_embedded_connector() {
    let host = host().start().await;
    let upload = with_variables(&host);
    the_codius_cli_works(&host, CodiusCli::new(host.ilp(), &upload)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_codius_cli_works_with_one_account_for_all_its_sessions() {
    let host = host().start().await;
    let upload = with_variables(&host);
    the_codius_cli_works(&host, CodiusCli::new(host.ilp(), &upload).with_credentials()).await;
}

/// A pod that listens where a private variable says.
pub(crate) fn with_variables(host: &Host) -> Upload {
    Upload::of(host.image()).env("PUBLIC", "$PUBLIC").env("PORT", "$PORT").port(31415)
}

pub(crate) async fn the_codius_cli_works(host: &Host, cli: CodiusCli) {
    cli.vars(&json!({ "PUBLIC": { "value": "known" } }), &json!({ "PORT": { "value": "31415" } }));

    let price = quote_of_any(host, 60).await;
    let output = cli.run(&["upload", "--host", &host.uri(), "--duration", "60", "--debug", "--assume-yes"]).await;
    let uploaded = cli.state().unwrap_or_else(|| panic!("codius upload has failed: {}", output.text));
    assert_eq!(uploaded.url, format!("http://{}.{}/", uploaded.hash, host.authority()));
    assert_eq!(uploaded.last_paid, price, "{uploaded:?}");
    assert_eq!(host.pod(&uploaded.hash, "/after-the-upload").await.status, StatusCode::OK);
    let first = expiry(host, &uploaded.hash).await;

    let price = quote_of_any(host, 90).await;
    let output = cli.run(&["extend", "--duration", "90", "--assume-yes"]).await;
    let extended = cli.state().expect("the state stays");
    assert_ne!(extended.total_paid, uploaded.total_paid, "codius extend has failed: {}", output.text);
    assert_eq!(extended.last_paid, price, "{extended:?}");
    assert!((seconds_between(first, expiry(host, &uploaded.hash).await) - 90.0).abs() < 0.001);
    let books = host.books();
    assert_eq!((books.received, books.earned), (extended.total_paid, extended.total_paid), "what was sent has arrived");

    let mut tail = cli.tail();
    let line = |path: &'static str| move |line: &str| (line.contains(" app ") && line.contains(path)).then_some(());
    tail.line("an old line of the pod's log", Duration::from_secs(10), line("/after-the-upload")).await;
    until_pinged(host, &uploaded.hash).await;
    assert_eq!(host.pod(&uploaded.hash, "/while-tailing").await.status, StatusCode::OK);
    tail.line("a new line of the pod's log", Duration::from_secs(10), line("/while-tailing")).await;
}

/// Waits until a client that isn't the CLI, and follows the log only now, is sent a `ping`: the CLI has been silent for as long, and would
/// have been sent one by the Node codiusd.
async fn until_pinged(host: &Host, hash: &str) {
    let mut follow = web::get(host.authority(), &format!("/pods/{hash}/logs?follow=true"));
    follow.headers_mut().insert(header::USER_AGENT, "test".parse().expect("a value"));
    let mut log = web::open(host.edge(), follow).await.expect("follow the log").into_body().into_data_stream();
    in_time("a ping", Duration::from_secs(10), async {
        let mut seen = String::new();
        while !seen.ends_with("ping\n") {
            let chunk = log.next().await.expect("the log goes on").expect("the log can be read");
            seen.push_str(&String::from_utf8_lossy(&chunk));
        }
    })
    .await;
}

/// Pairs of a manifest's change and a `codiusvars.json`.
fn files() -> Vec<(Value, Value)> {
    let image = format!("nginx@sha256:{}", "a".repeat(64));
    let manifest = |vars: Option<Value>, environment: Value| {
        let container = json!({ "id": "web", "image": image, "environment": environment });
        let mut manifest = json!({ "name": "page", "version": "1.0.0", "machine": "small", "port": "8080", "containers": [container] });
        if let Some(vars) = vars {
            manifest["vars"] = vars;
        }
        json!({ "manifest": manifest })
    };
    let vars = |public: Value, private: Value| json!({ "vars": { "public": public, "private": private } });
    let known = |value: &str| json!({ "A": { "value": value } });
    let (uses, plain) = (json!({ "A": "$A" }), json!({ "A": "plain" }));
    let described = json!({ "A": { "value": "own", "description": "what it is for" } });
    let odd = json!({ "Z9": { "value": "\u{e9}\u{1f600}\"\\\n\t\u{1}" }, "A_1": { "value": "" }, "b": { "value": "/ $ =" }, "10": { "value": "ten" } });
    let uses_odd = json!({ "Z9": "$Z9", "A_1": "$A_1", "B": "$b", "TEN": "$10" });
    vec![
        (manifest(None, json!({})), json!({ "vars": {} })),
        (manifest(None, plain.clone()), vars(json!({}), json!({}))),
        (manifest(Some(described.clone()), uses.clone()), json!({ "vars": {} })),
        (manifest(Some(described.clone()), uses.clone()), vars(known("other"), json!({}))),
        (manifest(None, uses.clone()), vars(described, json!({}))),
        (manifest(None, uses.clone()), vars(json!({}), known("secret"))),
        (manifest(None, uses.clone()), vars(known("seen"), known("secret"))),
        (manifest(Some(known("own")), uses.clone()), vars(json!({}), known("secret"))),
        (manifest(None, uses_odd.clone()), vars(odd.clone(), json!({}))),
        (manifest(None, uses_odd), vars(json!({}), odd)),
        // Refused by both.
        (manifest(None, uses.clone()), json!({ "vars": {} })),
        (manifest(None, uses.clone()), json!({})),
        (manifest(None, uses.clone()), json!({ "vars": {}, "more": 1 })),
        (manifest(None, uses.clone()), vars(json!({ "A": { "value": 1 } }), json!({}))),
        (manifest(None, uses.clone()), vars(json!({}), json!({ "A": { "value": "x", "description": "x" } }))),
        (manifest(Some(json!({ "A": { "description": "x" } })), uses), json!({ "vars": {} })),
        (json!({ "manifest": { "name": "page" } }), json!({ "vars": {} })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn codius_json_and_codiusvars_json_become_the_upload_the_codius_cli_makes_of_them() {
    let files = files();
    let generated = Generated::from_files(&files).await;
    assert_eq!(generated.len(), files.len());
    for ((codius, vars), theirs) in files.into_iter().zip(generated) {
        let case = format!("{codius} {vars}: {theirs:?}");
        match (merge(codius, Some(&vars), || Generated::NONCE.to_owned()), theirs.upload) {
            (Ok(ours), Some(upload)) => {
                assert_eq!(ours, upload, "{case}");
                let checked =
                    Checked::parse(ours.to_string().as_bytes(), &Rules::default()).unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_eq!(Some(checked.hash().to_string()), theirs.hash, "{case}");
            }
            (Err(_), None) => {}
            (ours, _) => panic!("ours is {ours:?}, {case}"),
        }
    }
}

/// What `seconds` cost, whatever runs.
async fn quote_of_any(host: &Host, seconds: u32) -> u64 {
    quote(host, Upload::of(host.image()).json(), seconds).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ilp_fetch_pays_the_price_over_moneyd() {
    let moneyd = Moneyd::start().await;
    let host = host().uplink(moneyd.btp()).set("CODIUS_COST_PER_MONTH", CHEAP).start().await;
    ilp_fetch_pays_the_price(&host, moneyd.btp()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ilp_fetch_pays_the_price_over_the_embedded_connector() {
    let host = host().set("CODIUS_COST_PER_MONTH", CHEAP).start().await;
    ilp_fetch_pays_the_price(&host, host.ilp()).await;
}

async fn ilp_fetch_pays_the_price(host: &Host, btp: SocketAddr) {
    let upload = Upload::of(host.image());
    let mut received = 0;
    for (seconds, max_price, status, paid) in
        [(2628, 1000, 200, 1000), (2628, 2000, 200, 1000), (2628, 1005, 200, 1000), (2628, 600, 402, 600), (1, 2000, 200, 1)]
    {
        let fetch = IlpFetch::new(btp, "POST", &format!("{}/pods?duration={seconds}", host.uri()), upload.json(), max_price);
        let fetched = fetch.run().await;
        assert_eq!((fetched.status, fetched.price), (status, paid), "{seconds} s for at most {max_price}: {}", fetched.body);
        received += paid;
        assert_eq!(host.books().received, received);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ilp_fetch_tops_up_replays_and_is_refused() {
    let host = host().set("CODIUS_COST_PER_MONTH", CHEAP).start().await;
    let (upload, token) = (Upload::of(host.image()), rand::random());
    let fetch = async |seconds: u32, max_price| {
        let url = format!("{}/pods?duration={seconds}", host.uri());
        IlpFetch::new(host.ilp(), "POST", &url, upload.json(), max_price).token(token).run().await
    };
    let short = fetch(2628, 600).await;
    assert_eq!((short.status, short.price), (402, 600), "{}", short.body);
    let full = fetch(2628, 2000).await;
    assert_eq!((full.status, full.price), (200, 400), "{}", full.body);
    let again = fetch(2628, 2000).await;
    assert_eq!((again.status, again.price, again.json()), (200, 0, full.json()));
    let other = fetch(1, 2000).await;
    assert_eq!((other.status, other.price), (409, 0), "{}", other.body);
    assert_eq!(host.books().received, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn ilp_fetch_gets_what_is_free() {
    let host = host().set("CODIUS_COST_PER_MONTH", "0").start().await;
    for max_price in [0, 2000] {
        let url = format!("{}/pods?duration=60", host.uri());
        let fetched = IlpFetch::new(host.ilp(), "POST", &url, Upload::of(host.image()).json(), max_price).run().await;
        assert_eq!((fetched.status, fetched.price), (200, 0), "{}", fetched.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_sender_pays_exactly_and_never_too_much() {
    let host = host().set("CODIUS_COST_PER_MONTH", CHEAP).start().await;
    let upload = Upload::of(host.image());
    let target = "/pods?duration=2628";
    let token = pay_token();
    let post = async || host.api(Method::POST, target, Some(upload.json()), Some(&token)).await;
    let pay = pay_header(&post().await.headers);
    // Too much is refused, and the sender asks again for ever: nothing is taken however long it does.
    assert_eq!(StreamSender::send(host.ilp(), &pay, 2000, Duration::from_secs(2)).await, None);
    assert_eq!(host.books().received, 0);
    // It has used this connection's patience up; another token has another.
    let token = pay_token();
    let post = async || host.api(Method::POST, target, Some(upload.json()), Some(&token)).await;
    let pay = pay_header(&post().await.headers);
    assert_eq!(StreamSender::send(host.ilp(), &pay, 1000, Duration::from_secs(20)).await, Some(1000));
    let answer = post().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(host.books().received, 1000);
}

fn pay_header(headers: &http::HeaderMap) -> String {
    headers.get("pay").and_then(|value| value.to_str().ok()).unwrap_or_else(|| panic!("no Pay in {headers:?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cli_and_the_host_agree_on_the_hash() {
    let host = host().start().await;
    let odd: Value = json!({ "value": "a \u{7f} \u{ad} \u{2028} \u{feff} \"quoted\" \\ / \u{1f600}" });
    let cli = CodiusCli::new(host.ilp(), &Upload::of(host.image()).env("ODD", "$ODD"));
    cli.vars(&json!({ "ODD": odd }), &json!({}));
    let output = cli.run(&["upload", "--host", &host.uri(), "--duration", "60", "--assume-yes"]).await;
    let state = cli.state().unwrap_or_else(|| panic!("codius upload has failed: {}", output.text));
    assert!(state.url.contains(&state.hash), "{state:?}");
}
