//! What is counted of requests, connections and bytes.

use std::time::Duration;

use codiusd_proxy::{Limits, PodKey};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{EdgeFixture, Pod, dead_address, read_head, within};
use crate::secure::{Authority, TlsFixture};

fn request(method: &str, host: &str, body: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn requests_are_counted_by_destination_method_and_status() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let unknown = format!("{}.localhost", "a".repeat(52));
    for (method, host, times) in
        [("GET", name.as_str(), 3), ("PUT", &name, 2), ("BREW", &name, 1), ("GET", "localhost", 1), ("POST", &unknown, 1)]
    {
        for _ in 0..times {
            fixture.ask(&request(method, host, "")).await;
        }
    }
    let rows = [
        ([("to", "pod"), ("method", "read"), ("status", "2xx")], 3.0),
        ([("to", "pod"), ("method", "write"), ("status", "2xx")], 2.0),
        ([("to", "pod"), ("method", "other"), ("status", "2xx")], 1.0),
        ([("to", "control"), ("method", "read"), ("status", "2xx")], 1.0),
        ([("to", "none"), ("method", "write"), ("status", "4xx")], 1.0),
    ];
    for (labels, count) in rows {
        assert_eq!(fixture.counted("codius_edge_requests_total", &labels), count, "{labels:?}");
    }
    assert_eq!(fixture.metric("codius_edge_requests_total"), 8.0);
    for (to, count) in [("pod", 6.0), ("control", 1.0), ("none", 1.0)] {
        assert_eq!(fixture.counted("codius_edge_request_seconds", &[("to", to)]), count, "{to}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_as_that() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        let mut byte = [0];
        let _closed = stream.read(&mut byte).await;
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    client.send(&request("GET", &name, "")).await;
    within("the request to reach the pod", async {
        while pod.accepted() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(client);
    within("the request to be given up", async {
        while fixture.counted("codius_edge_requests_total", &[("to", "pod"), ("status", "client_closed")]) < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(fixture.metric("codius_edge_requests_total"), 1.0);
}

#[tokio::test]
async fn upstream_connections_are_counted_by_what_became_of_them() {
    let fixture = EdgeFixture::with(Limits { first_byte: Duration::from_millis(100), ..Limits::default() }).await;
    let silent = Pod::raw(|_, mut stream| async move {
        let mut all = Vec::new();
        let _closed = stream.read_to_end(&mut all).await;
    })
    .await;
    let pods = [Pod::mirror().await.address, dead_address(), Pod::answering("").await.address, silent.address];
    let mut client = fixture.connect().await;
    for (number, address) in (1..).zip(pods) {
        let name = fixture.publish(number, address);
        for _ in 0..2 {
            client.ask(&request("GET", &name, "")).await;
        }
    }
    let events = [("dialled", 5.0), ("reused", 1.0), ("unreachable", 2.0), ("broken", 2.0), ("answer_timeout", 2.0), ("retried", 0.0)];
    for (event, count) in events {
        assert_eq!(fixture.counted("codius_edge_upstream_total", &[("event", event)]), count, "{event}");
    }
}

#[tokio::test]
async fn bytes_of_bodies_and_tunnels_are_counted_as_they_pass() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        let mut body = [0; 7];
        if head.contains("upgrade: x") {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await.unwrap();
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"four").await.unwrap();
            let _closed = stream.read(&mut body).await;
        } else {
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world").await.unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let bytes = |direction| fixture.counted("codius_edge_bytes_total", &[("direction", direction)]);
    assert_eq!(fixture.ask(&request("POST", &name, "sevenup")).await.body, "hello world");
    let sent = async |count| {
        within("what was sent to be counted", async {
            while bytes("sent") < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(bytes("sent"), count);
    };
    sent(11.0).await;
    assert_eq!(bytes("received"), 7.0);
    let mut tunnel = fixture.connect().await;
    tunnel.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")).await;
    tunnel.send("sevenup").await;
    assert_eq!(tunnel.until(b"four").await, b"four");
    assert_eq!((bytes("received"), fixture.metric("codius_edge_tunnels")), (14.0, 1.0));
    sent(15.0).await;
}

#[tokio::test]
async fn the_busiest_pods_are_told_as_long_as_they_are_here() {
    let fixture = EdgeFixture::new().await;
    let (mirror, down) = (Pod::mirror().await, dead_address());
    let quiet = fixture.publish(1, mirror.address);
    let busy = fixture.publish(2, mirror.address);
    let broken = fixture.publish(3, down);
    for (name, times) in [(&quiet, 1), (&busy, 3), (&broken, 2)] {
        for _ in 0..times {
            fixture.ask(&request("POST", name, "sevenup")).await;
        }
    }
    let counted = |count| fixture.routes.busiest(count).iter().map(|pod| (pod.requests, pod.errors)).collect::<Vec<_>>();
    within("the last request to be over", async {
        while counted(9) != [(3, 0), (2, 2), (1, 0)] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(counted(1), [(3, 0)]);
    let [first, second, _] = fixture.routes.busiest(3).try_into().unwrap();
    assert_eq!((first.pod, first.received), (PodKey::from_digest([2; 32]), 21));
    assert!(first.sent > 3 * 7 && second.sent > 0, "{first:?} {second:?}");
    fixture.routes.withdraw(&first.pod);
    fixture.publish(2, mirror.address);
    assert_eq!(counted(9)[0], (2, 2), "a new incarnation begins anew");
    let scraped = prometheus::TextEncoder::new().encode_to_string(&fixture.registry.gather()).unwrap();
    assert!(!scraped.contains(&first.pod.to_string()), "no pod is named in the scrape");
}

#[tokio::test]
async fn handshakes_and_certificates_are_counted() {
    let limits = Limits { handshake: Duration::from_secs(2), ..Limits::default() };
    let fixture = TlsFixture::with(limits, |_| {}).await;
    let done = |version, kind| fixture.fixture.counted("codius_edge_tls_handshakes_total", &[("version", version), ("kind", kind)]);
    for (version, label) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let client = fixture.authority.client_with(&[version], &["http/1.1"]);
        for _ in 0..2 {
            let mut stream = fixture.handshake(&client, "localhost").await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
            within("the answer", stream.read_to_end(&mut Vec::new())).await.unwrap();
        }
        assert_eq!((done(label, "full"), done(label, "resumed")), (1.0, 1.0), "{label}");
    }
    let silent = fixture.tcp().await;
    assert!(fixture.handshake(&fixture.authority.client(&["spdy/3"]), "localhost").await.is_err());
    // Who believes nobody breaks off; TLS 1.2 has it say so within the handshake.
    assert!(fixture.handshake(&Authority::new().client_with(&[&TLS12], &[]), "localhost").await.is_err());
    fixture.tcp().await.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    drop(fixture.tcp().await);
    for reason in ["incompatible", "refused", "malformed", "client_closed", "deadline"] {
        within(reason, async {
            while fixture.fixture.counted("codius_edge_tls_failures_total", &[("reason", reason)]) < 1.0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    drop(silent);
    assert_eq!(fixture.fixture.metric("codius_edge_tls_failures_total"), 5.0);

    let reloads = |result| fixture.fixture.counted("codius_edge_certificate_reloads_total", &[("result", result)]);
    // rcgen's certificates last until 4096.
    assert_eq!(fixture.fixture.metric("codius_edge_certificate_expiry_seconds"), 67_090_118_400.0);
    fixture.authority.issue("main", &["renamed.localhost"]);
    fixture.certificates.reload();
    assert_eq!((reloads("ok"), reloads("failed")), (1.0, 0.0));
    let scraped = prometheus::TextEncoder::new().encode_to_string(&fixture.fixture.registry.gather()).unwrap();
    let names: Vec<&str> = scraped.lines().filter(|line| line.starts_with("codius_edge_certificate_expiry_seconds{")).collect();
    assert_eq!(names, ["codius_edge_certificate_expiry_seconds{key=\"ecdsa\",name=\"renamed.localhost\"} 67090118400"]);
    std::fs::write(fixture.authority.path("main.pem"), "nothing").unwrap();
    fixture.certificates.reload();
    assert_eq!((reloads("ok"), reloads("failed")), (1.0, 1.0));
}
