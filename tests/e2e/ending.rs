//! Expiry, Ctrl-C, the demo.

use std::time::Duration;

use codiusd_kit::{Payer, Upload, process::Signal, until, web};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;

use crate::{expiry_of, host, seconds_between};

const CLEAN_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_ends_with_its_time_route_first() {
    let host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let bought = payer.upload(&host, &Upload::of(host.image()), 3).await;
    let answer = bought.answer.json();
    let (hash, expires) = (answer["manifestHash"].as_str().unwrap(), expiry_of(&answer));
    // As long as there is a route there is a pod behind it: 200 or 404, and nothing in between.
    let gone = until("the pod to be unroutable", Duration::from_secs(10), async || match host.pod(hash, "/").await.status {
        StatusCode::OK => None,
        status => Some((status, Timestamp::now())),
    })
    .await;
    assert_eq!(gone.0, StatusCode::NOT_FOUND);
    let late = seconds_between(expires, gone.1);
    assert!((-0.1..1.0).contains(&late), "unroutable {late} s after {expires}");
    let told = host.pod(hash, "/").await.json();
    let expected = format!("This pod has expired: the time it was paid for is over. ({} UTC)", expires.strftime("%Y-%m-%d %H:%M:%S"));
    assert_eq!((&told["statusCode"], &told["message"]), (&404.into(), &expected.into()));

    until("the pod to leave nothing", CLEAN_WITHIN, async || host.traces().is_empty().then_some(())).await;
    let told = host.api(Method::GET, &format!("/pods?manifestHash={hash}"), None, None).await;
    assert_eq!(told.status, StatusCode::NOT_FOUND, "{}", told.text());
    assert_eq!(host.books().earned, bought.paid);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_lets_requests_finish_and_stops_the_pods() {
    const LENGTH: u64 = 64 * 1024 * 1024;
    let mut host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
    assert!(!host.traces().is_empty());
    let download = web::get(&format!("{hash}.{}", host.authority()), &format!("/bytes/{LENGTH}"));
    let mut body = web::open(host.edge(), download).await.expect("an answer").into_body();
    let first = body.frame().await.expect("a first piece").expect("of the body").into_data().expect("with data").len() as u64;

    let edge = host.edge();
    host.running().signal(Signal::SIGINT);
    until("the edge to close its door", Duration::from_secs(5), async || {
        web::send(edge, web::get("localhost", "/version")).await.is_err().then_some(())
    })
    .await;
    assert_eq!(first + web::length(body).await.expect("the rest"), LENGTH);
    let status = host.running().exit(Duration::from_secs(40)).await;
    assert!(status.success(), "codiusd ended with {status}");
    assert!(host.traces().is_empty(), "left behind: {:?}", host.traces());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_serves_a_pod_until_it_is_interrupted() {
    let mut host = host().demo().start().await;
    let authority = host.authority().to_owned();
    let pod = |line: &str| {
        let url = line.split_whitespace().find(|word| word.starts_with("http://") && word.contains(&authority))?;
        let label = url.strip_prefix("http://")?.split('.').next()?;
        (label.len() == 52).then(|| label.to_owned())
    };
    let isolation = |line: &str| line.contains("isolation: shared kernel").then_some(());
    host.running().line("what isolates its pods", Duration::from_secs(60), isolation).await;
    let hash = host.running().line("the URL of its pod", Duration::from_secs(60), pod).await;
    let answer = host.pod(&hash, "/").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let status = host.interrupt(Signal::SIGINT).await;
    assert!(status.success(), "codiusd demo ended with {status}");
    assert!(host.traces().is_empty(), "left behind: {:?}", host.traces());
}
