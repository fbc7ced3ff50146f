//! Prints how long a paid upload takes until the pod's first byte, with its image cached.
//!
//! ```text
//! bench target/debug/codiusd
//! ```

use std::time::{Duration, Instant};

use codiusd_kit::{Host, Payer, Upload, payer::pay_token};
use http::{Method, StatusCode};

const ROUNDS: usize = 10;
const TARGET: &str = "/pods?duration=60";

/// One upload: how long until its first 402, its payment, its 200, its first byte, each since the one before.
async fn upload(host: &Host, payer: &Payer) -> [Duration; 4] {
    let (upload, token) = (Upload::of(host.image()), pay_token());
    let mut last = Instant::now();
    let mut lap = || {
        let now = Instant::now();
        let took = now - last;
        last = now;
        took
    };
    let due = host.api(Method::POST, TARGET, Some(upload.json()), Some(&token)).await;
    let asked = lap();
    let pay = due.header("pay").unwrap_or_else(|| panic!("no Pay: {}", due.text()));
    payer.pay(pay, u64::MAX).await.unwrap_or_else(|error| panic!("pay: {error:?}"));
    let paid = lap();
    let done = host.api(Method::POST, TARGET, Some(upload.json()), Some(&token)).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.text());
    let started = lap();
    let hash = done.json()["manifestHash"].as_str().unwrap_or_default().to_owned();
    let page = host.pod(&hash, "/").await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    [asked, paid, started, lap()]
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let ms = |index: usize| times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    println!("{what:<28} median {:6.1} ms, min {:6.1}, max {:6.1}", ms(times.len() / 2), ms(0), ms(times.len() - 1));
}

#[tokio::main]
async fn main() {
    let binary = std::env::args().nth(1).unwrap_or_else(|| panic!("usage: bench <path of codiusd>"));
    let began = Instant::now();
    let host = Host::builder(&binary).start().await;
    println!("{:<28} {:.1} ms", "host ready", began.elapsed().as_secs_f64() * 1000.0);
    let payer = Payer::connect(host.ilp()).await;
    println!(
        "{:<28} {:.1} ms",
        "first upload, image unpacked",
        upload(&host, &payer).await.iter().sum::<Duration>().as_secs_f64() * 1000.0
    );
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(upload(&host, &payer).await);
    }
    for (part, what) in ["request -> 402", "402 -> paid", "paid -> 200", "200 -> first byte"].into_iter().enumerate() {
        print(what, rounds.iter().filter_map(|round| round.get(part).copied()).collect());
    }
    print("paid -> first byte", rounds.iter().map(|[_, _, started, page]| *started + *page).collect());
    print("request -> first byte", rounds.iter().map(|round| round.iter().sum()).collect());
}
