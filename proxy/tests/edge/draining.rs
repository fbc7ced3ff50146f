//! Start, capacity and stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use codiusd_proxy::{Edge, EdgeConfig, Limits, ListenError, RouteTable, StartError};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::kit::{Client, EdgeFixture, PATIENCE, Pod, read_head, within};
use crate::secure::{TlsFixture, get, text};

#[tokio::test]
async fn drain_finishes_what_is_in_flight_and_takes_nothing_new() {
    let fixture = EdgeFixture::new().await;
    let (arrived, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (here, go) = (Arc::clone(&arrived), Arc::clone(&release));
    let pod = Pod::raw(move |_, mut stream| {
        let (here, go) = (Arc::clone(&here), Arc::clone(&go));
        async move {
            read_head(&mut stream).await;
            here.notify_one();
            go.notified().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut idle = fixture.connect().await;
    assert_eq!(idle.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
    let mut busy = fixture.connect().await;
    busy.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    within("the request to reach the pod", arrived.notified()).await;

    let address = fixture.edge.address();
    let drained = tokio::spawn(fixture.edge.drain(Duration::from_secs(30)));
    assert_eq!(idle.closed().await, "");
    within("the listener to be closed", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    release.notify_one();
    let answer = busy.answer(false).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
    assert_eq!(busy.closed().await, "");
    within("the drain to end", drained).await.unwrap();
}

#[tokio::test]
async fn the_deadline_cuts_tunnels_and_hanging_requests() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|number, mut stream| async move {
        read_head(&mut stream).await;
        if number == 0 {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await.unwrap();
        }
        std::future::pending::<()>().await;
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut tunnel = fixture.connect().await;
    let upgrade = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(tunnel.ask(&upgrade).await.status, 101);
    let mut hanging = fixture.connect().await;
    hanging.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    within("the second connection to reach the pod", async {
        while pod.accepted() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let begun = Instant::now();
    within("the drain to end", fixture.edge.drain(Duration::from_millis(300))).await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(tunnel.closed().await, "");
    assert_eq!(hanging.closed().await, "");
}

/// A pod whose requests wait until they may be answered, and a tunnel that echoes.
struct Slow {
    pod: Pod,
    waiting: watch::Receiver<usize>,
    open: watch::Sender<bool>,
}

impl Slow {
    async fn new() -> Slow {
        let (open, opened) = watch::channel(false);
        let (count, waiting) = watch::channel(0);
        let pod = Pod::raw(move |_, mut stream| {
            let (mut opened, count) = (opened.clone(), count.clone());
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    if head.contains("upgrade: x") {
                        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await.unwrap();
                        let (mut from, mut to) = stream.split();
                        tokio::io::copy(&mut from, &mut to).await.unwrap();
                        return;
                    }
                    count.send_modify(|count| *count += 1);
                    opened.wait_for(|opened| *opened).await.unwrap();
                    let path = head.split(' ').nth(1).unwrap();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        })
        .await;
        Slow { pod, waiting, open }
    }
}

const MANY: usize = 16;

/// Every kind of connection at once, all of them busy.
#[tokio::test]
async fn nothing_in_flight_is_lost_over_http1_http2_and_a_tunnel() {
    let mut slow = Slow::new().await;
    let secure = TlsFixture::new().await;
    let name = secure.publish(1, slow.pod.address);
    let TlsFixture { fixture, authority, .. } = secure;
    let (plain, tls) = (fixture.edge.address(), fixture.edge.tls_addresses()[0]);

    let mut tunnel = Client { stream: TcpStream::connect(plain).await.unwrap(), buffer: Vec::new() };
    assert_eq!(tunnel.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")).await.status, 101);

    let mut answers = JoinSet::new();
    for number in 0..MANY {
        let mut client = Client { stream: TcpStream::connect(plain).await.unwrap(), buffer: Vec::new() };
        let request = format!("GET /{number} HTTP/1.1\r\nHost: {name}\r\n\r\n");
        answers.spawn(async move {
            let answer = client.ask(&request).await;
            assert_eq!(answer.header("connection"), Some("close"), "the client is told that no other request is taken");
            assert_eq!(client.closed().await, "");
            (number, answer.status, answer.body)
        });
    }
    let connector = TlsConnector::from(authority.client(&["h2"]));
    let stream = TcpStream::connect(tls).await.unwrap();
    let stream = connector.connect(ServerName::try_from(name.clone()).unwrap(), stream).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let h2_ended = tokio::spawn(connection);
    for number in MANY..2 * MANY {
        let sending = sender.clone().send_request(get(&name, &format!("/{number}")));
        answers.spawn(async move {
            let response = within("an answer over HTTP/2", sending).await.unwrap();
            (number, response.status().as_u16(), text(response).await)
        });
    }
    within("all requests to be in flight", slow.waiting.wait_for(|waiting| *waiting == 2 * MANY)).await.unwrap();

    let drained = tokio::spawn(fixture.edge.drain(PATIENCE));
    within("the listeners to be closed", async {
        while TcpStream::connect(plain).await.is_ok() || TcpStream::connect(tls).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    slow.open.send_replace(true);
    while let Some(answer) = within("all answers", answers.join_next()).await {
        let (number, status, body) = answer.unwrap();
        assert_eq!((status, body), (200, format!("/{number}")));
    }
    within("the HTTP/2 connection to end", h2_ended).await.unwrap().unwrap();
    tunnel.send("still here").await;
    tunnel.fill(10).await;
    assert!(!drained.is_finished(), "a tunnel is waited for");
    drop(tunnel);
    within("the drain to end", drained).await.unwrap();
}

#[tokio::test]
async fn a_request_that_has_begun_to_come_is_still_answered() {
    let fixture = EdgeFixture::new().await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (first, rest) = request.split_at(9);
    let (mut connected, mut begun, mut again) = (fixture.connect().await, fixture.connect().await, fixture.connect().await);
    begun.send(first).await;
    assert_eq!(again.ask(request).await.status, 200);
    within("all to be with the edge", async {
        while fixture.metric("codius_edge_connections") < 3.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let address = fixture.edge.address();
    again.send(first).await;
    let drained = tokio::spawn(fixture.edge.drain(PATIENCE));
    within("the listener to be closed", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(connected.ask(request).await.status, 200);
    for half in [&mut begun, &mut again] {
        half.send(rest).await;
        assert_eq!(half.answer(false).await.status, 200);
    }
    for client in [&mut connected, &mut begun, &mut again] {
        assert_eq!(client.closed().await, "");
    }
    within("the drain to end", drained).await.unwrap();
}

#[tokio::test]
async fn a_client_that_sends_nothing_holds_no_drain_up() {
    let limits = Limits { last_request: Duration::from_millis(200), ..Limits::default() };
    let fixture = EdgeFixture::with(limits).await;
    let mut silent = fixture.connect().await;
    within("it to be with the edge", async {
        while fixture.metric("codius_edge_connections") < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Sooner than the header's deadline of 10 seconds, which is all that ends it otherwise.
    let began = Instant::now();
    within("the drain to end", fixture.edge.drain(Duration::from_secs(15))).await;
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(silent.closed().await, "");
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_counted() {
    let fixture = EdgeFixture::with(Limits { connections: 2, ..Limits::default() }).await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    assert_eq!((first.ask(request).await.status, second.ask(request).await.status), (200, 200));
    assert_eq!(fixture.connect().await.closed().await, "");
    assert_eq!(fixture.metric("codius_edge_connections_refused_total"), 1.0);
    drop(first);
    within("the slot to be free", async {
        while fixture.metric("codius_edge_connections") > 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(fixture.ask(request).await.status, 200);
}

#[tokio::test]
async fn what_prevents_a_start_is_said() {
    let fixture = EdgeFixture::new().await;
    let config = |listen| EdgeConfig::new(listen, "/nonexistent".into());
    let start = |listen, registry: &prometheus::Registry| Edge::start(config(listen), Arc::new(RouteTable::new()), registry);
    let taken = start(fixture.edge.address(), &prometheus::Registry::new());
    assert!(matches!(taken, Err(StartError::Listen(ListenError::Bind { address, .. })) if address == fixture.edge.address()), "{taken:?}");
    let twice = start("127.0.0.1:0".parse().unwrap(), &fixture.registry);
    assert!(matches!(twice, Err(StartError::Metrics(_))), "{twice:?}");
}
