//! What reaches a pod and what comes back.

use std::time::Duration;

use bytes::Bytes;
use codiusd_kit::{
    Payer, Upload, in_time, until,
    web::{self, full, repeated},
};
use futures::{SinkExt, StreamExt};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

use crate::host;

const MIB: u64 = 1024 * 1024;
/// What codiusd's memory may grow by while a gigabyte passes.
const GROWTH_MAX: u64 = 16 * MIB;
const GIGABYTE_WITHIN: Duration = Duration::from_secs(120);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn both_containers_of_a_pod_run() {
    let host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let second = json!({ "id": "second", "image": host.image(), "environment": { "PORT": "8081" } });
    let first_serves = Upload::of(host.image()).debug().container(second.clone());
    let second_serves = Upload::of(host.image()).debug().container(second).port(8081);
    for (upload, container) in [(first_serves, "app"), (second_serves, "second")] {
        let hash = payer.run_pod(&host, &upload, 60).await;
        let answer = host.pod(&hash, "/page-of-the-pod").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let said = |line: &str| line.starts_with(&format!("{container} stdout")) && line.contains("/page-of-the-pod");
        until("the request in the log of its container", Duration::from_secs(5), async || {
            let log = host.api(Method::GET, &format!("/pods/{hash}/logs"), None, None).await.text();
            log.lines().any(said).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn private_variables_reach_the_pod_and_nobody_else() {
    let mut host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    // The pod listens where its private variable says, so that it answers shows that it was told.
    let upload = Upload::of(host.image()).private("PORT", "31415").env("PRICE", "1 $").port(31415).debug();
    let upload = upload.private("SECRET", "the-cake-is-a-lie");
    let refused = host.api(Method::POST, "/pods?duration=60", Some(&json!({ "manifest": upload.json()["manifest"] })), None).await;
    assert!(refused.status.is_client_error(), "without its private variables: {}", refused.text());

    let hash = payer.run_pod(&host, &upload, 60).await;
    assert_eq!(host.pod(&hash, "/").await.status, StatusCode::OK);
    let told = host.api(Method::GET, &format!("/pods?manifestHash={hash}"), None, None).await;
    assert_eq!(told.json()["manifest"]["vars"]["SECRET"]["encoding"], "private:sha256", "{}", told.text());
    for (place, text) in [("GET /pods", told.text()), ("the host's log", host.running().log()), ("a refusal", refused.text())] {
        assert!(!text.contains("the-cake-is-a-lie"), "a private value in {place}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_public_only_in_debug_mode_and_can_be_followed() {
    let host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(host.image()), 60).await;
    let answer = host.api(Method::GET, &format!("/pods/{hash}/logs"), None, None).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text());

    let hash = payer.run_pod(&host, &Upload::of(host.image()).debug(), 60).await;
    let follow = web::get(host.authority(), &format!("/pods/{hash}/logs?follow=true"));
    let mut log = web::open(host.edge(), follow).await.expect("follow the log").into_body().into_data_stream();
    host.pod(&hash, "/first").await;
    for path in ["/first", "/second"] {
        let mut seen = String::new();
        in_time(&format!("{path} in the followed log"), Duration::from_secs(5), async {
            while !seen.contains(path) {
                let chunk = log.next().await.expect("the log goes on").expect("the log can be read");
                seen.push_str(&String::from_utf8_lossy(&chunk));
            }
        })
        .await;
        assert!(seen.lines().all(|line| line.starts_with("app std")), "lines of `<container> <stream> <text>` only: {seen}");
        host.pod(&hash, "/second").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes() {
    let host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(host.image()), 60).await;
    let mut socket = web::websocket(host.edge(), &format!("{hash}.{}", host.authority()), "/ws").await.expect("open a WebSocket");
    for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
        socket.send(message.clone()).await.expect("send");
        let echo = in_time("the echo", Duration::from_secs(5), socket.next()).await.expect("an echo").expect("a message");
        assert_eq!(echo, message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_passes_both_ways_in_flat_memory() {
    let mut host = host().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
    let pod = format!("{hash}.{}", host.authority());
    let chunk = Bytes::from(vec![0; 64 * 1024]);
    let upload = |bytes: u64| {
        let count = usize::try_from(bytes / chunk.len() as u64).expect("it fits");
        Request::post("/count").header(header::HOST, &pod).body(repeated(chunk.clone(), count)).expect("a request")
    };
    // Both paths are warm before they are measured.
    assert_eq!(host.pod(&hash, &format!("/bytes/{MIB}")).await.body.len() as u64, MIB);
    assert_eq!(host.send(upload(MIB)).await.text().trim(), MIB.to_string());
    let before = host.memory_peak();

    let down = in_time("a gigabyte down", GIGABYTE_WITHIN, async {
        let response = web::open(host.edge(), web::get(&pod, &format!("/bytes/{}", 1024 * MIB))).await.expect("an answer");
        web::length(response.into_body()).await.expect("all of it")
    })
    .await;
    assert_eq!(down, 1024 * MIB);
    let up = in_time("a gigabyte up", GIGABYTE_WITHIN, host.send(upload(1024 * MIB))).await;
    assert_eq!(up.text().trim(), (1024 * MIB).to_string());

    let growth = host.memory_peak() - before;
    assert!(growth <= GROWTH_MAX, "memory grew by {} MiB", growth / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_no_pods_are_told_so() {
    let host = host().start().await;
    let unknown = host.pod(&"a".repeat(52), "/").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{}", unknown.text());
    let payer = Payer::connect(host.ilp()).await;
    let nobody_listens = payer.run_pod(&host, &Upload::of(host.image()).port(9), 60).await;
    let answer = host.pod(&nobody_listens, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());

    let version = host.api(Method::GET, "/version", None, None).await;
    assert_eq!(version.status, StatusCode::OK, "{}", version.text());
    let posted = Request::post("/version").header(header::HOST, host.authority()).body(full("")).expect("a request");
    assert_eq!(host.send(posted).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_too_large_is_always_told_so() {
    let host = host().start().await;
    let body = vec![b' '; 2 * 1024 * 1024];
    for method in ["POST", "PUT", "OPTIONS"].into_iter().cycle().take(15) {
        let mut stream = TcpStream::connect(host.edge()).await.expect("connect");
        let host = format!("Host: {}\r\nConnection: close", host.authority());
        let head = format!("{method} /pods HTTP/1.1\r\n{host}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.expect("send the head");
        // The answer is there, unread.
        let unread = in_time("the answer", ANSWER_WITHIN, stream.peek(&mut [0])).await.expect("an answer");
        assert!(unread > 0, "{method}: closed without an answer");
        stream.write_all(&body).await.expect("send the body");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read the answer");
        assert!(answer.starts_with("HTTP/1.1 413 "), "{method}: {answer}");
        assert!(answer.contains("Payload content length greater than maximum allowed: 1048576"), "{method}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_pages_and_programs_json() {
    let host = host().start().await;
    let page = host.send(web::get(host.authority(), "/")).await;
    assert_eq!((page.status, page.header("content-type")), (StatusCode::OK, Some("text/html; charset=utf-8")));
    assert!(page.text().contains(&format!("--host</span> http://{} ", host.authority())), "{}", page.text());
    for (accept, kind) in [("text/html,*/*;q=0.8", "text/html; charset=utf-8"), ("*/*", "application/json; charset=utf-8")] {
        for name in [host.authority().to_owned(), format!("{}.{}", "a".repeat(52), host.authority())] {
            let mut request = web::get(&name, "/nowhere");
            request.headers_mut().insert(header::ACCEPT, accept.parse().expect("a header"));
            let answer = host.send(request).await;
            assert_eq!((answer.status, answer.header("content-type")), (StatusCode::NOT_FOUND, Some(kind)), "{name} {accept}");
        }
    }
}
