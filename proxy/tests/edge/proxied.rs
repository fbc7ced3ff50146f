//! Connections that come through a proxy in front, with a PROXY protocol header: from raw bytes, and from haproxy.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use codiusd_net::Cidr;
use codiusd_proxy::{EdgeConfig, Limits, Policy, RouteTable};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::kit::{Client, EdgeFixture, mirror, within};
use crate::secure::{Authority, TlsFixture};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n";

fn trusting(proxies: &[&str]) -> Policy {
    let trusted_proxies: Vec<Cidr> = proxies.iter().map(|network| network.parse().unwrap()).collect();
    Policy { trusted_proxies, uncounted: Vec::new(), ..Policy::default() }
}

/// A fixture whose plain listener takes PROXY protocol from loopback.
fn proxied(limits: Limits, policy: Policy) -> EdgeFixture {
    let fixture = EdgeFixture::shaped(Arc::new(RouteTable::new()), |config| EdgeConfig {
        proxy_protocol: vec![config.listen],
        limits,
        policy,
        ..config
    });
    fixture.control(|stream| mirror(stream, "control"));
    fixture
}

/// A header of version 2 for a client at this address.
fn v2(client: [u8; 4]) -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f";
    [&signature[..], &client, &[127, 0, 0, 1], &[0x30, 0x39, 0, 80], &[0x20, 0, 0]].concat()
}

/// What the control plane was told in X-Forwarded-For.
fn forwarded_for(answer: &str) -> &str {
    answer.lines().find_map(|line| line.strip_prefix("x-forwarded-for: ")).unwrap()
}

