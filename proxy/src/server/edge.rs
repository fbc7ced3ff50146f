//! pingora's server with our services in it, and the drain.
//!
//! The listening sockets are opened by `listen` before there is a server: so port 0 works, and "address in use" is an error of
//! [`Edge::prepare`].
//!
//! ```text
//! prepare: clients can connect, and wait --> serve --> drain: stop accepting, finish requests --> deadline: cut the rest --> end
//! ```
//!
//! pingora's own graceful stop sleeps a fixed time even with nothing left to do, and that time must be known at the start; so the
//! drain is done before pingora is told to stop, by a shutdown watch of our own that the listening service is given in place of the server's.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use codiusd_supervisor::{Cause, Supervisor};
use http::HeaderValue;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::shared::Shared;
use crate::downstream::tls::expiry::Watched;
use crate::downstream::tls::{self, TlsConfig};
use crate::policy::gate::Gate;
use crate::policy::limits::Limits;
use crate::policy::trust::Policy;
use crate::request::error_response::Fault;
use crate::routing::table::RouteTable;
use crate::server::listen::{Inherited, ListenError, Listeners};
use crate::server::service::{Chore, Listening};
use crate::telemetry::access::{AccessLog, Log};
use crate::telemetry::metrics::Metrics;
use crate::upstream::route::{Address, Route};

/// The name of the thread that has pingora's server.
const EDGE: &str = "edge";
/// How long pingora's runtimes get to end once nothing is left in them, in seconds.
const RUNTIME_STOP_SECONDS: u64 = 1;

/// What an [`Edge`] needs to know.
#[derive(Debug)]
pub struct EdgeConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Sockets that listen already, for these listeners.
    pub inherited: Vec<Inherited>,
    /// Those of the listeners whose connections begin with a PROXY protocol header, by their addresses as configured or as bound.
    /// There only [`trusted_proxies`](Policy::trusted_proxies) may connect.
    pub proxy_protocol: Vec<SocketAddr>,
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
    /// Notices the end of what must not end.
    pub supervisor: Supervisor,
}

impl EdgeConfig {
    /// One listener, for plain HTTP, with one worker thread; the rest as by default.
    pub fn new(listen: SocketAddr, control_socket: PathBuf) -> EdgeConfig {
        EdgeConfig {
            listen,
            inherited: Vec::new(),
            proxy_protocol: Vec::new(),
            control_socket,
            threads: 1,
            tls: None,
            limits: Limits::default(),
            policy: Policy::default(),
            access_log: None,
            supervisor: Supervisor::default(),
        }
    }
}

