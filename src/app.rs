//! Builds and connects everything, top to bottom; and takes it apart again in the other order.

mod error;
pub(crate) mod pods;
mod root;
pub(crate) mod sizes;
mod tested;

use std::{
    fs::File,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use codiusd_control::{
    api::{self, ApiConfig, Gate},
    capacity::CapacityLedger,
    clock::SystemClock,
    house::House,
    machines::Machines,
    orders::Orders,
    pay::{Asset, Desk, Tariff, asset_of},
    peers::{Peers, PeersConfig},
    pods::{Keeper, KeeperConfig, PodMetrics},
    store::Store,
};
use codiusd_ilp::{
    ildcp::Account,
    service::{self, Interledger},
    stream::receiver::Receiver,
};
use codiusd_proxy::{Certificates, Edge, EdgeConfig, Inherited, Pulse, RouteTable, TlsConfig};
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
    admin::{Admin, Seen},
    bridge::Bridge,
    client::{LOCAL_CONNECTOR, connector},
    config::{self, Config, IlpChoice},
    figures::{HostFacts, HostFigures},
    open_files,
    ready::ReadyFile,
    self_test::SelfTest,
};

/// Run time of an upload that doesn't say, in seconds.
const DURATION_DEFAULT: NonZeroU32 = NonZeroU32::new(3600).unwrap();
/// How long the office may take to end once nobody waits for it.
const API_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long stopping all pods may take.
const PODS_STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long a start waits for its Interledger account.
const ACCOUNT_WITHIN: Duration = Duration::from_secs(3);
/// How long background tasks and the Interledger connection may take to end.
const TASKS_END_WITHIN: Duration = Duration::from_secs(10);
/// How long the store's writer may take to clear up.
const STORE_ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How often expired payments are forgotten.
const PAYMENTS_SWEEP: Duration = Duration::from_secs(10);
/// The embedded connector is `private.codius`.
const CONNECTOR: &str = "codius";

/// A running host.
#[derive(Debug)]
pub struct App {
    edge: Edge,
    certificates: Option<Arc<Certificates>>,
    interledger: Interledger,
    keeper: Keeper,
    stop_pods: bool,
    drain_within: Duration,
    api: JoinHandle<()>,
    api_stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
    admin: Option<Admin>,
    draining: CancellationToken,
    supervisor: Supervisor,
    store_failed: watch::Receiver<bool>,
    public_uri: Url,
    ready: ReadyFile,
    /// Of our directory, and of our hyperd.
    _locks: (File, Option<File>),
}

impl App {
    /// Starts a host. When this returns it serves, and its pods from before do. Clients that come earlier wait. `inherited` are sockets
    /// that listen for it already.
    pub async fn start(config: &Config, inherited: Vec<Inherited>) -> Result<Self, StartError> {
        pods::check_privileges(config)?;
        let tls = tls(config)?;
        let certificates = tls.as_ref().map(|tls| tls.certificates.clone());
        let (run, locks) = root::take(config)?;
        let supervisor = Supervisor::default();
        let (store, snapshot) = Store::supervised(&config.root.join("codius.db"), supervisor.clone())?;
        let store_failed = store.failure();
        let registry = prometheus::Registry::new();
        let test_image = tested::image(config).await?;
        let machines = sizes::sold(config)?;
        let runtime = pods::runtime(config, &registry, &supervisor).await?;

        let routes = Arc::new(RouteTable::new());
        let socket = run.join("control.sock");
        let edge = edge_config(config, tls, socket.clone(), inherited, &supervisor);
        let edge = Edge::prepare(edge, routes.clone(), &registry).map_err(StartError::Edge)?;
        let public_uri = config.public_uri.clone().unwrap_or_else(|| local_uri(edge.address().port()));

        let clock = SystemClock::shared();
        let (asset, received_in) = watch::channel(None);
        let peers =
            Peers::new(peers_config(config, &public_uri), &snapshot.peers, store.clone(), clock.clone()).map_err(StartError::Peers)?;
        let capacity = Arc::new(CapacityLedger::new(pods::capacity(config)?));
        let desk = Arc::new(Desk::new(snapshot.payments, snapshot.totals, store.clone(), clock.clone(), received_in, capacity)?);
        let receiver = Arc::new(Receiver::new(snapshot.server_secret, desk.clone()));
        let ilp = ilp_config(&config.ilp, &snapshot.server_secret);
        let interledger = Interledger::supervised(ilp, receiver.clone(), &supervisor).await.map_err(StartError::Ilp)?;

        let payer = tested::payer(&config.ilp, interledger.listening(), &snapshot.server_secret);
        let house = House::new(snapshot.house, config.cost_per_month);
        let tariff = house.tariff();
        let keeper = KeeperConfig { house, marks: snapshot.marks, ..KeeperConfig::new(public_uri.clone()) };
        let keeper =
            Keeper::new(keeper, runtime, Arc::new(Bridge(routes.clone())), desk.clone(), store, clock, PodMetrics::register(&registry)?);
        keeper.recover(snapshot.pods).await.map_err(StartError::Recover)?;

        let mut tasks = chores(&interledger, asset, &desk, &keeper);
        let orders = Orders::new(tariff.clone(), machines.clone(), desk, keeper.clone(), receiver, interledger.account());
        let (gate, self_test) = tested::self_test(config, &public_uri, test_image, &orders, payer, &registry)?;
        tasks.spawn(supervisor.service("peers", find_peers(peers.clone(), gate.clone())));
        let seen = seen(&registry, &config.root, routes, &orders, &peers, &public_uri, self_test.clone())?;
        let admin = Admin::start(config.admin, seen).await.map_err(StartError::Admin)?;
        let listener = root::bind_socket(&socket)?;
        let draining = CancellationToken::new();
        let api_config = ApiConfig {
            metrics: config.public_metrics.then_some(registry),
            ..api_config(config, &public_uri, &draining, gate, tariff, machines)
        };
        let (api, api_stop) = serve_api(&supervisor, listener, api_config, orders, peers);
        let edge = edge.serve().map_err(StartError::Edge)?;
        wait_for_account(&interledger).await;
        tasks.spawn(supervisor.job("self-test", tested::keep_trying(self_test)));
        let ready = ReadyFile::write(&run, &edge, interledger.listening(), admin.as_ref().map(Admin::address), public_uri.as_str())
            .map_err(|source| StartError::Root { path: run, operation: "write ready.json", source })?;
        Ok(Self {
            edge,
            certificates,
            interledger,
            keeper,
            stop_pods: config.stop_pods_at_exit,
            drain_within: config.front_door.drain,
            api,
            api_stop,
            tasks,
            admin,
            draining,
            supervisor,
            store_failed,
            public_uri,
            ready,
            _locks: locks,
        })
    }

