//! Builds and connects all components, and shuts them down in reverse order.

pub(crate) mod error;
mod pods;
mod root;
mod self_test;
pub(crate) mod sizes;

use std::{
    fs::File,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use codiusd_control::{
    api::{self, ApiConfig, SelfTestGate},
    capacity::CapacityLedger,
    clock::SystemClock,
    db::Database,
    money::{Asset, Payments, Tariff, asset_of},
    operator::OperatorState,
    paid_requests::PaidRequests,
    peers::{Peers, PeersConfig},
    persistence::{self, Snapshot},
    pod_sizes::PodSizes,
    pods::{PodManager, PodManagerConfig, PodMetrics},
};
use codiusd_ilp::{
    btp::client::BtpUrl,
    ildcp::Account,
    service::{self, Interledger},
    stream::receiver::Receiver,
};
use codiusd_proxy::{Certificates, Edge, EdgeConfig, Inherited, Pulse, RouteTable, TlsConfig};
use codiusd_runtime::{Isolation, Runtime};
use codiusd_supervisor::{Failure, Supervisor};
pub use error::StartError;
use tokio::{
    net::UnixListener,
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time,
};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    admin::{Admin, AdminDeps},
    client::{LOCAL_CONNECTOR, connector},
    config::{self, Config, IlpChoice},
    edge_routes::EdgeRoutes,
    host_metrics::HostMetrics,
    host_snapshot::HostReader,
    open_files,
    ready_file::ReadyFile,
    runtimes,
    self_test::SelfTest,
};

/// Run time of an upload without a duration, in seconds.
const DURATION_DEFAULT: NonZeroU32 = NonZeroU32::new(3600).unwrap();
/// How long the control API may take to end once no client is waiting for it.
const API_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long stopping all pods may take.
const PODS_STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long a start waits for the Interledger account.
const ACCOUNT_WITHIN: Duration = Duration::from_secs(3);
/// How long background tasks and the Interledger connection may take to end.
const TASKS_END_WITHIN: Duration = Duration::from_secs(10);
/// How long the store's writer may take to finish.
const STORE_ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How often expired payments are removed.
const PAYMENTS_SWEEP: Duration = Duration::from_secs(10);
/// Name of the embedded connector; its address is `private.codius`.
const CONNECTOR: &str = "codius";

/// A running host.
#[derive(Debug)]
pub struct App {
    edge: Edge,
    certificates: Option<Arc<Certificates>>,
    interledger: Interledger,
    manager: PodManager,
    stop_pods: bool,
    drain_within: Duration,
    api: JoinHandle<()>,
    api_stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
    admin: Option<Admin>,
    draining: CancellationToken,
    supervisor: Supervisor,
    database_failed: watch::Receiver<bool>,
    public_uri: Url,
    ready: ReadyFile,
    /// Locks of our directory, and of our hyperd.
    _locks: (File, Option<File>),
}

impl App {
    /// Starts a host. When this returns, the host and the pods of its previous run serve. Clients that connect earlier wait. `inherited`
    /// are listening sockets from systemd.
    pub async fn start(config: &Config, inherited: Vec<Inherited>) -> Result<Self, StartError> {
        let plan = runtimes::plan(config);
        plan.check_privileges()?;
        let tls = tls(config)?;
        let certificates = tls.as_ref().map(|tls| tls.certificates.clone());
        let (run, locks) = root::take(config)?;
        let supervisor = Supervisor::default();
        let (database, snapshot) = persistence::open(&config.root.join("codius.db"), supervisor.clone())?;
        let database_failed = database.failure();
        let registry = prometheus::Registry::new();
        let test_image = self_test::image(config).await?;
        let machines = sizes::sold(config)?;
        let runtime = pods::runtime(plan.as_ref(), &registry, &supervisor).await?;

        let routes = Arc::new(RouteTable::new());
        let socket = run.join("control.sock");
        let edge = edge_config(config, tls, socket.clone(), inherited, &supervisor);
        let edge = Edge::prepare(edge, routes.clone(), &registry).map_err(StartError::Edge)?;
        let public_uri = config.public_uri.clone().unwrap_or_else(|| local_uri(edge.address().port()));

        let ControlPart { interledger, manager, paid_requests, peers, payer, tariff, mut tasks } =
            ControlPart::start(config, &public_uri, (database, snapshot), runtime, &routes, &registry).await?;
        let (gate, self_test) = self_test::self_test(config, &public_uri, test_image, &paid_requests, payer, &registry)?;
        tasks.spawn(supervisor.service("peers", find_peers(peers.clone(), gate.clone())));
        let admin_deps = admin_deps(&registry, &config.root, routes, &paid_requests, &peers, &public_uri, self_test.clone())?;
        let admin = Admin::start(config.admin, admin_deps).await.map_err(StartError::Admin)?;
        let listener = root::bind_socket(&socket)?;
        let draining = CancellationToken::new();
        let api_config = ApiConfig {
            metrics: config.public_metrics.then_some(registry),
            ..api_config(config, &public_uri, &draining, gate, tariff, machines)
        };
        let (api, api_stop) = serve_api(&supervisor, listener, api_config, paid_requests, peers);
        let edge = edge.serve().map_err(StartError::Edge)?;
        wait_for_account(&interledger).await;
        tasks.spawn(supervisor.job("self-test", self_test::keep_trying(self_test)));
        let ready = ReadyFile::write(&run, &edge, interledger.listening(), admin.as_ref().map(Admin::address), public_uri.as_str())
            .map_err(|source| StartError::Root { path: run, operation: "write ready.json", source })?;
        Ok(Self {
            edge,
            certificates,
            interledger,
            manager,
            stop_pods: config.stop_pods_at_exit,
            drain_within: config.edge_limits.drain,
            api,
            api_stop,
            tasks,
            admin,
            draining,
            supervisor,
            database_failed,
            public_uri,
            ready,
            _locks: locks,
        })
    }

