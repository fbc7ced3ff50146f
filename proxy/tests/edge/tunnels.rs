//! Upgraded connections.

use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::{Client, EdgeFixture, Pod, read_head, within};
use crate::waits::Bound;

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";

fn upgrade(name: &str) -> String {
    format!("GET /ws HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n")
}

/// Answers 101 and a first message in one write, before reading anything but the head, then echoes.
async fn eager_echo(mut stream: TcpStream) {
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
    stream.write_all(format!("{SWITCH}first").as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let _gone = tokio::io::copy(&mut read, &mut write).await;
    let _gone = write.shutdown().await;
}

async fn open(fixture: &EdgeFixture, name: &str) -> Client {
    let mut client = fixture.connect().await;
    let answer = client.ask(&upgrade(name)).await;
    assert_eq!((answer.status, answer.header("upgrade"), answer.header("sec-websocket-accept")), (101, Some("websocket"), Some("x")));
    client
}

#[tokio::test]
async fn a_pod_may_switch_and_speak_in_one_breath() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|_, stream| eager_echo(stream)).await;
    let name = fixture.publish(1, pod.address);
    for round in 0..300 {
        let mut client = open(&fixture, &name).await;
        assert_eq!(client.until(b"first").await, b"first");
        let message = format!("message {round}");
        client.send(&message).await;
        assert_eq!(client.until(message.as_bytes()).await, message.as_bytes());
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.closed().await, "");
    }
}

#[tokio::test]
async fn a_client_may_speak_before_the_switch_and_half_close() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        read_head(&mut stream).await.unwrap();
        stream.write_all(SWITCH.as_bytes()).await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        stream.write_all(format!("all: {all}").as_bytes()).await.unwrap();
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    client.send(&format!("{}early ", upgrade(&name))).await;
    assert_eq!(client.answer(false).await.status, 101);
    client.send("late").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.closed().await, "all: early late");
}

#[tokio::test]
async fn silence_in_a_tunnel_is_no_fault() {
    let brief = Duration::from_millis(200);
    let fixture = EdgeFixture::with(Limits { keep_alive: brief, header_deadline: brief, first_byte: brief, ..Limits::default() }).await;
    let pod = Pod::raw(|_, stream| eager_echo(stream)).await;
    let name = fixture.publish(1, pod.address);
    let mut client = open(&fixture, &name).await;
    client.until(b"first").await;
    for _ in 0..2 {
        for bound in [Bound::KeepAlive, Bound::HeaderDeadline, Bound::FirstByte] {
            fixture.outlast(bound).await;
        }
        client.send("still here").await;
        assert_eq!(client.until(b"still here").await, b"still here");
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    for _ in 0..3 {
        let answer = client.ask(&upgrade(&name)).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("upgrade: websocket"), "{answer:?}");
    }
    let stripped = [
        ("GET / HTTP/1.1", "Upgrade: h2c\r\n\r\n"),
        ("GET / HTTP/1.0", "Upgrade: websocket\r\n\r\n"),
        ("POST / HTTP/1.1", "Upgrade: websocket\r\nContent-Length: 2\r\n\r\nhi"),
        ("POST / HTTP/1.1", "Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    ];
    for (line, rest) in stripped {
        let answer = fixture.ask(&format!("{line}\r\nHost: {name}\r\nConnection: upgrade\r\n{rest}")).await;
        assert!(answer.status == 200 && !answer.body.contains("upgrade"), "{answer:?}");
    }
    assert_eq!(fixture.ask(&upgrade(&format!("{}.x", "a".repeat(52)))).await.status, 404);
}

#[tokio::test]
async fn withdrawing_a_pod_ends_its_tunnels_and_answers_after_the_grace() {
    let fixture = EdgeFixture::with(Limits { withdrawn_grace: Duration::from_millis(100), ..Limits::default() }).await;
    let sockets = Pod::raw(|_, stream| eager_echo(stream)).await;
    let events = Pod::raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n").await.unwrap();
        let mut byte = [0];
        assert_eq!(within("the edge to let go", stream.read(&mut byte)).await.unwrap_or(0), 0);
    })
    .await;
    let mut tunnel = open(&fixture, &fixture.publish(1, sockets.address)).await;
    tunnel.until(b"first").await;
    let mut stream = fixture.connect().await;
    stream.send(&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", fixture.publish(2, events.address))).await;
    stream.until(b"data: 1\n\n").await;
    assert_eq!(fixture.metric("codius_edge_tunnels"), 1.0);
    for number in [1, 2] {
        assert!(fixture.routes.withdraw(&codiusd_proxy::PodKey::from_digest([number; 32])));
    }
    assert_eq!(tunnel.closed().await, "");
    assert!(!stream.closed().await.ends_with("0\r\n\r\n"), "a cut answer must not look complete");
}
