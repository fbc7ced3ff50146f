//! Clients that take what they are sent, but hardly.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use codiusd_proxy::Limits;
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Interval, interval};
use tokio_rustls::TlsConnector;

use crate::kit::{EdgeFixture, Pod, read_head, within};
use crate::secure::{TlsFixture, get};

/// Bytes a slow reader takes in one of its turns.
const BITE: usize = 64;
const TURN: Duration = Duration::from_millis(10);

/// Much more than a slow reader takes in a second, and not long until that counts. That it takes some is never in doubt.
fn strict() -> Limits {
    Limits { send_bytes_per_second: 1 << 20, send_grace: Duration::from_millis(300), ..Limits::default() }
}

/// A connection that is read slowly, into buffers that are small.
struct Slow {
    stream: TcpStream,
    turns: Interval,
}

impl Slow {
    async fn connect(address: std::net::SocketAddr) -> Slow {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Slow { stream: socket.connect(address).await.unwrap(), turns: interval(TURN) }
    }
}

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.turns.poll_tick(cx));
        let mut bite = [0; BITE];
        let mut read = ReadBuf::new(&mut bite[..BITE.min(buf.remaining())]);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut read);
        buf.put_slice(read.filled());
        polled
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Sends without end, and says when it is let go.
async fn endless() -> (Pod, UnboundedReceiver<()>) {
    let (ended, let_go) = unbounded_channel();
    let pod = Pod::raw(move |_, mut stream| {
        let ended = ended.clone();
        async move {
            let head = read_head(&mut stream).await.unwrap();
            let start: &[u8] = if head.contains("upgrade: x") {
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\n\r\n"
            };
            stream.write_all(start).await.unwrap();
            while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
            ended.send(()).unwrap();
        }
    })
    .await;
    (pod, let_go)
}

fn cut(fixture: &EdgeFixture) -> [f64; 2] {
    ["send_too_slow", "send_stall"].map(|reason| fixture.counted("codius_edge_connections_cut_total", &[("reason", reason)]))
}

#[tokio::test]
async fn an_answer_that_is_hardly_read_is_cut_and_a_tunnel_is_not() {
    let fixture = EdgeFixture::with(strict()).await;
    let (pod, mut let_go) = endless().await;
    let name = fixture.publish(1, pod.address);
    let mut tunnel = Slow::connect(fixture.edge.address()).await;
    let switch = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    tunnel.write_all(switch.as_bytes()).await.unwrap();
    // The tunnel is as slow for as long as two answers, one after the other.
    for number in [1.0, 2.0] {
        let mut answer = Slow::connect(fixture.edge.address()).await;
        answer.write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes()).await.unwrap();
        let reads = async {
            let (mut one, mut other) = ([0; BITE], [0; BITE]);
            loop {
                assert!(tunnel.read(&mut one).await.unwrap() > 0, "the tunnel was cut");
                let _cut = answer.read(&mut other).await;
            }
        };
        tokio::select! {
            () = within("the pod to be let go", async { let_go.recv().await.unwrap() }) => {}
            () = reads => {}
        }
        assert_eq!((cut(&fixture), fixture.metric("codius_edge_tunnels")), ([number, 0.0], 1.0));
    }
}

#[tokio::test]
async fn a_pod_that_has_little_to_say_is_not_its_clients_fault() {
    const PIECES: u32 = 4;
    let (say, said) = watch::channel(0);
    let pod = Pod::raw(move |_, mut stream| {
        let mut said = said.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {PIECES}\r\n\r\n").as_bytes()).await.unwrap();
            for number in 1..=PIECES {
                said.wait_for(|said| *said >= number).await.unwrap();
                stream.write_all(b"x").await.unwrap();
            }
        }
    })
    .await;
    let (talker, mut let_go) = endless().await;
    // A client over HTTP/2 is first looked at when its first request could be late.
    let fixture = TlsFixture::with(Limits { header_deadline: Duration::from_millis(200), ..strict() }, |_| {}).await;
    let (name, talkers) = (fixture.publish(1, pod.address), fixture.publish(2, talker.address));
    let mut plain = fixture.fixture.connect().await;
    plain.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    plain.head().await;
    let response = within("an answer", fixture.h2(&name).await.send_request(get(&name, "/"))).await.unwrap();
    let mut body = response.into_body();
    for number in 1..=PIECES {
        // The client's grace is over between two pieces, and in sum several times: somebody else who comes now has none left.
        let mut deaf = Slow::connect(fixture.fixture.edge.address()).await;
        deaf.write_all(format!("GET / HTTP/1.1\r\nHost: {talkers}\r\n\r\n").as_bytes()).await.unwrap();
        within("the deaf client to be cut", let_go.recv()).await.unwrap();
        say.send_replace(number);
        plain.fill(usize::try_from(number).unwrap()).await;
        assert_eq!(within("a piece", body.frame()).await.unwrap().unwrap().into_data().unwrap(), "x");
    }
    assert!(within("the end", body.frame()).await.is_none_or(|frame| frame.unwrap().is_data()));
    assert_eq!(plain.buffer, b"xxxx");
    assert_eq!(cut(&fixture.fixture), [f64::from(PIECES), 0.0]);
}

/// What a client over HTTP/2 reads slowly is cut, whether it is its socket that it hardly reads, or its windows that it hardly opens.
#[tokio::test]
async fn an_answer_over_http_2_that_is_hardly_read_is_cut() {
    let fixture = TlsFixture::with(Limits { header_deadline: Duration::from_millis(200), ..strict() }, |_| {}).await;
    let (pod, mut let_go) = endless().await;
    let name = fixture.publish(1, pod.address);
    let tls = TlsConnector::from(fixture.authority.client(&["h2"]));
    let server = ServerName::try_from(name.clone()).unwrap();

    let slow = Slow::connect(fixture.fixture.edge.tls_addresses()[0]).await;
    let stream = within("the handshake", tls.connect(server, slow)).await.unwrap();
    let windows = 1 << 30;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(windows).initial_connection_window_size(windows);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = within("an answer", sender.send_request(get(&name, "/"))).await.unwrap();
    within("the pod to be let go", let_go.recv()).await.unwrap();
    assert_eq!(cut(&fixture.fixture), [1.0, 0.0]);
    drop(response);

    let mut sender = fixture.h2_narrow(&name, 1024).await;
    let mut body = within("an answer", sender.send_request(get(&name, "/"))).await.unwrap().into_body();
    let reads = async {
        let mut turns = interval(TURN * 5);
        while body.frame().await.is_some_and(|frame| frame.is_ok()) {
            turns.tick().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = within("the pod to be let go", async { let_go.recv().await.unwrap() }) => {}
        () = reads => {}
    }
    assert_eq!(cut(&fixture.fixture), [2.0, 0.0]);
}
