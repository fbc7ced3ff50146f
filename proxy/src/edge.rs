//! The pingora services: one for plain HTTP and, if it is wanted, one for TLS, each with a runtime of `threads` workers; and the drain.
//!
//! The listening sockets are bound here and handed to pingora's listening `Service` through its table of inherited sockets
//! (`ListenFds`): so port 0 works, "address in use" is an error of [`Edge::start`], and the accept loop stays pingora's own.
//!
//! ```text
//! start --> serving --> drain: stop accepting, finish requests --> deadline: cut the rest --> pingora's server ends
//! ```
//!
//! pingora's own graceful stop sleeps a fixed time even with nothing left to do, and that time must be known at the start; so the
//! drain is done before pingora is told to stop, by a shutdown watch of our own that the listening service is given in place of the server's.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::HeaderValue;
use pingora::apps::ServerApp;
use pingora::listeners::{L4BufferSettings, ListenerConfig, TcpSocketOptions};
use pingora::protocols::{Stream, TcpKeepalive};
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::Service;
use pingora::services::listening::Service as ListeningService;
use tokio::sync::{Mutex, Semaphore, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{AccessLog, Log};
use crate::conn::{self, Conn, Peer};
use crate::gate::Gate;
use crate::h2;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::metrics::handshakes::Watched;
use crate::policy::Policy;
use crate::route::RouteTable;
use crate::tls::{self, Certificates, TlsConfig};
use crate::upstream::{Address, Route};

/// How long pingora's runtimes get to end once nothing is left in them, in seconds.
const RUNTIME_STOP_SECONDS: u64 = 1;
/// How often it is looked whether certificate files have changed.
const CERTIFICATES_LOOK: Duration = Duration::from_secs(2);
/// A client that has vanished is noticed after 60 s + 6 x 10 s.
const CLIENT_PROBE: TcpKeepalive =
    TcpKeepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6, user_timeout: Duration::ZERO };