    /// Reports when a part that the host depends on ends.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Where visitors reach the host.
    pub fn public_uri(&self) -> &Url {
        &self.public_uri
    }

    /// How pods are isolated, and why not better.
    pub fn isolation(&self) -> (Isolation, Option<String>) {
        (self.manager.capabilities().isolation, self.manager.isolation_note())
    }

    /// Where the edge listens.
    pub fn address(&self) -> SocketAddr {
        self.edge.address()
    }

    /// Where it listens for TLS.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        self.edge.tls_addresses()
    }

    /// Whether the edge's threads serve.
    pub fn pulse(&self) -> Pulse {
        self.edge.pulse()
    }

    /// Reloads the certificates and reopens the access log.
    pub fn reload(&self) {
        self.edge.reopen_access_log();
        match &self.certificates {
            Some(certificates) => certificates.reload(),
            None => tracing::info!("no certificates to reload (tls.certificates, CODIUS_TLS_CERTS)"),
        }
    }

    /// Where the embedded connector listens.
    pub fn connector(&self) -> &[SocketAddr] {
        self.interledger.listening()
    }

    /// Returns when the host can't go on, and why.
    pub async fn failed(&self) -> Failure {
        self.supervisor.failed().await
    }

    /// Stops the host: new requests are refused, requests in progress finish or are aborted, and pods keep running unless the settings
    /// say to stop them. Takes at most the sum of the steps' limits, even if the part it waits for has failed.
    pub async fn drain(self) {
        let within = self.drain_within + API_ENDS_WITHIN + PODS_STOP_WITHIN + STORE_ENDS_WITHIN + TASKS_END_WITHIN;
        if time::timeout(within, self.stop_all()).await.is_err() {
            tracing::error!(?within, "shutdown deadline passed; remaining work ends with the process");
        }
    }

    async fn stop_all(self) {
        let Self {
            edge, drain_within: deadline, interledger, manager, mut api, api_stop, mut tasks, mut database_failed, draining, ..
        } = self;
        self.supervisor.stopping();
        // From now on `/readyz` fails, so load balancers send no new clients. Followed logs end too: they would keep their requests open.
        draining.cancel();
        drop((self.ready, self.admin));
        edge.drain(deadline).await;
        // No client is waiting any more: the edge has closed its connections. Work that has begun is finished by its own task.
        let _ = api_stop.send(());
        if time::timeout(API_ENDS_WITHIN, &mut api).await.is_err() {
            api.abort();
        }
        interledger.stop().await;
        tasks.shutdown().await;
        if self.stop_pods {
            let stopped = time::timeout(PODS_STOP_WITHIN, manager.stop_all()).await;
            if stopped.is_err() {
                tracing::error!("pods not stopped in time; some keep running (runtime.stop_pods_at_exit, CODIUS_STOP_PODS_AT_EXIT)");
            }
        }
        drop(manager);
        // The store's writer finishes once the last handle to the store is dropped.
        let cleared = async { while database_failed.changed().await.is_ok() {} };
        if time::timeout(STORE_ENDS_WITHIN, cleared).await.is_err() {
            tracing::debug!("the store is still in use by what was begun");
        }
    }
}

/// Payments, pods and peers: the control plane without its listeners.
struct ControlPart {
    interledger: Interledger,
    manager: PodManager,
    paid_requests: PaidRequests,
    peers: Peers,
    /// The account the self-test pays from.
    payer: BtpUrl,
    tariff: Tariff,
    tasks: JoinSet<()>,
}