    /// Notices the end of what the host can't do without.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Where visitors reach the host.
    pub fn public_uri(&self) -> &Url {
        &self.public_uri
    }

    /// Where the front door listens.
    pub fn address(&self) -> SocketAddr {
        self.edge.address()
    }

    /// Where it listens for TLS.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        self.edge.tls_addresses()
    }

    /// Whether the front door's threads serve.
    pub fn pulse(&self) -> Pulse {
        self.edge.pulse()
    }

    /// Reads the certificates again, and opens the access log again, now.
    pub fn reload(&self) {
        self.edge.reopen_access_log();
        match &self.certificates {
            Some(certificates) => certificates.reload(),
            None => tracing::info!("there are no certificates to read again (CODIUS_TLS_CERTS)"),
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

    /// Stops: nothing new is taken, what is under way is finished or cut off, pods run on unless they are to be stopped. Takes no longer
    /// than each of its steps may, also if what is waited for is what has failed.
    pub async fn drain(self) {
        let within = self.drain_within + API_ENDS_WITHIN + PODS_STOP_WITHIN + STORE_ENDS_WITHIN + TASKS_END_WITHIN;
        if time::timeout(within, self.stop_all()).await.is_err() {
            tracing::error!(?within, "the host hasn't stopped in time: what is left ends with the process");
        }
    }

    async fn stop_all(self) {
        let Self { edge, drain_within: deadline, interledger, keeper, mut api, api_stop, mut tasks, mut store_failed, draining, .. } = self;
        self.supervisor.stopping();
        // First of all nobody is sent here any more: `/readyz` says no from now on. A log that is followed would be under way for ever.
        draining.cancel();
        drop((self.ready, self.admin));
        edge.drain(deadline).await;
        // Whoever still waits for an answer has gone with the edge; what was begun is finished by its own task.
        let _ = api_stop.send(());
        if time::timeout(API_ENDS_WITHIN, &mut api).await.is_err() {
            api.abort();
        }
        interledger.stop().await;
        tasks.shutdown().await;
        if self.stop_pods {
            let stopped = time::timeout(PODS_STOP_WITHIN, keeper.stop_all()).await;
            if stopped.is_err() {
                tracing::error!("pods couldn't be stopped in time and may run on (CODIUS_STOP_PODS_AT_EXIT)");
            }
        }
        drop(keeper);
        // The store's writer clears up behind itself when nobody holds the store any more.
        let cleared = async { while store_failed.changed().await.is_ok() {} };
        if time::timeout(STORE_ENDS_WITHIN, cleared).await.is_err() {
            tracing::debug!("the store is still in use by what was begun");
        }
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
    let mut limits = config.front_door.limits.clone();
    open_files::fit(&mut limits);
    EdgeConfig {
        listen: config.listen,
        inherited,
        proxy_protocol: config.proxy_protocol.clone(),
        control_socket,
        threads: config.front_door_threads,
        tls,
        policy: pods::addresses(config),
        access_log: config.access_log.clone(),
        supervisor: supervisor.clone(),
        limits,
    }
}

/// Has the whole host counted, and its money apart: that is for the operator only, who sees all of it.
fn seen(
    registry: &prometheus::Registry,
    root: &Path,
    routes: Arc<RouteTable>,
    orders: &Orders,
    peers: &Peers,
    public_uri: &Url,
    self_test: Option<Arc<SelfTest>>,
) -> Result<Seen, prometheus::Error> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (from, known, root) = (orders.clone(), peers.clone(), root.to_owned());
    let read = move || HostFacts::now(started, &from, &known, &root);
    HostFigures::register(registry, read.clone())?;
    let money = prometheus::Registry::new();
    HostFigures::register_money(&money, read)?;
    let public_uri = public_uri.as_str().trim_end_matches('/').to_owned();
    Ok(Seen { registry: registry.clone(), money, routes, orders: orders.clone(), peers: peers.clone(), public_uri, self_test })
}

/// What goes on in the background, until dropped.
fn chores(interledger: &Interledger, asset: watch::Sender<Option<Asset>>, desk: &Arc<Desk>, keeper: &Keeper) -> JoinSet<()> {
    let (mut tasks, supervisor) = (JoinSet::new(), keeper.supervisor());
    tasks.spawn(supervisor.service("asset", tell_asset(interledger.account(), asset)));
    tasks.spawn(supervisor.service("payment expiry", forget_payments(desk.clone())));
    let watched = keeper.clone();
    tasks.spawn(supervisor.service("pod expiry", async move { watched.watch_ends().await }));
    let watched = keeper.clone();
    tasks.spawn(supervisor.service("runtime watch", async move { watched.watch_runtime().await }));
    tasks
}

/// Other hosts are told of this one, and asked, once it has passed its own test: who looks at it before finds it shut.
async fn find_peers(peers: Peers, gate: Gate) {
    gate.opened().await;
    peers.run().await;
}

/// A host that has just started should be able to say a price.
async fn wait_for_account(interledger: &Interledger) {
    let mut account = interledger.account();
    if time::timeout(ACCOUNT_WITHIN, account.wait_for(Option::is_some)).await.is_err() {
        tracing::warn!("there is no Interledger connection yet; uploads are refused until there is one (ILP_CREDENTIALS)");
    }
}

fn ilp_config(choice: &IlpChoice, server_secret: &[u8; 32]) -> service::Config {
    match choice {
        IlpChoice::Embedded(listen) => {
            tracing::warn!("the embedded connector settles nothing: whoever connects pays with play money (CODIUS_ILP)");
            service::Config::Embedded { listen: listen.clone(), name: CONNECTOR.to_owned() }
        }
        IlpChoice::Uplink(Some(url)) => service::Config::Uplink { url: url.clone() },
        IlpChoice::Uplink(None) => service::Config::Uplink { url: connector(LOCAL_CONNECTOR, &derived(b"uplink", server_secret)) },
    }
}

/// A secret for one purpose, which stays the same: so does our address at a connector that gives accounts to whoever comes, as moneyd does.
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
    gate: Gate,
    cost_per_month: Tariff,
    machines: Machines,
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

/// Serves the control API until what is returned is sent or dropped.
fn serve_api(
    supervisor: &Supervisor,
    listener: UnixListener,
    config: ApiConfig,
    orders: Orders,
    peers: Peers,
) -> (JoinHandle<()>, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel();
    let served = api::serve(listener, config, orders, peers, async { drop(stopped.await) });
    let served = supervisor.spawn_service("control API", async {
        if let Err(error) = served.await {
            tracing::error!(%error, "the control API can't be served");
        }
    });
    (served, stop)
}

/// Tells the desk what payments are received in, whenever that changes.
async fn tell_asset(mut account: watch::Receiver<Option<Account>>, asset: watch::Sender<Option<Asset>>) {
    loop {
        let now = account.borrow_and_update().as_ref().map(asset_of);
        asset.send_if_modified(|known| {
            let changed = *known != now;
            if changed && known.is_some() && now.is_some() {
                tracing::warn!(from = ?known, to = ?now, "payments are received in another asset now; open payments in the old one aren't taken");
            }
            *known = now;
            changed
        });
        if account.changed().await.is_err() {
            return;
        }
    }
}

async fn forget_payments(desk: Arc<Desk>) {
    let mut ticks = time::interval(PAYMENTS_SWEEP);
    loop {
        ticks.tick().await;
        if desk.expire().await.is_err() {
            return;
        }
    }
}