/// What an [`Edge`] needs to know.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The control plane's unix socket, connected to when a request needs it.
    pub control_socket: PathBuf,
    /// Worker threads for plain HTTP, and as many for TLS; at least 1.
    pub threads: usize,
    /// Listeners for TLS; none: there are none.
    pub tls: Option<TlsConfig>,
    /// Bounds.
    pub limits: Limits,
    /// Whom is believed, counted and connected to.
    pub policy: Policy,
    /// A log of requests; none: there is none.
    pub access_log: Option<AccessLog>,
}

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is in use, not ours, or privileged.
    #[error("cannot listen on {address}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The machine has no randomness to seal sessions with.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The registry has these metrics already.
    #[error("cannot register the edge's metrics")]
    Metrics(#[source] prometheus::Error),
    /// The access log's file can't be opened.
    #[error("cannot open the access log")]
    AccessLog(#[source] io::Error),
    /// No thread for the server.
    #[error("cannot start the edge's thread")]
    Thread(#[source] io::Error),
}

/// A running edge. Dropping it stops it at once; [`drain`](Edge::drain) is the polite way.
#[derive(Debug)]
pub struct Edge {
    address: SocketAddr,
    tls_addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    stop_accepting: watch::Sender<bool>,
    end: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

/// What all connections of one edge share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) control: Arc<Route>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) access: Option<Log>,
    /// The port of https that requests over plain HTTP are sent to.
    pub(crate) redirect: Option<u16>,
    /// What is said to browsers over https.
    pub(crate) hsts: Option<HeaderValue>,
    /// Places for idle upstream connections.
    pub(crate) room: Arc<Semaphore>,
    /// Whom is believed, counted and connected to.
    pub(crate) policy: Policy,
    /// Counts client connections and requests.
    pub(crate) gate: Gate,
    /// Client connections and tunnels.
    pub(crate) tasks: TaskTracker,
    /// The drain's deadline has come.
    pub(crate) cut: CancellationToken,
}

impl Edge {
    /// Binds, and serves on threads of its own; never blocks the caller's runtime. The control plane need not be up yet.
    pub fn start(config: EdgeConfig, routes: Arc<RouteTable>, registry: &prometheus::Registry) -> Result<Edge, StartError> {
        let (plain, address) = bind(config.listen)?;
        let tls_listen = config.tls.iter().flat_map(|tls| &tls.listen);
        let secure = tls_listen.map(|listen| bind(*listen)).collect::<Result<Vec<_>, StartError>>()?;
        let tls_addresses: Vec<SocketAddr> = secure.iter().map(|(_, address)| *address).collect();
        let redirect = config.tls.as_ref().filter(|tls| tls.redirect);
        let hsts = config.tls.as_ref().map_or(0, |tls| tls.hsts_seconds);
        let metrics = Metrics::register(registry).map_err(StartError::Metrics)?;
        if let Some(tls) = &config.tls {
            Watched::register(Arc::clone(&tls.certificates), registry).map_err(StartError::Metrics)?;
        }
        let access = config.access_log.map(|log| Log::open(&log, metrics.log_dropped.clone()));
        let shared = Arc::new(Shared {
            routes,
            control: Arc::new(Route::new(Address::Unix(config.control_socket))),
            room: Arc::new(Semaphore::new(config.limits.idle_upstream)),
            gate: Gate::new(&config.limits),
            policy: config.policy,
            limits: config.limits,
            metrics,
            access: access.transpose().map_err(StartError::AccessLog)?,
            redirect: redirect.and_then(|tls| tls.public_port.or_else(|| tls_addresses.first().map(SocketAddr::port))),
            hsts: (hsts > 0).then(|| HeaderValue::from_str(&format!("max-age={hsts}")).ok()).flatten(),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
        });
        let (stop_accepting, stopping) = watch::channel(false);
        let (end, ended) = oneshot::channel();
        let app = |acceptor| App { shared: Arc::clone(&shared), acceptor };
        let mut services = vec![Listening::new("edge", vec![(plain, address)], app(None), stopping.clone())];
        if let Some(tls) = config.tls {
            let acceptor = tls::acceptor(Arc::clone(&tls.certificates)).map_err(StartError::Tls)?;
            let mut listening = Listening::new("edge-tls", secure, app(Some(acceptor)), stopping);
            listening.certificates = Some(tls.certificates);
            services.push(listening);
        }
        let threads = config.threads.max(1);
        let server =
            std::thread::Builder::new().name("edge".into()).spawn(move || run(services, threads, ended)).map_err(StartError::Thread)?;
        Ok(Edge { address, tls_addresses, shared, stop_accepting, end, server })
    }

    /// The address it listens on for plain HTTP, port included.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses it listens on for TLS, in the order they were configured.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Opens the access log's file again, once what waits for it is written: whoever rotates it has moved it away.
    pub fn reopen_access_log(&self) {
        self.shared.access.as_ref().inspect(|log| log.reopen());
    }

    /// Stops accepting, closes idle connections, lets requests in flight and tunnels go on until `deadline` has passed, cuts what is
    /// left, and returns when every thread has ended.
    pub async fn drain(self, deadline: Duration) {
        self.stop_accepting.send_replace(true);
        self.shared.tasks.close();
        if tokio::time::timeout(deadline, self.shared.tasks.wait()).await.is_err() {
            tracing::info!(left = self.shared.tasks.len(), "edge drain deadline: cutting the connections left");
            self.shared.cut.cancel();
            self.shared.tasks.wait().await;
        }
        drop(self.end);
        let (server, shared) = (self.server, self.shared);
        let joined = tokio::task::spawn_blocking(move || {
            let joined = server.join();
            shared.access.as_ref().inspect(|log| log.close());
            joined
        })
        .await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the edge's thread panicked");
        }
    }
}

fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// pingora's server, to its end.
fn run(services: Vec<Listening>, threads: usize, ended: oneshot::Receiver<()>) {
    let conf = ServerConf {
        threads,
        // Not `false`: those runtimes are found through a thread-local that outlives its thread, so a second edge in one process
        // would now and then hand a connection to the first one's runtime, which is gone.
        work_stealing: true,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(RUNTIME_STOP_SECONDS),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    for service in services {
        server.add_service(service);
    }
    server.run(RunArgs { shutdown_signal: Box::new(Ended(Mutex::new(ended))) });
}

/// Stops pingora when the [`Edge`] lets go of its end of the channel, instead of on signals, which belong to the process.
#[derive(Debug)]
struct Ended(Mutex<oneshot::Receiver<()>>);

#[async_trait]
impl ShutdownSignalWatch for Ended {
    async fn recv(&self) -> ShutdownSignal {
        let _gone = (&mut *self.0.lock().await).await;
        ShutdownSignal::GracefulTerminate
    }
}

/// pingora's listening service, given our sockets and our shutdown watch; it also tidies idle upstream connections, or looks after
/// certificates.
struct Listening {
    inner: ListeningService<App>,
    shared: Arc<Shared>,
    sockets: Vec<(TcpListener, SocketAddr)>,
    stopping: ShutdownWatch,
    certificates: Option<Arc<Certificates>>,
}

impl Listening {
    fn new(name: &str, sockets: Vec<(TcpListener, SocketAddr)>, app: App, stopping: ShutdownWatch) -> Listening {
        let shared = Arc::clone(&app.shared);
        let mut inner = ListeningService::new(name.into(), app);
        for (_, address) in &sockets {
            let mut options = TcpSocketOptions::default();
            options.tcp_keepalive = Some(CLIENT_PROBE);
            // hyper buffers; a second buffer would only cost copies and memory.
            let config = ListenerConfig::tcp(address.to_string()).tcp_socket_options(options).l4_buffer(L4BufferSettings::unbuffered());
            inner.add_listener(config);
        }
        Listening { inner, shared, sockets, stopping, certificates: None }
    }
}

#[async_trait]
impl Service for Listening {
    async fn start_service(&mut self, sockets: Option<ListenFds>, shutdown: ShutdownWatch, listeners_per_fd: usize) {
        if let Some(sockets) = &sockets {
            let mut inherited = sockets.lock();
            for (listener, address) in self.sockets.drain(..) {
                inherited.add(address.to_string(), listener.into_raw_fd());
            }
        }
        match self.certificates.take() {
            Some(certificates) => tokio::spawn(look_after(certificates, shutdown)),
            None => tokio::spawn(tidy(Arc::clone(&self.shared), shutdown)),
        };
        self.inner.start_service(sockets, self.stopping.clone(), listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.inner.listen_addresses()
    }
}

/// Closes upstream connections that have been idle too long, until the server stops.
async fn tidy(shared: Arc<Shared>, mut shutdown: ShutdownWatch) {
    let age = shared.limits.idle_upstream_timeout;
    let mut ticks = tokio::time::interval((age / 4).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let now = Instant::now();
                shared.control.reap(now, age);
                shared.routes.for_each_route(|route| route.reap(now, age));
            }
            _ = shutdown.changed() => return,
        }
    }
}

/// Reads certificates again when their files have changed, until the server stops.
async fn look_after(certificates: Arc<Certificates>, mut shutdown: ShutdownWatch) {
    let mut ticks = tokio::time::interval(CERTIFICATES_LOOK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let certificates = Arc::clone(&certificates);
                if tokio::task::spawn_blocking(move || certificates.refresh_if_changed()).await.is_err() {
                    tracing::error!("looking after the certificates failed");
                }
            }
            _ = shutdown.changed() => return,
        }
    }
}