impl ControlPart {
    /// Restores the state from the store. When this returns, the pods of the previous run are routed.
    async fn start(
        config: &Config,
        public_uri: &Url,
        (database, snapshot): (Database, Snapshot),
        runtime: Arc<dyn Runtime>,
        routes: &Arc<RouteTable>,
        registry: &prometheus::Registry,
    ) -> Result<Self, StartError> {
        let supervisor = database.supervisor().clone();
        let clock = SystemClock::shared();
        let (asset, received_in) = watch::channel(None);
        let peers = Peers::new(peers_config(config, public_uri), &snapshot.peers, database.clone(), clock.clone());
        let peers = peers.map_err(StartError::Peers)?;
        let capacity = Arc::new(CapacityLedger::new(pods::capacity(config, runtimes::plan(config).as_ref(), runtime.as_ref())?));
        let payments = Payments::new(snapshot.invoices, snapshot.totals, database.clone(), clock.clone(), received_in, capacity);
        let payments = Arc::new(payments?);
        let receiver = Arc::new(Receiver::new(snapshot.server_secret, payments.clone()));
        let ilp = ilp_config(&config.ilp, &snapshot.server_secret);
        let interledger = Interledger::supervised(ilp, receiver.clone(), &supervisor).await.map_err(StartError::Ilp)?;
        let payer = self_test::payer(&config.ilp, interledger.listening(), &snapshot.server_secret);

        let operator = OperatorState::new(snapshot.operator, config.cost_per_month);
        let tariff = operator.tariff();
        let manager = PodManagerConfig { operator, crash_histories: snapshot.crash_histories, ..PodManagerConfig::new(public_uri.clone()) };
        let (edge_routes, metrics) = (Arc::new(EdgeRoutes(routes.clone())), PodMetrics::register(registry)?);
        let manager = PodManager::new(manager, runtime, edge_routes, payments.clone(), database, clock, metrics);
        manager.recover(snapshot.pods).await.map_err(StartError::Recover)?;
        let tasks = background_tasks(&interledger, asset, &payments, &manager);
        let machines = sizes::sold(config)?;
        let paid_requests = PaidRequests::new(tariff.clone(), machines, payments, manager.clone(), receiver, interledger.account());
        Ok(Self { interledger, manager, paid_requests, peers, payer, tariff, tasks })
    }
}

fn tls(config: &Config) -> Result<Option<TlsConfig>, StartError> {
    let Some(tls) = &config.tls else { return Ok(None) };
    let secure_uri = config.public_uri.as_ref().filter(|uri| uri.scheme() == "https");
    Ok(Some(TlsConfig {
        listen: tls.listen.clone(),
        certificates: tls.load()?,
        redirect: tls.redirect,
        public_port: secure_uri.and_then(Url::port_or_known_default),
        hsts_seconds: tls.hsts_seconds,
    }))
}

fn edge_config(
    config: &Config,
    tls: Option<TlsConfig>,
    control_socket: PathBuf,
    inherited: Vec<Inherited>,
    supervisor: &Supervisor,
) -> EdgeConfig {
    let mut limits = config.edge_limits.limits.clone();
    open_files::fit(&mut limits);
    EdgeConfig {
        listen: config.listen,
        inherited,
        proxy_protocol: config.proxy_protocol.clone(),
        control_socket,
        threads: config.edge_threads,
        tls,
        policy: pods::addresses(config, runtimes::plan(config).as_ref()),
        access_log: config.access_log.clone(),
        supervisor: supervisor.clone(),
        limits,
    }
}

/// Registers the metrics of the whole host. Money has a registry of its own, for the operator only, who gets both.
fn admin_deps(
    registry: &prometheus::Registry,
    root: &Path,
    routes: Arc<RouteTable>,
    paid_requests: &PaidRequests,
    peers: &Peers,
    public_uri: &Url,
    self_test: Option<Arc<SelfTest>>,
) -> Result<AdminDeps, prometheus::Error> {
    let host = HostReader::new(paid_requests.clone(), peers.clone(), root.to_owned());
    let read = host.clone();
    HostMetrics::register(registry, move || read.measured())?;
    let (money, read) = (prometheus::Registry::new(), host.clone());
    HostMetrics::register_money(&money, move || read.snapshot())?;
    let public_uri = public_uri.as_str().trim_end_matches('/').to_owned();
    Ok(AdminDeps {
        registry: registry.clone(),
        money,
        host,
        routes,
        paid_requests: paid_requests.clone(),
        peers: peers.clone(),
        public_uri,
        self_test,
    })
}

