//! The sockets the edge listens on: its own, and those that were there before it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use codiusd_proxy::{Edge, EdgeConfig, Inherited, ListenError, RouteTable, StartError};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::kit::{Client, EdgeFixture, Pod, within};
use crate::secure::{Authority, TlsFixture, shown};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn inherited(name: &str, socket: &TcpListener) -> Inherited {
    Inherited { label: "fd 3".into(), name: name.into(), socket: socket.try_clone().unwrap() }
}

async fn ask(address: SocketAddr, request: &str) -> u16 {
    let mut client = Client { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() };
    client.ask(request).await.status
}

#[tokio::test]
async fn inherited_sockets_are_found_by_address_or_by_name() {
    let routes = Arc::new(RouteTable::new());
    let (socket, address) = socket();
    let by_address = EdgeFixture::shaped(Arc::clone(&routes), |config| EdgeConfig {
        listen: address,
        inherited: vec![inherited("codiusd.socket", &socket)],
        ..config
    });
    by_address.control(|stream| crate::kit::mirror(stream, "control"));
    assert_eq!(by_address.edge.address(), address);
    assert_eq!(ask(address, REQUEST).await, 200);

    let sockets = [self::socket(), self::socket()];
    let by_name = EdgeFixture::shaped(routes, |config| EdgeConfig {
        inherited: sockets.iter().map(|(socket, _)| inherited("http", socket)).collect(),
        ..config
    });
    by_name.control(|stream| crate::kit::mirror(stream, "control"));
    assert_eq!(by_name.edge.address(), sockets[0].1);
    for (_, address) in &sockets {
        assert_eq!(ask(*address, REQUEST).await, 200);
    }
}

#[tokio::test]
async fn https_has_a_name_of_its_own() {
    let authority = Authority::new();
    let files = vec![authority.issue("main", &["localhost"])];
    let (socket, address) = socket();
    let secure = TlsFixture::shaped(authority, files, |config| EdgeConfig { inherited: vec![inherited("https", &socket)], ..config }).await;
    assert_eq!(secure.fixture.edge.tls_addresses(), [address]);
    let stream = secure.handshake(&secure.authority.client(&["h2"]), "localhost").await.unwrap();
    assert!(!shown(&stream).is_empty());
}

#[tokio::test]
async fn a_socket_for_nothing_is_named() {
    let (socket, address) = socket();
    let refused = |config: EdgeConfig| Edge::start(config, Arc::new(RouteTable::new()), &prometheus::Registry::new()).unwrap_err();
    let fixture = EdgeFixture::new().await;
    let config = |inherited, proxy_protocol| EdgeConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        inherited,
        proxy_protocol,
        control_socket: "/nonexistent".into(),
        threads: 1,
        tls: None,
        limits: codiusd_proxy::Limits::default(),
        policy: codiusd_proxy::Policy::default(),
        access_log: None,
        supervisor: codiusd_supervisor::Supervisor::default(),
    };
    for name in ["", "codiusd.socket", "https"] {
        let error = refused(config(vec![inherited(name, &socket)], Vec::new()));
        assert!(matches!(&error, StartError::Listen(ListenError::Unwanted { address: at, .. }) if *at == address), "{error:?}");
        assert!(error.to_string().contains(&format!("fd 3 ({name:?}, {address})")), "{error}");
    }
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let error = refused(config(vec![inherited("http", &deaf.into())], Vec::new()));
    assert!(matches!(error, StartError::Listen(ListenError::Unusable { .. })), "{error:?}");
    let error = refused(config(Vec::new(), vec![fixture.edge.address()]));
    assert!(matches!(error, StartError::Listen(ListenError::NoSuchListener(at)) if at == fixture.edge.address()), "{error:?}");
}

#[tokio::test]
async fn one_port_serves_ipv4_and_ipv6() {
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let authority = Authority::new();
    let files = vec![authority.issue("main", &["localhost"])];
    let secure = TlsFixture::shaped(authority, files, |mut config| {
        let listen = ["0.0.0.0", "::"].map(|address| SocketAddr::new(address.parse().unwrap(), port));
        config.tls = config.tls.map(|tls| codiusd_proxy::TlsConfig { listen: listen.to_vec(), ..tls });
        config.inherited = vec![inherited("", &socket)];
        config
    })
    .await;
    assert_eq!(secure.fixture.edge.tls_addresses().len(), 2);
    for loopback in ["127.0.0.1", "::1"] {
        within("a connection", TcpStream::connect((loopback, port))).await.unwrap();
    }
}

/// Clients that ask on a new connection each time, until told to stop.
struct Askers {
    answered: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<(), String>>,
}

impl Askers {
    fn start(count: usize, address: SocketAddr, host: &str) -> Askers {
        let mut askers = Askers { answered: Arc::default(), stop: Arc::default(), tasks: JoinSet::new() };
        for _ in 0..count {
            let (answered, stop) = (Arc::clone(&askers.answered), Arc::clone(&askers.stop));
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            askers.tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let status = within("an answer", once(address, &request)).await?;
                    assert_eq!(status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        askers
    }

    /// Waits until so many more have been answered.
    async fn go_on(&mut self, answers: u32) {
        let goal = self.answered.load(Ordering::Relaxed) + answers;
        within("more answers", async {
            while self.answered.load(Ordering::Relaxed) < goal {
                tokio::select! {
                    failed = self.tasks.join_next() => panic!("{failed:?} after {} answers", self.answered.load(Ordering::Relaxed)),
                    () = tokio::task::yield_now() => {}
                }
            }
        })
        .await;
    }

    async fn finish(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let ended = within("the clients", self.tasks.join_all()).await;
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
        self.answered.load(Ordering::Relaxed)
    }
}

async fn once(address: SocketAddr, request: &str) -> Result<u16, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    // The edge may be told to stop between the two.
    tokio::task::yield_now().await;
    Client { stream, buffer: Vec::new() }.try_ask(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_stays_loses_nobody_when_edges_change() {
    let (socket, address) = socket();
    let routes = Arc::new(RouteTable::new());
    let edge = || EdgeFixture::shaped(Arc::clone(&routes), |config| EdgeConfig { inherited: vec![inherited("http", &socket)], ..config });
    let pod = Pod::mirror().await;
    let mut fixture = edge();
    let host = fixture.publish(1, pod.address);
    let mut clients = Askers::start(8, address, &host);
    for _ in 0..10 {
        clients.go_on(20).await;
        within("the drain", fixture.edge.drain(Duration::from_secs(15))).await;
        fixture = edge();
    }
    clients.go_on(20).await;
    assert!(clients.finish().await >= 220);
}