#[tokio::test]
async fn the_client_is_whom_the_header_names() {
    let fixture = proxied(Limits::default(), trusting(&["127.0.0.0/8"]));
    let table: [(&[u8], &str); 5] = [
        (b"PROXY TCP4 203.0.113.7 127.0.0.1 5 80\r\n", "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 5 80\r\n", "2001:db8::7"),
        (&v2([203, 0, 113, 8]), "203.0.113.8"),
        (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 5 80\r\n", "203.0.113.7"),
        // The proxy itself, whose X-Forwarded-For is believed as on any listener.
        (b"PROXY UNKNOWN\r\n", "192.0.2.66, 127.0.0.1"),
    ];
    for (header, client) in table {
        // In one piece: what stands behind the header is the client's.
        let mut together = fixture.connect().await;
        together.stream.write_all(&[header, REQUEST.as_bytes()].concat()).await.unwrap();
        assert_eq!(forwarded_for(&together.answer(false).await.body), client);
        assert_eq!(forwarded_for(&together.ask(REQUEST).await.body), client, "all requests of a connection are one client's");
        let mut bytewise = fixture.connect().await;
        bytewise.stream.set_nodelay(true).unwrap();
        for byte in [header, REQUEST.as_bytes()].concat() {
            bytewise.stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(forwarded_for(&bytewise.answer(false).await.body), client);
    }
}

#[tokio::test]
async fn what_begins_with_no_header_is_closed_and_counted() {
    let fixture = proxied(Limits { header_deadline: Duration::from_millis(300), ..Limits::default() }, trusting(&["127.0.0.0/8"]));
    let cut = || fixture.counted("codius_edge_connections_cut_total", &[("reason", "proxy_header")]);
    let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
    for (number, bytes) in [REQUEST, "PROXY TCP4 a b 1 2\r\n", &long, "\x16\x03\x01", "PROXY TCP4 203.0.113.7"].into_iter().enumerate() {
        let mut client = fixture.connect().await;
        client.send(bytes).await;
        assert_eq!(client.closed().await, "", "{bytes:?}");
        assert_eq!(cut(), f64::from(u32::try_from(number).unwrap() + 1), "{bytes:?}");
    }
    let mut ended = fixture.connect().await;
    ended.send("PROXY TCP4 203").await;
    ended.stream.shutdown().await.unwrap();
    assert_eq!(ended.closed().await, "");
    assert_eq!(cut(), 6.0);
    assert_eq!(fixture.metric("codius_edge_requests_total"), 0.0);
}

#[tokio::test]
async fn only_trusted_proxies_name_clients() {
    let fixture = proxied(Limits::default(), trusting(&["127.0.0.2/32"]));
    let header = "PROXY TCP4 203.0.113.7 127.0.0.1 5 80\r\n";
    let mut stranger = fixture.connect().await;
    // It may be closed before this is written.
    let _ = stranger.stream.write_all(format!("{header}{REQUEST}").as_bytes()).await;
    assert_eq!(stranger.closed().await, "");
    assert_eq!(fixture.counted("codius_edge_connections_refused_total", &[("reason", "untrusted_peer")]), 1.0);
    let mut trusted = from("127.0.0.2", fixture.edge.address()).await;
    trusted.send(&format!("{header}{REQUEST}")).await;
    assert_eq!(forwarded_for(&trusted.answer(false).await.body), "203.0.113.7");
}

/// A client with this address.
async fn from(client: &str, to: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(client.parse::<IpAddr>().unwrap(), 0)).unwrap();
    Client { stream: within("a connection", socket.connect(to)).await.unwrap(), buffer: Vec::new() }
}

#[tokio::test]
async fn named_clients_have_bounds_of_their_own() {
    let fixture = proxied(Limits { connections_per_client: 1, ..Limits::default() }, trusting(&["127.0.0.0/8"]));
    let connect = async |client: &str| {
        let mut connection = fixture.connect().await;
        connection.send(&format!("PROXY TCP4 {client} 127.0.0.1 5 80\r\n{REQUEST}")).await;
        connection
    };
    let mut first = connect("203.0.113.7").await;
    assert_eq!(first.answer(false).await.status, 200);
    assert_eq!(connect("203.0.113.7").await.closed().await, "");
    assert_eq!(fixture.counted("codius_edge_connections_refused_total", &[("reason", "limit_client")]), 1.0);
    assert_eq!(connect("203.0.113.8").await.answer(false).await.status, 200);
    assert_eq!(connect("203.0.113.9").await.answer(false).await.status, 200);
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// haproxy, passing on by TCP what comes to the returned address.
fn haproxy(to: SocketAddr, option: &str, dir: &std::path::Path) -> (Killed, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = format!(
        "defaults\n mode tcp\n timeout connect 20s\n timeout client 60s\n timeout server 60s\n\
         listen front\n bind fd@3\n server edge {to} {option}\n"
    );
    let file = dir.join(format!("{option}.cfg"));
    fs::write(&file, config).unwrap();
    // It inherits the socket as number 3: no port is guessed, and no connection is too early.
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec haproxy -db -q -f \"$0\" 3<&0 0</dev/null").arg(&file).stdin(Stdio::from(OwnedFd::from(listener)));
    (Killed(command.spawn().unwrap_or_else(|error| panic!("haproxy (deploy/setup test installs it): {error}"))), address)
}

#[tokio::test]
async fn haproxy_names_its_clients_in_both_versions_over_http_and_tls() {
    let authority = Authority::new();
    let files = vec![authority.issue("main", &["localhost"])];
    let dir = tempfile::tempdir().unwrap();
    let secure = TlsFixture::shaped(authority, files, |config| EdgeConfig {
        proxy_protocol: vec!["127.0.0.1:0".parse().unwrap()],
        policy: trusting(&["127.0.0.1/32"]),
        ..config
    })
    .await;
    for (number, option) in ["send-proxy", "send-proxy-v2"].into_iter().enumerate() {
        let client = format!("127.0.0.{}", number + 7);
        let (_plain, address) = haproxy(secure.fixture.edge.address(), option, dir.path());
        let mut plain = from(&client, address).await;
        assert_eq!(forwarded_for(&plain.ask(REQUEST).await.body), client, "{option}");

        let (_tls, address) = haproxy(secure.fixture.edge.tls_addresses()[0], option, dir.path());
        let stream = from(&client, address).await.stream;
        let connector = TlsConnector::from(secure.authority.client(&["http/1.1"]));
        let handshake = connector.connect(ServerName::try_from("localhost").unwrap(), stream);
        let mut stream = within("a handshake through haproxy", handshake).await.unwrap();
        stream.write_all(REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(forwarded_for(&answer), client, "{option}");
    }
}

#[tokio::test]
async fn a_listener_that_did_not_ask_takes_no_header() {
    let fixture = EdgeFixture::under(Limits::default(), trusting(&["127.0.0.0/8"]));
    let mut client = Client { stream: TcpStream::connect(fixture.edge.address()).await.unwrap(), buffer: Vec::new() };
    client.send(&format!("PROXY TCP4 203.0.113.7 127.0.0.1 5 80\r\n{REQUEST}")).await;
    assert_eq!(client.answer(false).await.status, 400);
}