/// What pingora calls for each accepted connection.
struct App {
    shared: Arc<Shared>,
    acceptor: Option<TlsAcceptor>,
}

#[async_trait]
impl ServerApp for App {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let shared = Arc::clone(&self.shared);
        let socket = stream.get_socket_digest();
        let address = socket.as_ref().and_then(|socket| socket.peer_addr().and_then(|peer| peer.as_inet().copied()))?;
        let peer = Peer { address: address.ip().to_canonical(), socket };
        let place = match shared.gate.connection(peer.address, &shared.policy, &shared.limits) {
            Ok(place) => place,
            Err(full) => {
                shared.metrics.turned_away(full);
                return None;
            }
        };
        let tracked = shared.tasks.token();
        let shutdown = shutdown.clone();
        match &self.acceptor {
            None => conn::serve(Arc::new(Conn::new(shared, peer, None, place)), stream, shutdown).await,
            Some(acceptor) => {
                let secured = tokio::select! {
                    secured = tls::accept(acceptor, stream, shared.limits.handshake, &shared.metrics.handshakes) => secured?,
                    () = shared.cut.cancelled() => return None,
                };
                let conn = Arc::new(Conn::new(shared, peer, Some(secured.facts), place));
                if secured.is_h2 {
                    h2::serve(conn, secured.stream, shutdown).await;
                } else {
                    conn::serve(conn, secured.stream, shutdown).await;
                }
            }
        }
        drop(tracked);
        None
    }
}