/// Background tasks of the control plane, until dropped.
fn background_tasks(
    interledger: &Interledger,
    asset: watch::Sender<Option<Asset>>,
    payments: &Arc<Payments>,
    manager: &PodManager,
) -> JoinSet<()> {
    let (mut tasks, supervisor) = (JoinSet::new(), manager.supervisor());
    tasks.spawn(supervisor.service("asset", tell_asset(interledger.account(), asset)));
    tasks.spawn(supervisor.service("payment expiry", forget_payments(payments.clone())));
    let watched = manager.clone();
    tasks.spawn(supervisor.service("pod expiry", async move { watched.watch_ends().await }));
    let watched = manager.clone();
    tasks.spawn(supervisor.service("runtime watch", async move { watched.watch_runtime().await }));
    tasks
}

/// Announces this host to others and queries them, once it has passed its self-test: until then it refuses their clients.
async fn find_peers(peers: Peers, gate: SelfTestGate) {
    gate.opened().await;
    peers.run().await;
}

/// Waits for the account, so that a host that has just started can quote a price.
async fn wait_for_account(interledger: &Interledger) {
    let mut account = interledger.account();
    if time::timeout(ACCOUNT_WITHIN, account.wait_for(Option::is_some)).await.is_err() {
        tracing::warn!("no Interledger connection yet; uploads are refused until there is one (uplink.url, ILP_CREDENTIALS)");
    }
}

fn ilp_config(choice: &IlpChoice, server_secret: &[u8; 32]) -> service::Config {
    match choice {
        IlpChoice::Embedded(listen) => {
            tracing::warn!("embedded connector settles nothing: payments are play money (uplink.type, CODIUS_ILP)");
            service::Config::Embedded { listen: listen.clone(), name: CONNECTOR.to_owned() }
        }
        IlpChoice::Uplink(Some(url)) => service::Config::Uplink { url: url.clone() },
        IlpChoice::Uplink(None) => service::Config::Uplink { url: connector(LOCAL_CONNECTOR, &derived(b"uplink", server_secret)) },
    }
}

/// A secret for one purpose. It never changes, so our address stays the same at a connector with open registration, such as moneyd.
fn derived(purpose: &[u8], server_secret: &[u8; 32]) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::new().chain_update(purpose).chain_update(server_secret).finalize())
}

fn local_uri(port: u16) -> Url {
    format!("http://localhost:{port}").parse().unwrap_or_else(|_| unreachable!("a port makes a valid URL"))
}

fn api_config(
    config: &Config,
    public_uri: &Url,
    draining: &CancellationToken,
    gate: SelfTestGate,
    cost_per_month: Tariff,
    machines: PodSizes,
) -> ApiConfig {
    ApiConfig {
        draining: draining.clone(),
        gate,
        metrics: None,
        additional_host_info: config.additional_host_info,
        public_uri: public_uri.as_str().trim_end_matches('/').to_owned(),
        cost_per_month,
        rules: pods::rules(config, machines),
        duration_default: DURATION_DEFAULT.min(config.duration_max),
        duration_max: config.duration_max,
    }
}

fn peers_config(config: &Config, public_uri: &Url) -> PeersConfig {
    PeersConfig {
        public_uri: public_uri.as_str().to_owned(),
        bootstrap: config.bootstrap_peers.clone(),
        reach: config::reach(config.dev),
        known_max: config.peers_max.into(),
        rhythm: config.peers_rhythm,
    }
}

/// Serves the control API until the returned sender is used or dropped.
fn serve_api(
    supervisor: &Supervisor,
    listener: UnixListener,
    config: ApiConfig,
    paid_requests: PaidRequests,
    peers: Peers,
) -> (JoinHandle<()>, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel();
    let served = api::serve(listener, config, paid_requests, peers, async { drop(stopped.await) });
    let served = supervisor.spawn_service("control API", async {
        if let Err(error) = served.await {
            tracing::error!(%error, "control API listener failed");
        }
    });
    (served, stop)
}

/// Passes the asset of the uplink on to the payments whenever it changes.
async fn tell_asset(mut account: watch::Receiver<Option<Account>>, asset: watch::Sender<Option<Asset>>) {
    loop {
        let now = account.borrow_and_update().as_ref().map(asset_of);
        asset.send_if_modified(|known| {
            let changed = *known != now;
            if changed && known.is_some() && now.is_some() {
                tracing::warn!(from = ?known, to = ?now, "asset of the uplink changed; open invoices in the old asset are not paid any more");
            }
            *known = now;
            changed
        });
        if account.changed().await.is_err() {
            return;
        }
    }
}

async fn forget_payments(payments: Arc<Payments>) {
    let mut ticks = time::interval(PAYMENTS_SWEEP);
    loop {
        ticks.tick().await;
        if payments.expire().await.is_err() {
            return;
        }
    }
}
