//! Builds and connects everything, top to bottom; and takes it apart again in the other order.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    net::SocketAddr,
    num::NonZeroU32,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use codiusd_control::{
    api::{self, ApiConfig},
    clock::SystemClock,
    manifest::Rules,
    orders::Orders,
    pay::{Asset, Desk, SumsDisagree, asset_of},
    pods::{Keeper, KeeperConfig, RecoverError},
    store::{OpenError, Store},
};
use codiusd_ilp::{
    btp::client::BtpUrl,
    ildcp::Account,
    service::{self, Interledger},
    stream::receiver::Receiver,
};
use codiusd_proxy::{Edge, EdgeConfig, RouteTable};
use codiusd_runtime::{
    EmbeddedConfig, EmbeddedRuntime, NoopRuntime, Runtime, RuntimeError,
    embedded::Subnet,
    image::{ImageConfig, ImageLimits},
};
use tokio::{
    net::UnixListener,
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time,
};
use url::Url;

use crate::{
    bridge::Bridge,
    config::{Config, IlpChoice, RuntimeChoice},
    ready::ReadyFile,
};

/// Run time of an upload that doesn't say, in seconds.
const DURATION_DEFAULT: NonZeroU32 = NonZeroU32::new(3600).unwrap();
/// How long requests under way get to finish when the host stops.
const DRAIN: Duration = Duration::from_secs(10);
/// How often expired payments are forgotten.
const PAYMENTS_SWEEP: Duration = Duration::from_secs(10);
/// The embedded connector is `private.codius`.
const CONNECTOR: &str = "codius";
/// Worker threads of the front door: the rest of the machine is the pods'.
const EDGE_THREADS: usize = 2;

