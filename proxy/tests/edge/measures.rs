//! What is counted of requests, connections and bytes.

use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{House, Pod, dead_address, read_head, within};

fn request(method: &str, host: &str, body: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn requests_are_counted_by_destination_method_and_status() {
    let house = House::new().await;
    let pod = Pod::mirror().await;
    let name = house.publish(1, pod.address);
    let unknown = format!("{}.localhost", "a".repeat(52));
    for (method, host, times) in
        [("GET", name.as_str(), 3), ("PUT", &name, 2), ("BREW", &name, 1), ("GET", "localhost", 1), ("POST", &unknown, 1)]
    {
        for _ in 0..times {
            house.ask(&request(method, host, "")).await;
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
        assert_eq!(house.counted("codius_edge_requests_total", &labels), count, "{labels:?}");
    }
    assert_eq!(house.metric("codius_edge_requests_total"), 8.0);
    for (to, count) in [("pod", 6.0), ("control", 1.0), ("none", 1.0)] {
        assert_eq!(house.counted("codius_edge_request_seconds", &[("to", to)]), count, "{to}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_as_that() {
    let house = House::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        let mut byte = [0];
        let _closed = stream.read(&mut byte).await;
    })
    .await;
    let name = house.publish(1, pod.address);
    let mut client = house.connect().await;
    client.send(&request("GET", &name, "")).await;
    within("the request to reach the pod", async {
        while pod.accepted() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(client);
    within("the request to be given up", async {
        while house.counted("codius_edge_requests_total", &[("to", "pod"), ("status", "left")]) < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(house.metric("codius_edge_requests_total"), 1.0);
}

#[tokio::test]
async fn upstream_connections_are_counted_by_what_became_of_them() {
    let house = House::with(Limits { first_byte: Duration::from_millis(100), ..Limits::default() }).await;
    let silent = Pod::raw(|_, mut stream| async move {
        let mut all = Vec::new();
        let _closed = stream.read_to_end(&mut all).await;
    })
    .await;
    let pods = [Pod::mirror().await.address, dead_address(), Pod::answering("").await.address, silent.address];
    let mut client = house.connect().await;
    for (number, address) in (1..).zip(pods) {
        let name = house.publish(number, address);
        for _ in 0..2 {
            client.ask(&request("GET", &name, "")).await;
        }
    }
    let events = [("dialled", 5.0), ("reused", 1.0), ("unreachable", 2.0), ("broken", 2.0), ("answer_timeout", 2.0), ("retried", 0.0)];
    for (event, count) in events {
        assert_eq!(house.counted("codius_edge_upstream_total", &[("event", event)]), count, "{event}");
    }
}

#[tokio::test]
async fn bytes_of_bodies_and_tunnels_are_counted_as_they_pass() {
    let house = House::new().await;
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
    let name = house.publish(1, pod.address);
    let bytes = |direction| house.counted("codius_edge_bytes_total", &[("direction", direction)]);
    assert_eq!(house.ask(&request("POST", &name, "sevenup")).await.body, "hello world");
    assert_eq!((bytes("received"), bytes("sent")), (7.0, 11.0));
    let mut tunnel = house.connect().await;
    tunnel.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")).await;
    tunnel.send("sevenup").await;
    assert_eq!(tunnel.until(b"four").await, b"four");
    assert_eq!((bytes("received"), house.metric("codius_edge_tunnels")), (14.0, 1.0));
    within("what was sent to be counted", async {
        while bytes("sent") < 15.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
