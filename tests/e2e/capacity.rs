//! Sizes of pods, what they cost, and what is refused because something is short, before any money moves.

use std::thread;

use codiusd_kit::{Host, Payer, Upload, payer::pay_token};
use http::{Method, StatusCode};

use crate::{host, pay_at_once, quote};

const PLACES_PER_PROCESSOR: usize = 8;

/// The answer to an upload that isn't paid for.
async fn ask(host: &Host, upload: &Upload, token: &str) -> codiusd_kit::web::Answer {
    host.api(Method::POST, "/pods?duration=3600", Some(upload.json()), Some(token)).await
}

fn message(answer: &codiusd_kit::web::Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_has_its_price_for_as_long_as_it_is_sold() {
    let mut host = host().keep_pods().set("CODIUS_MACHINES", "medium cpus=2 memory=64MiB disk=64MiB price=1.5").start().await;
    let payer = Payer::connect(host.ilp()).await;
    let medium = Upload::of(host.image()).machine("medium");
    assert_eq!(quote(&host, medium.json(), 60).await, 342_466, "1.5 times what small costs, rounded up once");
    assert_eq!(quote(&host, Upload::of(host.image()).json(), 60).await, 228_311);

    let bought = payer.upload(&host, &medium, 60).await;
    assert_eq!((bought.answer.status, bought.paid), (StatusCode::OK, 342_466), "{}", bought.answer.text());
    let hash = bought.answer.json()["manifestHash"].as_str().unwrap().to_owned();
    assert_eq!(host.pod(&hash, "/").await.status, StatusCode::OK);
    let longer = format!("/pods?manifestHash={hash}&duration=60");
    let extended = payer.buy(&host, Method::PUT, &longer, None, &pay_token(), u64::MAX).await;
    assert_eq!((extended.answer.status, extended.paid), (StatusCode::OK, 342_466), "{}", extended.answer.text());

    let info = host.api(Method::GET, "/info", None, None).await.json();
    let sold: Vec<_> = info["machines"].as_array().unwrap().iter().map(|size| (&size["name"], &size["costPerMonth"])).collect();
    assert_eq!(serde_json::json!(sold), serde_json::json!([["small", 10], ["medium", 15]]));

    host.terminate().await;
    host.set("CODIUS_MACHINES", "large cpus=2 memory=64MiB disk=64MiB price=2");
    host.start_again().await;
    let received = host.books().received;
    let answer = host.api(Method::PUT, &longer, None, Some(&pay_token())).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text());
    assert_eq!(message(&answer), "machine: this host doesn't sell \"medium\" any more");
    let answer = ask(&host, &medium, &pay_token()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text());
    assert_eq!(message(&answer), "manifest.machine: must be \"small\" or \"large\"");
    assert!(answer.header("pay").is_none());
    assert_eq!(host.pod(&hash, "/").await.status, StatusCode::OK, "what was bought runs on");
    assert_eq!(host.books().received, received);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_short_is_said_before_money() {
    let sizes = "deep cpus=1 memory=1000TiB disk=16MiB price=1,busy cpus=1024 memory=16MiB disk=16MiB price=1,wide cpus=1 memory=16MiB disk=1TiB price=1";
    let host = host().set("CODIUS_MACHINES", sizes).set("CODIUS_CPU_OVERCOMMIT", "1");
    // Nothing may be used of a disk that is full when a millionth of it is in use.
    let host = host.set("CODIUS_MAX_DISK_FRACTION", "0.000001").start().await;
    for (machine, short) in [("deep", "Memory"), ("busy", "CPU"), ("wide", "Disk"), ("small", "Disk")] {
        let answer = ask(&host, &Upload::of(host.image()).machine(machine), &pay_token()).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{machine}: {}", answer.text());
        assert_eq!(message(&answer), format!("{short} usage exceeded. Send pod request later."));
        assert!(answer.header("pay").is_none() && answer.header("retry-after").is_some(), "{machine}: {:?}", answer.headers);
    }
    for port in [25, 22, 11211, 33434] {
        let answer = ask(&host, &Upload::of(host.image()).port(port), &pay_token()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "port {port}: {}", answer.text());
        assert!(message(&answer).starts_with(&format!("manifest.port: {port} is refused: ")), "{}", answer.text());
        assert!(answer.header("pay").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_place_is_held_by_who_pays_for_it() {
    let cpus = thread::available_parallelism().unwrap();
    let whole = format!("whole cpus={cpus} memory=64MiB disk=64MiB price=1");
    let mut host = host().keep_pods().set("CODIUS_MACHINES", whole).set("CODIUS_CPU_OVERCOMMIT", "1").start().await;
    let payer = Payer::connect(host.ilp()).await;
    let [first, second] = [(); 2].map(|()| Upload::of(host.image()).machine("whole"));
    let [one, other] = [(); 2].map(|()| pay_token());
    let buy = async |host: &Host, most| payer.buy(host, Method::POST, "/pods?duration=3600", Some(first.json()), &one, most).await;
    for (upload, token) in [(&first, &one), (&second, &other)] {
        let asked = ask(&host, upload, token).await;
        assert_eq!(asked.status, StatusCode::PAYMENT_REQUIRED, "who asks keeps nobody out: {}", asked.text());
    }

    let half = quote(&host, first.json(), 3600).await / 2;
    assert_eq!(buy(&host, half).await.answer.status, StatusCode::PAYMENT_REQUIRED);
    let full = async |host: &Host, why: &str| {
        let answer = ask(host, &second, &other).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{why}: {}", answer.text());
        assert_eq!(message(&answer), "CPU usage exceeded. Send pod request later.");
    };
    full(&host, "the last place is being paid for").await;
    let done = buy(&host, u64::MAX).await;
    assert_eq!(done.answer.status, StatusCode::OK, "{}", done.answer.text());
    full(&host, "it runs").await;

    host.kill9();
    host.start_again().await;
    full(&host, "it runs from before the start").await;
    let books = host.books();
    assert_eq!((books.received, books.earned), (half + done.paid, half + done.paid));
}

/// Each has a token of its own, and never uses it again: what was paid for a place that another got would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn more_payers_than_places_fill_every_place_and_the_others_pay_nothing() {
    let cpus = thread::available_parallelism().unwrap().get();
    let places = cpus * PLACES_PER_PROCESSOR;
    let host = host().without_pods().set("CODIUS_CPU_OVERCOMMIT", PLACES_PER_PROCESSOR.to_string()).start().await;
    let uploads: Vec<Upload> = (0..places + 4).map(|_| Upload::of(host.image())).collect();
    let ended = pay_at_once(&host, &uploads).await;
    let ran = ended.iter().filter(|(status, _)| *status == StatusCode::OK).count();
    assert_eq!(ran, places, "every place is used: {ended:?}");
    for (status, delivered) in &ended {
        assert!(*status == StatusCode::OK || (*status, *delivered) == (StatusCode::SERVICE_UNAVAILABLE, 0), "{ended:?}");
    }
    let books = host.books();
    assert_eq!((books.credit, books.received), (0, books.earned), "nobody has paid for nothing");
}
