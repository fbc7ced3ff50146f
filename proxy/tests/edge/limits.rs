//! Bounds on what one client or one pod may take, and what others still get meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use codiusd_proxy::{Limits, Policy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::interval;

use crate::kit::{Client, EdgeFixture, PATIENCE, Pod, mirror, read_head, within};
use crate::waits::{Bound, Halt};

const TICK: Duration = Duration::from_millis(10);

/// An edge that counts clients on loopback like all others.
fn counting(limits: Limits) -> EdgeFixture {
    let fixture = EdgeFixture::under(limits, Policy { uncounted: Vec::new(), ..Policy::default() });
    fixture.control(|stream| mirror(stream, "control"));
    fixture
}

/// A client at `address`, one of the machine's many on loopback.
async fn client_at(fixture: &EdgeFixture, address: &str) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    Client { stream: socket.connect(fixture.edge.address()).await.unwrap(), buffer: Vec::new() }
}

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Sends `request` so often, without waiting in between, and counts the answers that are 200; all others must be 429.
async fn passed(client: &mut Client, request: &str, times: usize) -> usize {
    client.send(&request.repeat(times)).await;
    let mut passed = 0;
    for _ in 0..times {
        let answer = client.answer(false).await;
        match answer.status {
            200 => passed += 1,
            429 => assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    passed
}

/// What a rate of `per_second` lets pass since `begun` at most: the second begun, a burst before it, and the one under way.
fn at_most(per_second: usize, begun: Instant) -> usize {
    per_second * (usize::try_from(begun.elapsed().as_secs()).unwrap() + 3)
}

#[tokio::test]
async fn one_client_cannot_send_for_all() {
    let fixture = counting(Limits { requests_per_client: 5, ..Limits::default() });
    let begun = Instant::now();
    let mut eager = client_at(&fixture, "127.0.0.2").await;
    let got = passed(&mut eager, &get("localhost"), 200).await;
    assert!((5..=at_most(5, begun)).contains(&got), "{got} passed");
    assert_eq!(passed(&mut client_at(&fixture, "127.0.0.3").await, &get("localhost"), 5).await, 5);
    assert!(fixture.metric("codius_edge_faults_total") >= 100.0);
}

#[tokio::test]
async fn clients_behind_a_proxy_are_told_apart_and_tools_on_the_machine_are_not_counted() {
    let limits = Limits { requests_per_client: 5, connections_per_client: 1, ..Limits::default() };
    let fixture = EdgeFixture::under(
        limits,
        Policy { trusted_proxies: vec!["127.0.0.9".parse().unwrap()], uncounted: vec!["127.0.0.2".parse().unwrap()], ..Policy::default() },
    );
    fixture.control(|stream| mirror(stream, "control"));
    let from = |client: &str| format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 127.0.0.1, {client}\r\n\r\n");
    let begun = Instant::now();
    let mut proxy = client_at(&fixture, "127.0.0.9").await;
    let got = passed(&mut proxy, &from("192.0.2.1"), 200).await;
    assert!((5..=at_most(5, begun)).contains(&got), "{got} passed");
    assert_eq!(passed(&mut proxy, &from("192.0.2.2"), 5).await, 5);
    assert_eq!(passed(&mut client_at(&fixture, "127.0.0.9").await, &from("192.0.2.3"), 5).await, 5, "a second connection of the proxy");
    let mut tool = client_at(&fixture, "127.0.0.2").await;
    assert_eq!(passed(&mut tool, &from("192.0.2.1"), 200).await, 200, "what it says of clients is not believed");
}

#[tokio::test]
async fn one_pod_cannot_get_for_all() {
    let fixture = EdgeFixture::with(Limits { requests_per_pod: 5, ..Limits::default() }).await;
    let (busy, other) = (Pod::mirror().await, Pod::mirror().await);
    let (busy, other) = (fixture.publish(1, busy.address), fixture.publish(2, other.address));
    let begun = Instant::now();
    let mut client = fixture.connect().await;
    let got = passed(&mut client, &get(&busy), 200).await;
    assert!((5..=at_most(5, begun)).contains(&got), "{got} passed");
    assert_eq!(passed(&mut client, &get(&other), 5).await, 5);
    assert_eq!(passed(&mut client, &get("localhost"), 100).await, 100, "the control plane has no such bound");
}

#[tokio::test]
async fn one_client_cannot_hold_all_connections() {
    let fixture = counting(Limits { connections_per_client: 2, ..Limits::default() });
    let (mut first, mut second) = (client_at(&fixture, "127.0.0.2").await, client_at(&fixture, "127.0.0.2").await);
    for held in [&mut first, &mut second] {
        assert_eq!(held.ask(&get("localhost")).await.status, 200);
    }
    assert_eq!(client_at(&fixture, "127.0.0.2").await.closed().await, "");
    assert_eq!(fixture.metric("codius_edge_connections_refused_total"), 1.0);
    assert_eq!(client_at(&fixture, "127.0.0.3").await.ask(&get("localhost")).await.status, 200);
    drop(first);
    within("the place to be free", async {
        while fixture.metric("codius_edge_connections") > 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(client_at(&fixture, "127.0.0.2").await.ask(&get("localhost")).await.status, 200);
}

#[tokio::test]
async fn the_control_plane_is_not_sent_more_than_it_may_get() {
    let fixture = EdgeFixture::with(Limits { control_body_bytes: 1000, ..Limits::default() }).await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let sized =
        |host: &str, length: usize| format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    assert_eq!(fixture.ask(&sized("localhost", 1000)).await.status, 200);
    assert_eq!(fixture.ask(&sized(&name, 1001)).await.status, 200, "a pod decides for itself");
    let announced = fixture.ask("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1001\r\n\r\n").await;
    assert_eq!(announced.status, 413, "before any of it is there");

    let fixture = EdgeFixture::without_control(Limits { control_body_bytes: 1000, ..Limits::default() });
    fixture.control(|mut stream| async move {
        read_head(&mut stream).await;
        let mut body = Vec::new();
        let _reset_counts_too = stream.read_to_end(&mut body).await;
        assert!(body.len() < 1200 && !body.ends_with(b"0\r\n\r\n"), "{} bytes came", body.len());
    });
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    let start = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = fixture.connect().await;
    let answer = client.ask(&format!("{start}{}", chunk.repeat(3))).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(client.closed().await, "");
}

/// Sends one byte per tick until `bytes` are sent, or until the edge has answered.
async fn trickle(client: &mut Client, bytes: usize) {
    let mut ticks = interval(TICK);
    let (mut read, mut write) = client.stream.split();
    let buffer = &mut client.buffer;
    let send = async {
        for _ in 0..bytes {
            ticks.tick().await;
            if write.write_all(b"x").await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = read.read_buf(buffer) => {}
        () = send => {}
    }
}

/// More bytes than a trickle sends within the patience of a test.
const ENDLESS: usize = 1_000_000;

#[tokio::test]
async fn a_body_that_trickles_is_given_up_and_a_slow_one_is_not() {
    let brief = Duration::from_millis(200);
    let pod = Pod::mirror().await;
    for (bytes_per_second, bytes, status) in [(1_000, ENDLESS, 408), (10, 40, 200)] {
        let fixture = EdgeFixture::with(Limits { body_grace: brief, body_bytes_per_second: bytes_per_second, ..Limits::default() }).await;
        let name = fixture.publish(1, pod.address);
        for host in [name.as_str(), "localhost"] {
            let mut client = fixture.connect().await;
            client.send(&format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {bytes}\r\n\r\n")).await;
            within("an answer", trickle(&mut client, bytes)).await;
            assert_eq!(client.answer(false).await.status, status, "{host} at {bytes_per_second} bytes per second");
        }
    }
}

#[tokio::test]
async fn a_client_is_not_blamed_for_a_pod_that_does_not_read() {
    let (brief, halt) = (Duration::from_millis(100), Halt::default());
    let stops = halt.clone();
    let pod = Pod::raw(move |_, mut stream| {
        let halt = stops.clone();
        async move {
            read_head(&mut stream).await;
            halt.stop().await;
            let mut body = vec![0; 8 << 20];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let fixture = EdgeFixture::with(Limits { body_grace: brief, body_bytes_per_second: 1 << 40, ..Limits::default() }).await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    client.send(&format!("POST / HTTP/1.1\r\nHost: {name}\r\nContent-Length: {}\r\n\r\n", 8 << 20)).await;
    let body = "x".repeat(8 << 20);
    let outlasted = async {
        halt.reached().await;
        for _ in 0..3 {
            fixture.outlast(Bound::BodyGrace).await;
        }
        halt.let_go();
    };
    tokio::join!(client.send(&body), outlasted);
    assert_eq!(client.answer(false).await.status, 200);
}

#[tokio::test]
async fn a_head_that_trickles_is_closed_at_its_deadline() {
    let fixture = EdgeFixture::with(Limits { header_deadline: Duration::from_millis(200), ..Limits::default() }).await;
    let mut client = fixture.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\nX: ").await;
    let begun = Instant::now();
    within("the edge to close", trickle(&mut client, ENDLESS)).await;
    assert!(begun.elapsed() < PATIENCE / 2);
    assert_eq!(client.closed().await, "");
    let cut = |reason| fixture.counted("codius_edge_connections_cut_total", &[("reason", reason)]);
    assert_eq!((cut("header_deadline"), cut("malformed")), (1.0, 0.0));
    assert_eq!(fixture.ask("GET / HTTP/1.1\r\nX : a\r\n\r\n").await.status, 400);
    within("the malformed request to be counted", async {
        while cut("malformed") < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_pod_cannot_hold_all_tunnels() {
    let fixture = EdgeFixture::with(Limits { tunnels_per_pod: 1, ..Limits::default() }).await;
    let switching = || {
        Pod::raw(|_, mut stream| async move {
            while let Some(head) = read_head(&mut stream).await {
                if head.contains("upgrade: x") {
                    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await.unwrap();
                    let mut byte = [0];
                    let _ended = stream.read(&mut byte).await;
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        })
    };
    let (one, other) = (switching().await, switching().await);
    let (one, other) = (fixture.publish(1, one.address), fixture.publish(2, other.address));
    let upgrade = |name: &str| format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut tunnel = fixture.connect().await;
    assert_eq!(tunnel.ask(&upgrade(&one)).await.status, 101);
    let refused = fixture.ask(&upgrade(&one)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert_eq!(fixture.ask(&get(&one)).await.status, 200);
    let mut neighbour = fixture.connect().await;
    assert_eq!(neighbour.ask(&upgrade(&other)).await.status, 101);
    drop(tunnel);
    within("the tunnel to end", async {
        while fixture.metric("codius_edge_tunnels") > 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(fixture.connect().await.ask(&upgrade(&one)).await.status, 101);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
    const LENGTH: usize = 16 << 20;
    let fixture = EdgeFixture::with(Limits { send_stall: Duration::from_millis(300), ..Limits::default() }).await;
    let (ended, mut results) = tokio::sync::mpsc::unbounded_channel();
    let pod = Pod::raw(move |_, mut stream| {
        let ended = ended.clone();
        async move {
            let head = read_head(&mut stream).await.unwrap();
            let start = if head.contains("upgrade: x") {
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_owned()
            } else {
                format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n")
            };
            stream.write_all(start.as_bytes()).await.unwrap();
            let block = vec![b'x'; 1 << 16];
            let mut left = LENGTH;
            while left > 0 && stream.write_all(&block).await.is_ok() {
                left -= block.len();
            }
            ended.send(left).unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let switching = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    for request in [get(&name), switching] {
        let mut deaf = fixture.connect().await;
        deaf.send(&request).await;
        let left = within("the pod to be let go", results.recv()).await.unwrap();
        assert!(left > 0, "the client took nothing");
    }
    assert_eq!(fixture.counted("codius_edge_connections_cut_total", &[("reason", "send_stall")]), 2.0);

    let mut slow = fixture.connect().await;
    slow.send(&get(&name)).await;
    slow.head().await;
    let mut ticks = interval(TICK);
    let mut block = vec![0; 1 << 18];
    let mut received = slow.buffer.len();
    while received < LENGTH {
        ticks.tick().await;
        let count = within("more", slow.stream.read(&mut block)).await.unwrap();
        assert!(count > 0, "closed after {received}");
        received += count;
    }
    assert_eq!(received, LENGTH);
}