/// The host can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory or file of `CODIUS_ROOT`.
    #[error("CODIUS_ROOT {path}: can't {operation}")]
    Root {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another codiusd is running there.
    #[error("CODIUS_ROOT {0} is in use by another codiusd; stop it, or choose another directory")]
    Locked(PathBuf),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store's sums.
    #[error(transparent)]
    Sums(#[from] SumsDisagree),
    /// The runtime.
    #[error("the pods' runtime can't be started")]
    Runtime(#[source] RuntimeError),
    /// A runtime that isn't there yet.
    #[error("CODIUS_RUNTIME = \"hyperd\": this version runs pods with embedded or noop only")]
    NoHyperd,
    /// The front door.
    #[error("the front door can't be opened (CODIUS_BIND_IP, CODIUS_PORT)")]
    Edge(#[source] codiusd_proxy::StartError),
    /// Interledger.
    #[error("Interledger can't be started (CODIUS_ILP_LISTEN)")]
    Ilp(#[source] service::StartError),
    /// The pods of an earlier process.
    #[error("the pods from before can't be taken over")]
    Recover(#[source] RecoverError),
    /// The machine's memory.
    #[error("can't read how much memory this machine has")]
    Memory(#[source] io::Error),
}

/// A running host.
#[derive(Debug)]
pub struct App {
    edge: Edge,
    interledger: Interledger,
    keeper: Keeper,
    stop_pods: bool,
    api: JoinHandle<io::Result<()>>,
    api_stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
    store_failed: watch::Receiver<bool>,
    public_uri: Url,
    ready: ReadyFile,
    _lock: File,
}

impl App {
    /// Starts a host. When this returns it serves, and its pods from before do.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let run = prepare_root(&config.root)?;
        let lock = lock(&config.root)?;
        ReadyFile::forget(&run).map_err(|source| StartError::Root { path: run.clone(), operation: "remove ready.json", source })?;
        let (store, snapshot) = Store::open(&config.root.join("codius.db"))?;
        let store_failed = store.failure();
        let runtime = runtime(config).await?;

        let routes = Arc::new(RouteTable::new());
        let registry = prometheus::Registry::new();
        let socket = run.join("control.sock");
        let edge = EdgeConfig {
            listen: config.listen,
            control_socket: socket.clone(),
            threads: EDGE_THREADS,
            limits: codiusd_proxy::Limits::default(),
        };
        let edge = Edge::start(edge, routes.clone(), &registry).map_err(StartError::Edge)?;
        let public_uri = config.public_uri.clone().unwrap_or_else(|| local_uri(edge.address().port()));

        let clock = SystemClock::shared();
        let (asset, received_in) = watch::channel(None);
        let desk = Desk::new(snapshot.payments, snapshot.totals, store.clone(), clock.clone(), received_in)?;
        let desk = Arc::new(desk);
        let receiver = Arc::new(Receiver::new(snapshot.server_secret, desk.clone()));
        let ilp = ilp_config(&config.ilp, &snapshot.server_secret);
        let interledger = Interledger::start(ilp, receiver.clone()).await.map_err(StartError::Ilp)?;

        let memory_max_bytes = config.max_memory_fraction.of(machine_memory().map_err(StartError::Memory)?);
        let keeper = KeeperConfig { public_uri: public_uri.clone(), memory_max_bytes };
        let keeper = Keeper::new(keeper, runtime, Arc::new(Bridge(routes)), desk.clone(), store, clock);
        keeper.recover(snapshot.pods).await.map_err(StartError::Recover)?;

        let mut tasks = JoinSet::new();
        tasks.spawn(tell_asset(interledger.account(), asset));
        tasks.spawn(forget_payments(desk.clone()));
        let watched = keeper.clone();
        tasks.spawn(async move { watched.watch().await });

        let orders = Orders::new(config.cost_per_month, desk, keeper.clone(), receiver, interledger.account());
        let listener = bind_socket(&socket)?;
        let (api_stop, stopped) = oneshot::channel();
        let until = async {
            // Dropped or sent: it is over.
            let _ = stopped.await;
        };
        let api = tokio::spawn(api::serve(listener, api_config(config, &public_uri), orders, until));
        let ready = ReadyFile::write(&run, edge.address(), interledger.listening(), public_uri.as_str())
            .map_err(|source| StartError::Root { path: run, operation: "write ready.json", source })?;
        let stop_pods = config.stop_pods_at_exit;
        Ok(Self { edge, interledger, keeper, stop_pods, api, api_stop, tasks, store_failed, public_uri, ready, _lock: lock })
    }

    /// Where visitors reach the host.
    pub fn public_uri(&self) -> &Url {
        &self.public_uri
    }

    /// Where the front door listens.
    pub fn address(&self) -> SocketAddr {
        self.edge.address()
    }

    /// Where the embedded connector listens.
    pub fn connector(&self) -> &[SocketAddr] {
        self.interledger.listening()
    }

    /// Returns when the host can't go on.
    pub async fn failed(&self) {
        let mut failed = self.store_failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Stops: nothing new is taken, what is under way is finished or cut off, pods run on unless they are to be stopped.
    pub async fn drain(mut self) {
        drop(self.ready);
        self.edge.drain(DRAIN).await;
        // Whoever still waits for an answer has gone with the edge; what was begun is finished by its own task.
        let _ = self.api_stop.send(());
        if time::timeout(DRAIN, &mut self.api).await.is_err() {
            self.api.abort();
        }
        self.interledger.stop().await;
        self.tasks.shutdown().await;
        if self.stop_pods {
            self.keeper.stop_all().await;
        }
    }
}

/// Makes the directories. Containers' set-up, an unprivileged user of this machine, must be able to pass through.
fn prepare_root(root: &Path) -> Result<PathBuf, StartError> {
    let make = |path: &Path, mode: u32| {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| StartError::Root { path: path.to_owned(), operation: "make the directory", source })
    };
    make(root, 0o711)?;
    let run = root.join("run");
    make(&run, 0o700)?;
    Ok(run)
}

/// Keeps a second codiusd out. The lock goes with the process, however that ends.
fn lock(root: &Path) -> Result<File, StartError> {
    let path = root.join("lock");
    let fail = |source| StartError::Root { path: path.clone(), operation: "lock it", source };
    let file = File::create(&path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked(root.to_owned())),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

async fn runtime(config: &Config) -> Result<Arc<dyn Runtime>, StartError> {
    match &config.runtime {
        RuntimeChoice::Noop => Ok(Arc::new(NoopRuntime::new())),
        RuntimeChoice::Hyperd(_) => Err(StartError::NoHyperd),
        RuntimeChoice::Embedded => {
            let embedded = embedded(config);
            let opened = tokio::task::spawn_blocking(move || EmbeddedRuntime::open(embedded)).await;
            let opened = opened.map_err(|error| {
                StartError::Runtime(RuntimeError::Unavailable { operation: "opening it".to_owned(), source: Some(Box::new(error)) })
            })?;
            Ok(Arc::new(opened.map_err(StartError::Runtime)?))
        }
    }
}

/// Hosts with networks of their own keep out of each other's way on one machine: names in the kernel follow the network.
fn embedded(config: &Config) -> EmbeddedConfig {
    let images = ImageConfig {
        root: config.root.join("images"),
        layouts: config.image_layouts.clone(),
        insecure_registries: config.insecure_registries.clone(),
        limits: ImageLimits::default(),
    };
    let mut embedded = EmbeddedConfig::new(config.root.clone(), images);
    let subnet = Subnet { network: config.pod_subnet.address, prefix: config.pod_subnet.prefix };
    if subnet.network != embedded.subnet.network {
        let network = u32::from(subnet.network) >> 8;
        embedded.instance = format!("codius-{network:06x}");
        embedded.link_prefix = format!("cd{network:06x}");
    }
    embedded.subnet = subnet;
    embedded
}

fn ilp_config(choice: &IlpChoice, server_secret: &[u8; 32]) -> service::Config {
    match choice {
        IlpChoice::Embedded(listen) => {
            tracing::warn!("the embedded connector settles nothing: whoever connects pays with play money (CODIUS_ILP)");
            service::Config::Embedded { listen: listen.clone(), name: CONNECTOR.to_owned() }
        }
        IlpChoice::Uplink(Some(url)) => service::Config::Uplink { url: url.clone() },
        IlpChoice::Uplink(None) => service::Config::Uplink { url: local_uplink(server_secret) },
    }
}

/// The moneyd on this machine, with a secret that stays the same: so does our address.
fn local_uplink(server_secret: &[u8; 32]) -> BtpUrl {
    use sha2::{Digest, Sha256};
    let secret = hex::encode(Sha256::new().chain_update(b"uplink").chain_update(server_secret).finalize());
    format!("btp+ws://:{secret}@localhost:7768").parse().unwrap_or_else(|_| unreachable!("hex digits make a valid URL"))
}

fn local_uri(port: u16) -> Url {
    format!("http://localhost:{port}").parse().unwrap_or_else(|_| unreachable!("a port makes a valid URL"))
}

fn api_config(config: &Config, public_uri: &Url) -> ApiConfig {
    ApiConfig {
        public_uri: public_uri.as_str().trim_end_matches('/').to_owned(),
        rules: Rules::default(),
        duration_default: DURATION_DEFAULT.min(config.duration_max),
        duration_max: config.duration_max,
    }
}

/// The office's socket, in a directory only we may enter.
fn bind_socket(path: &Path) -> Result<UnixListener, StartError> {
    let fail =
        |source| StartError::Root { path: path.to_owned(), operation: "make the socket (is the path longer than 100 characters?)", source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    UnixListener::bind(path).map_err(fail)
}

/// `MemTotal`, in bytes.
fn machine_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no MemTotal in /proc/meminfo"))
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
