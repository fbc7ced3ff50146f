//! A whole host on real parts: codiusd as a process, pods as containers, payments over BTP and STREAM.
//!
//! | room | what is shown |
//! |---|---|
//! | `paying` | what money buys, once, and what is refused before any moves |
//! | `peers` | hosts that find each other |
//! | `network_of_hosts` | ten hosts on an internet of their own, with whoever is there to harm them |
//! | `shares` | sizes of pods, and who gets the last place |
//! | `pods` | what reaches a pod and what comes back |
//! | `ending` | expiry, Ctrl-C, the demo |
//! | `restart` | kill -9 with pods running and money on the way |
//! | `schemathesis` | every answer held against the document of the API |
//! | `supervision` | every background task, ended once |
//! | `stopping` | drains, a restart under sockets that stay, a second signal |
//! | `hyperd` | pods at hyperd: its restarts, its absence, the codius CLI |
//! | `deploy` | what systemd is told; units, installation, DNS, and the operator's guide |
//! | `client` | codiusd's own upload, extend and logs |
//! | `operator` | the operator's API and commands: prices, bans, drains |
//! | `browser` | the host's page and the operator's in a real Chromium: what they show, do, and look like |
//! | `operating` | metrics, the busiest pods, an access log that is rotated, what a host says of itself |
//! | `prometheus` | the alerts and the dashboard that are shipped, on a real Prometheus |
//! | `doctor` | what a host needs and doesn't have |
//! | `self_test` | whether strangers can use the host, and what its operator is told |
//! | `virtual_machines` | pods as virtual machines: the codius CLI, and a host that starts again |
//! | `tls` | https, by a certificate of `codiusd certs dev` |
//! | `javascript` | the codius CLI, ilp-fetch and interledger-stream |
//!
//! They need root, and tests/interop built (`make test` does both).
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a test fails")]

mod browser;
mod capacity;
mod client;
mod deploy;
mod doctor;
mod ending;
mod hyperd;
mod javascript;
mod network;
mod network_of_hosts;
mod operating;
mod operator;
mod paying;
mod peers;
mod pods;
mod prometheus;
mod restart;
mod schemathesis;
mod self_test;
mod stopping;
mod supervision;
mod tls;
mod virtual_machines;

use codiusd_kit::{Host, HostBuilder, Payer, Upload, payer::pay_token};
use futures::future::join_all;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Barrier;

fn host() -> HostBuilder {
    Host::builder(env!("CARGO_BIN_EXE_codiusd"))
}

/// The quoted price of running `upload` for `seconds`.
async fn quote(host: &Host, upload: &Value, seconds: u32) -> u64 {
    let answer = host.api(Method::OPTIONS, &format!("/pods?duration={seconds}"), Some(upload), None).await;
    assert_eq!(answer.status, StatusCode::OK, "quote: {}", answer.text());
    answer.json()["price"].as_str().and_then(|price| price.parse().ok()).unwrap_or_else(|| panic!("no price: {}", answer.text()))
}

/// Uploads each by a payer of its own, who all pay when the last one has been told the price: how each ended, and what was taken for it.
async fn pay_at_once(host: &Host, uploads: &[Upload]) -> Vec<(StatusCode, u64)> {
    let together = Barrier::new(uploads.len());
    let one = async |upload: &Upload| {
        let (payer, token) = (Payer::connect(host.ilp()).await, pay_token());
        let post = async || host.api(Method::POST, "/pods?duration=600", Some(upload.json()), Some(&token)).await;
        let quoted = post().await;
        let pay = quoted.header("pay").unwrap_or_else(|| panic!("what nobody has paid for is offered to all: {}", quoted.text()));
        together.wait().await;
        let delivered = match payer.pay(pay, u64::MAX).await {
            Ok(delivery) => delivery.delivered,
            Err(refused) => refused.delivery.delivered,
        };
        (post().await.status, delivered)
    };
    join_all(uploads.iter().map(one)).await
}

/// When the pod expires, as `GET /pods` says.
async fn expiry(host: &Host, hash: &str) -> Timestamp {
    let answer = host.api(Method::GET, &format!("/pods?manifestHash={hash}"), None, None).await;
    assert_eq!(answer.status, StatusCode::OK, "GET /pods: {}", answer.text());
    expiry_of(&answer.json())
}

/// When the pod expires, as an answer says.
fn expiry_of(answer: &Value) -> Timestamp {
    let timestamp = answer["expiry"].as_str().and_then(|text| text.parse().ok());
    timestamp.unwrap_or_else(|| panic!("no expiry in {answer}"))
}

/// The seconds from one moment to another, negative if that was before.
fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    from.duration_until(to).as_secs_f64()
}
