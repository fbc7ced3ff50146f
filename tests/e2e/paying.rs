//! What money buys, once, and what is refused before any moves.

use std::{fs, path::PathBuf};

use codiusd_kit::{Host, Payer, Upload, payer::pay_token};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{expiry, expiry_of, host, quote, seconds_between};

/// A sum in a JSON answer, which may be a number or, as prices are, text.
fn sum(answer: &Value, name: &str) -> u64 {
    let value = &answer[name];
    let sum = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    sum.unwrap_or_else(|| panic!("no {name} in {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_costs_its_quote_and_every_unit_is_accounted_for() {
    let host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let upload = Upload::of(host.image());
    let price = quote(&host, upload.json(), 600).await;
    assert_eq!(price, 2_283_106, "10 XRP a month for 600 s");

    let bought = payer.upload(&host, &upload, 600).await;
    assert_eq!((bought.answer.status, bought.paid), (StatusCode::OK, price), "{}", bought.answer.text());
    let answer = bought.answer.json();
    let hash = answer["manifestHash"].as_str().unwrap();
    assert_eq!(answer["url"], format!("http://{hash}.{}/", host.authority()));
    assert_eq!(host.pod(hash, "/").await.status, StatusCode::OK);

    let extended = payer.buy(&host, Method::PUT, &format!("/pods?manifestHash={hash}&duration=60"), None, &pay_token(), u64::MAX).await;
    assert_eq!((extended.answer.status, extended.paid), (StatusCode::OK, 228_311), "{}", extended.answer.text());
    assert!((seconds_between(expiry_of(&answer), expiry_of(&extended.answer.json())) - 60.0).abs() < 0.001);
    assert_eq!(expiry(&host, hash).await, expiry_of(&extended.answer.json()));

    let books = host.books();
    assert_eq!((books.received, books.earned), (price + 228_311, price + 228_311));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_request() {
    let host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let upload = Upload::of(host.image());
    let token = pay_token();
    let post = async || payer.buy(&host, Method::POST, "/pods?duration=60", Some(upload.json()), &token, u64::MAX).await;
    let first = post().await;
    assert_eq!(first.answer.status, StatusCode::OK, "{}", first.answer.text());
    let books = host.books();

    let again = post().await;
    assert_eq!((again.answer.status, again.paid), (StatusCode::OK, 0));
    assert_eq!(again.answer.json(), first.answer.json(), "the same request gets the stored answer");

    let hash = first.answer.json()["manifestHash"].as_str().unwrap().to_owned();
    let other = Upload::of(host.image());
    for (method, target, body) in [
        (Method::POST, "/pods?duration=61".to_owned(), Some(upload.json())),
        (Method::POST, "/pods?duration=60".to_owned(), Some(other.json())),
        (Method::PUT, format!("/pods?manifestHash={hash}&duration=60"), None),
    ] {
        let answer = host.api(method.clone(), &target, body, Some(&token)).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{method} {target}: {}", answer.text());
    }
    assert_eq!(host.books(), books, "nothing more was received or earned");
    assert_eq!(expiry(&host, &hash).await, expiry_of(&first.answer.json()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requests_at_once_are_one_payment() {
    let host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let upload = Upload::of(host.image());
    let token = pay_token();
    let post = async || host.api(Method::POST, "/pods?duration=60", Some(upload.json()), Some(&token)).await;
    let (first, second) = tokio::join!(post(), post());
    let pay = first.header("pay").expect("a 402 has Pay");
    assert_eq!(second.header("pay"), Some(pay), "one token has one address");
    let paid = payer.pay(pay, u64::MAX).await.expect("pay").sent;

    let (first, second) = tokio::join!(post(), post());
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK), "{} {}", first.text(), second.text());
    assert_eq!(first.json(), second.json());
    let books = host.books();
    assert_eq!((books.received, books.earned), (paid, paid));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_underpaid_token_is_topped_up() {
    let host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let upload = Upload::of(host.image());
    let price = quote(&host, upload.json(), 60).await;
    let token = pay_token();
    let post = async |most| payer.buy(&host, Method::POST, "/pods?duration=60", Some(upload.json()), &token, most).await;

    let short = post(price / 2).await;
    assert_eq!((short.answer.status, short.paid), (StatusCode::PAYMENT_REQUIRED, price / 2));
    assert!(short.answer.header("pay").is_some(), "every 402 has Pay");
    let said = short.answer.json();
    assert_eq!((sum(&said, "required"), sum(&said, "received")), (price, price / 2), "{said}");
    assert_eq!(host.books().credit, price / 2);

    let full = post(u64::MAX).await;
    assert_eq!((full.answer.status, full.paid), (StatusCode::OK, price - price / 2), "{}", full.answer.text());
    let books = host.books();
    assert_eq!((books.received, books.earned, books.credit), (price, price, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_costs_nothing() {
    let host = host().start().await;
    let good = Upload::of(host.image());
    let unknown = "a".repeat(52);
    let no_digest = Upload::of("local/demo");
    let not_there = Upload::of(&format!("local/demo@sha256:{}", "0".repeat(64)));
    let twins = good.clone().container(json!({ "id": "app", "image": host.image() }));
    let port_zero = good.clone().port(0);
    for (method, target, body, allowed) in [
        (Method::POST, "/pods?duration=60".to_owned(), Some(no_digest.json()), 400..=499),
        (Method::POST, "/pods?duration=60".to_owned(), Some(not_there.json()), 422..=422),
        (Method::POST, "/pods?duration=60".to_owned(), Some(twins.json()), 400..=422),
        (Method::POST, "/pods?duration=60".to_owned(), Some(port_zero.json()), 400..=422),
        (Method::POST, "/pods?duration=0".to_owned(), Some(good.json()), 400..=400),
        (Method::POST, "/pods?duration=-60".to_owned(), Some(good.json()), 400..=400),
        (Method::POST, "/pods?duration=abc".to_owned(), Some(good.json()), 400..=400),
        (Method::PUT, format!("/pods?manifestHash={unknown}&duration=60"), None, 404..=404),
        (Method::PUT, "/pods?duration=60".to_owned(), None, 422..=422),
    ] {
        let answer = host.api(method.clone(), &target, body, Some(&pay_token())).await;
        assert!(allowed.contains(&answer.status.as_u16()), "{method} {target} {body:?}: {} {}", answer.status, answer.text());
        assert_ne!(answer.status, StatusCode::PAYMENT_REQUIRED, "{method} {target} {body:?}");
        assert!(answer.header("pay").is_none(), "{method} {target}: no money is asked for");
        assert!(answer.json()["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", answer.text());
    }
    assert_eq!(host.books().received, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_host_says_so_before_money() {
    let host = host().set("CODIUS_MAX_MEMORY_FRACTION", "0.001").start().await;
    let upload = Upload::of(host.image());
    let answer = host.api(Method::POST, "/pods?duration=60", Some(upload.json()), Some(&pay_token())).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
    assert!(answer.header("pay").is_none());
    assert_eq!(host.books().received, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_keeps_the_credit() {
    let host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let upload = Upload::of(host.image());
    let token = pay_token();
    let post = async || payer.buy(&host, Method::POST, "/pods?duration=60", Some(upload.json()), &token, u64::MAX).await;

    let layer = largest_blob(&host);
    let whole = fs::read(&layer).unwrap();
    let mut broken = whole.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    fs::write(&layer, broken).unwrap();
    let failed = post().await;
    assert!(failed.answer.status.is_server_error() || failed.answer.status == StatusCode::UNPROCESSABLE_ENTITY, "{}", failed.answer.status);
    assert!(failed.answer.text().contains("Pay-Token"), "it says that the credit is kept: {}", failed.answer.text());
    let books = host.books();
    assert_eq!((books.received, books.earned, books.credit), (failed.paid, 0, failed.paid));
    assert!(failed.paid > 0);

    fs::write(&layer, whole).unwrap();
    let done = post().await;
    assert_eq!((done.answer.status, done.paid), (StatusCode::OK, 0), "{}", done.answer.text());
    let books = host.books();
    assert_eq!((books.received, books.earned, books.credit), (failed.paid, failed.paid, 0));
}

/// The demo image's layer.
fn largest_blob(host: &Host) -> PathBuf {
    let blobs = fs::read_dir(host.image_layout().join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    blobs.max_by_key(|blob| fs::metadata(blob).unwrap().len()).expect("an image has blobs")
}
