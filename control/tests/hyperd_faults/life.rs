//! One life of the control plane. It is killed as a process is: its tasks stop where they are, what was sent to the store is durable.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use codiusd_control::{
    capacity::Capacity,
    capacity::CapacityLedger,
    clock::SystemClock,
    db,
    money::{Asset, Payments},
    persistence,
    pods::{PodManager, PodManagerConfig, PodMetrics, Routes, WithdrawReason},
};
use codiusd_kit::hyperd::Hyperd;
use codiusd_runtime::{
    HyperdConfig, HyperdRuntime, PodId,
    network::{Enforcer, Links, NetworkRules, Policy, restored_counter},
};
use codiusd_supervisor::Supervisor;
use prometheus::Registry;
use tokio::{runtime::Runtime, sync::watch};

/// How long tasks and the store's writer may take to stop.
const END_WITHIN: Duration = Duration::from_secs(20);

/// The routes the control plane has published.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<HashMap<PodId, SocketAddr>>);

impl Board {
    pub(crate) fn routes(&self) -> HashMap<PodId, SocketAddr> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl Routes for Board {
    fn publish(&self, pod: &PodId, address: SocketAddr, _: u64) {
        self.0.lock().unwrap().insert(pod.clone(), address);
    }

    async fn withdraw(&self, pod: &PodId, _: WithdrawReason) {
        self.0.lock().unwrap().remove(pod);
    }

    fn is_quiet(&self, _: &PodId) -> bool {
        true
    }
}

/// Pod manager, payments and database, on threads of their own.
pub(crate) struct Life {
    pub(crate) manager: PodManager,
    pub(crate) payments: Arc<Payments>,
    pub(crate) board: Arc<Board>,
    pub(crate) tokio: Runtime,
    store: db::Database,
    _asset: watch::Sender<Option<Asset>>,
}

pub(crate) fn asset() -> Asset {
    Asset { code: "XRP".to_owned(), scale: 9 }
}

pub(crate) fn store_file(root: &Path) -> PathBuf {
    root.join("codius.db")
}

/// Pods have addresses of ours: a daemon that was killed hands out its own twice.
async fn guard(bridge: &str) -> Arc<Enforcer> {
    let policy = Policy::new(&format!("codius-{bridge}"), Links::Bridge(bridge.to_owned()), None, &NetworkRules::default());
    let installed = tokio::task::spawn_blocking(move || Enforcer::install(&policy, restored_counter()));
    Arc::new(installed.await.unwrap().expect("the policy is in force"))
}

impl Life {
    /// Starts on what the store holds, and takes over the pods.
    pub(crate) async fn begin(root: &Path, hyperd: &Hyperd) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (store, snapshot) = persistence::open(&store_file(root), Supervisor::default()).expect("the store opens");
        let (asset_told, asset_known) = watch::channel(Some(asset()));
        let clock = SystemClock::shared();
        let capacity = Arc::new(CapacityLedger::new(Capacity::of_memory(64 << 30)));
        let payments =
            Payments::new(snapshot.invoices, snapshot.totals, store.clone(), clock.clone(), asset_known, capacity).expect("the sums agree");
        let (payments, board) = (Arc::new(payments), Arc::new(Board::default()));
        let config = HyperdConfig {
            orphan_grace: Duration::from_millis(300),
            logs: hyperd.logs(),
            guard: Some(guard(&hyperd.bridge()).await),
            ..HyperdConfig::new(hyperd.socket())
        };
        let runtime = Arc::new(HyperdRuntime::new(config, &Registry::new()).unwrap());
        let config = PodManagerConfig {
            look_every: Duration::from_millis(40),
            retry_after: Duration::from_millis(60),
            crash_histories: snapshot.crash_histories,
            ..PodManagerConfig::new("http://codius.example".parse().unwrap())
        };
        let metrics = PodMetrics::register(&Registry::new()).unwrap();
        let manager = PodManager::new(config, runtime, board.clone(), payments.clone(), store.clone(), clock, metrics);
        let recovering = manager.clone();
        tokio.spawn(async move { recovering.recover(snapshot.pods).await }).await.unwrap().expect("the store holds");
        let watched = manager.clone();
        tokio.spawn(async move { tokio::join!(watched.watch_ends(), watched.watch_runtime()) });
        Self { manager, payments, board, tokio, store, _asset: asset_told }
    }

    /// Kills it, and waits until nobody writes to the store any more.
    pub(crate) async fn kill(self) {
        let Self { manager, payments, board, tokio, store, .. } = self;
        let mut written = store.failure();
        drop((manager, payments, board, store));
        tokio::task::spawn_blocking(move || tokio.shutdown_timeout(END_WITHIN)).await.unwrap();
        let ended = async { while written.changed().await.is_ok() {} };
        tokio::time::timeout(END_WITHIN, ended).await.expect("the store's writer ends");
    }
}