/// Why an edge did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no socket to listen on.
    #[error(transparent)]
    Listen(#[from] ListenError),
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

/// An edge whose listeners are open and that serves nobody yet: clients wait in the kernel.
#[derive(Debug)]
pub struct Prepared {
    edge: Parts,
    services: Vec<Listening>,
    threads: usize,
    supervisor: Supervisor,
}

/// A running edge. Dropping it stops it at once; [`drain`](Edge::drain) is the polite way.
#[derive(Debug)]
pub struct Edge {
    parts: Parts,
    end: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Parts {
    address: SocketAddr,
    tls_addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    stop_accepting: watch::Sender<bool>,
    pulse: Pulse,
}

/// Whether the threads that serve do anything at all. Holds nothing of the edge.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// Those of the services that have begun.
    runtimes: Arc<std::sync::Mutex<Vec<Handle>>>,
    services: usize,
}

impl Pulse {
    /// Returns when each service's runtime has run a task. No client can delay that, however many there are: it needs no connection.
    /// False: they haven't begun. An edge that has ended has nothing that could hang.
    pub async fn felt(&self) -> bool {
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for runtime in &runtimes {
            // An error: it has ended.
            let _ = runtime.spawn(async {}).await;
        }
        runtimes.len() == self.services
    }
}

impl Prepared {
    /// The address it listens on for plain HTTP, port included; the first, if there are more.
    pub fn address(&self) -> SocketAddr {
        self.edge.address
    }

    /// Serves, those who have waited first, on threads of its own; never blocks the caller's runtime.
    pub fn serve(self) -> Result<Edge, StartError> {
        let Prepared { edge, services, threads, supervisor } = self;
        let (end, ended) = oneshot::channel();
        let overseer = supervisor.clone();
        let server = supervisor.thread(EDGE, move |_| run(services, threads, ended, &overseer)).map_err(StartError::Thread)?;
        Ok(Edge { parts: edge, end, server })
    }
}

impl Edge {
    /// [Prepares](Edge::prepare) and serves at once.
    pub fn start(config: EdgeConfig, routes: Arc<RouteTable>, registry: &prometheus::Registry) -> Result<Edge, StartError> {
        Edge::prepare(config, routes, registry)?.serve()
    }

    /// Opens the listeners. The control plane need not be up yet.
    pub fn prepare(config: EdgeConfig, routes: Arc<RouteTable>, registry: &prometheus::Registry) -> Result<Prepared, StartError> {
        let secure = config.tls.as_ref().map_or(&[][..], |tls| &tls.listen);
        let Listeners { plain, secure } = Listeners::open(config.listen, secure, &config.proxy_protocol, config.inherited)?;
        let address = plain.first().map_or(config.listen, |listener| listener.address);
        let tls_addresses: Vec<SocketAddr> = secure.iter().map(|listener| listener.address).collect();
        let redirect = config.tls.as_ref().filter(|tls| tls.redirect);
        let hsts = config.tls.as_ref().map_or(0, |tls| tls.hsts_seconds);
        let metrics = Metrics::register(registry, Fault::ALL.iter().map(|fault| fault.label())).map_err(StartError::Metrics)?;
        if let Some(tls) = &config.tls {
            Watched::register(Arc::clone(&tls.certificates), registry).map_err(StartError::Metrics)?;
        }
        let access = config.access_log.map(|log| Log::open(&log, metrics.log_dropped.clone(), &config.supervisor));
        let shared = Arc::new(Shared {
            routes,
            control: Arc::new(Route::new(Address::Unix(config.control_socket))),
            room: Arc::new(Semaphore::new(config.limits.idle_upstream)),
            pipes: Arc::new(Semaphore::new(config.limits.pipes)),
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
        let acceptor = match &config.tls {
            Some(tls) => Some(tls::acceptor(Arc::clone(&tls.certificates)).map_err(StartError::Tls)?),
            None => None,
        };
        let mut services: Vec<Listening> = [("edge", plain, None), ("edge-tls", secure, acceptor)]
            .into_iter()
            .flat_map(|(name, listeners, acceptor)| Listening::of_kind(name, listeners, &shared, acceptor.as_ref(), &stopping))
            .collect();
        let mut chores = vec![Chore::Tidy(Arc::clone(&shared))];
        chores.extend(config.tls.map(|tls| Chore::Certificates(tls.certificates)));
        if let Some(first) = services.first_mut() {
            first.chores = chores;
        }
        let runtimes = Arc::<std::sync::Mutex<Vec<Handle>>>::default();
        for service in &mut services {
            service.runtimes = Arc::clone(&runtimes);
            service.supervisor = config.supervisor.clone();
        }
        let pulse = Pulse { runtimes, services: services.len() };
        let edge = Parts { address, tls_addresses, shared, stop_accepting, pulse };
        Ok(Prepared { edge, services, threads: config.threads.max(1), supervisor: config.supervisor })
    }

    /// The address it listens on for plain HTTP, port included; the first, if there are more.
    pub fn address(&self) -> SocketAddr {
        self.parts.address
    }

    /// The addresses it listens on for TLS, in the order they were configured.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.parts.tls_addresses
    }

    /// Whether its threads serve.
    pub fn pulse(&self) -> Pulse {
        self.parts.pulse.clone()
    }

    /// Opens the access log's file again, once what waits for it is written: whoever rotates it has moved it away.
    pub fn reopen_access_log(&self) {
        self.parts.shared.access.as_ref().inspect(|log| log.reopen());
    }

    /// Stops accepting, closes idle connections, lets requests in flight and tunnels go on until `deadline` has passed, cuts what is
    /// left, and returns when every thread has ended.
    pub async fn drain(self, deadline: Duration) {
        let Edge { parts: Parts { shared, stop_accepting, .. }, end, server } = self;
        stop_accepting.send_replace(true);
        shared.tasks.close();
        if tokio::time::timeout(deadline, shared.tasks.wait()).await.is_err() {
            tracing::info!(left = shared.tasks.len(), "edge drain deadline: cutting the connections left");
            shared.cut.cancel();
            shared.tasks.wait().await;
        }
        drop(end);
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

/// pingora's server, to its end.
fn run(services: Vec<Listening>, threads: usize, ended: oneshot::Receiver<()>, supervisor: &Supervisor) {
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
    let told = Arc::<AtomicBool>::default();
    server.run(RunArgs {
        shutdown_signal: Box::new(Ended { channel: Mutex::new(ended), told: Arc::clone(&told), supervisor: supervisor.clone() }),
    });
    if !told.load(Ordering::Acquire) {
        supervisor.fail(EDGE, Cause::Ended);
    }
}

/// Stops pingora when the [`Edge`] lets go of its end of the channel, instead of on signals, which belong to the process.
#[derive(Debug)]
struct Ended {
    channel: Mutex<oneshot::Receiver<()>>,
    told: Arc<AtomicBool>,
    supervisor: Supervisor,
}

#[async_trait]
impl ShutdownSignalWatch for Ended {
    async fn recv(&self) -> ShutdownSignal {
        let mut channel = self.channel.lock().await;
        tokio::select! {
            () = self.supervisor.fault_point(EDGE) => {}
            _gone = &mut *channel => {}
        }
        self.told.store(true, Ordering::Release);
        ShutdownSignal::GracefulTerminate
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::timeout;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn threads_that_are_stuck_have_no_pulse() {
        let directory = tempfile::tempdir().unwrap();
        let config = || EdgeConfig::new("127.0.0.1:0".parse().unwrap(), directory.path().join("control.sock"));
        let prepare = || Edge::prepare(config(), Arc::new(RouteTable::new()), &prometheus::Registry::new()).unwrap();
        let comes = async |pulse: Pulse| {
            let felt = async {
                while !pulse.felt().await {
                    tokio::task::yield_now().await;
                }
            };
            timeout(WITHIN, felt).await.expect("waited for a pulse");
        };
        let prepared = prepare();
        assert!(!prepared.edge.pulse.felt().await, "nothing serves yet");
        let edge = prepared.serve().unwrap();
        let pulse = edge.pulse();
        comes(pulse.clone()).await;

        let (release, held) = mpsc::channel::<()>();
        let (stuck, is_stuck) = oneshot::channel();
        let runtime = pulse.runtimes.lock().unwrap()[0].clone();
        // Its only thread.
        runtime.spawn(async move {
            let _ = stuck.send(());
            let _ = held.recv();
        });
        is_stuck.await.unwrap();
        // What another feels that is asked later, and begins only then.
        let other = prepare().serve().unwrap();
        tokio::select! {
            biased;
            felt = pulse.felt() => panic!("it should hang, and says {felt}"),
            () = comes(other.pulse()) => {}
        }
        other.drain(Duration::ZERO).await;
        drop(release);
        assert!(timeout(WITHIN, pulse.felt()).await.unwrap());
        edge.drain(Duration::ZERO).await;
        assert!(timeout(WITHIN, pulse.felt()).await.unwrap(), "what has ended can't hang");
    }
}
