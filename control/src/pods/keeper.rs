//! The table of pods, and the way of a paid order through it.
//!
//! One lock, never held across an await. What changes a payment and a pod together (start, extension, failure) is one
//! commit: a place in the store's queue is reserved, table and book are changed, the changes are sent, the lock is released.
//! While a pod is `Starting` or `Stopping` only the task that made it so touches it; other requests for it wait.

use std::{
    collections::HashMap,
    fmt::Debug,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use codiusd_runtime::{Capabilities, LogLines, PodId, Runtime, RuntimeError};
use codiusd_supervisor::{StateGuard, StateLock, Supervisor};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinError,
};
use url::Url;

use super::{
    crashes::Marks,
    metrics::PodMetrics,
    shares::{Resource, Room},
    state::{Decision, Entry, Order, Stage, decide, later},
    table::Table,
};
use crate::{
    capacity::CapacityLedger,
    clock::Clock,
    house::{Ban, House, HouseRows},
    pay::{CostPerMonth, Desk, NotPaid},
    store::{Store, StoreFailed},
};

/// What has become of a pod that has no route any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The time it was paid for was over then.
    Expired(Timestamp),
    /// All its containers have exited; noticed then.
    Exited(Timestamp),
    /// Since then it is being started anew.
    Restarting(Timestamp),
    /// It was stopped, or forgotten.
    Stopped,
}

/// Where the front door learns of pods. What is said takes effect before the calls return.
pub trait Routes: Debug + Send + Sync + 'static {
    /// From now on requests for the pod go to `address`. `incarnation` differs between any two starts.
    fn publish(&self, pod: &PodId, address: SocketAddr, incarnation: u64);
    /// From now on the pod doesn't exist for visitors, who may be told why. Said again when there is another reason.
    fn withdraw(&self, pod: &PodId, why: Gone);
    /// Whether no request of a visitor is under way to the pod.
    fn is_quiet(&self, pod: &PodId) -> bool;
}

/// What the keeper works with.
#[derive(Clone, Debug)]
pub struct KeeperConfig {
    /// Where visitors reach this host; pods are at `<hash>.` before its host name.
    pub public_uri: Url,
    /// What the operator has said so far.
    pub house: House,
    /// How often the runtime is asked which pods still run.
    pub look_every: Duration,
    /// How long after something the runtime couldn't do it is tried again.
    pub retry_after: Duration,
    /// What is known of the losses of pods.
    pub marks: Vec<(PodId, Marks)>,
}

impl KeeperConfig {
    /// The usual rhythm, of a host whose operator has said nothing.
    pub fn new(public_uri: Url) -> Self {
        let house = House::new(HouseRows::default(), CostPerMonth::DEFAULT);
        Self { public_uri, house, look_every: Duration::from_secs(1), retry_after: Duration::from_secs(2), marks: Vec::new() }
    }
}

/// The answer to a paid request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Where the pod is reached.
    pub url: String,
    /// Its name.
    #[schema(value_type = String)]
    pub manifest_hash: PodId,
    /// Until when it runs, ISO 8601 with milliseconds.
    pub expiry: String,
}

/// Why an order can't be carried out (now). Nothing that was paid is lost: it stays on the Pay-Token.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The operator doesn't want it run.
    #[error("{} {} is banned by the operator of this host", .0.kind(), .0)]
    Banned(Ban),
    /// The operator wants nothing new.
    #[error("this host takes no uploads and extensions at the moment")]
    Draining,
    /// The pods hold all they may of something.
    #[error("{0} usage exceeded. Send pod request later.")]
    Full(Resource),
    /// The operator has taken the pod's size out of the table: what it costs to run longer can't be said.
    #[error("machine: this host doesn't sell {0:?} any more")]
    NotSold(String),
    /// There is no such pod.
    #[error("no pod found with id. id={0}")]
    NoSuchPod(PodId),
    /// The payment was used by another request meanwhile.
    #[error(transparent)]
    NotPaid(#[from] NotPaid),
    /// The runtime couldn't.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The pod is being started or stopped.
    #[error("pod is being started or stopped. manifestHash={0}")]
    Changing(PodId),
    /// What runs from before the host's start isn't known yet.
    #[error("the host is still looking for its pods")]
    Recovering,
    /// The pod's containers have exited.
    #[error("pod has stopped. manifestHash={0}")]
    Stopped(PodId),
    /// The pod was stopped for good.
    #[error(
        "pod has taken down its virtual machine, or what runs all of them, too often. Its time left is kept for another upload. manifestHash={0}"
    )]
    TakenDown(PodId),
    /// Nothing can be made durable.
    #[error(transparent)]
    Store(#[from] StoreFailed),
    /// The task that carried it out was lost to a bug.
    #[error("the request was interrupted")]
    Interrupted(#[from] JoinError),
}

/// What can be said of a pod that runs.
#[derive(Clone, Debug)]
pub struct PodView {
    /// What was uploaded.
    pub order: Arc<Order>,
    /// Its address and end.
    pub receipt: Receipt,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) table: StateLock<Table>,
    pub(super) capacity: Arc<CapacityLedger>,
    pub(super) config: KeeperConfig,
    /// What the operator says now.
    pub(super) house: StateLock<House>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) routes: Arc<dyn Routes>,
    pub(super) desk: Arc<Desk>,
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: PodMetrics,
    /// What is known of the losses of pods.
    pub(super) marks: Mutex<HashMap<PodId, Marks>>,
    /// The turn of those that are tried out alone.
    pub(super) trials: Semaphore,
    /// Who has it.
    pub(super) on_trial: Mutex<Option<PodId>>,
    /// The last run of the daemon that ended while a pod was being started; [`u64::MAX`]: none.
    pub(super) fell_in_start: AtomicU64,
    /// Whether the pods from before the start are still unknown.
    pub(super) recovering: AtomicBool,
    /// Wakes whoever waits for a change of the table.
    pub(super) changed: watch::Sender<()>,
}

/// Owns the pods; cheap to clone.
#[derive(Clone, Debug)]
pub struct Keeper(pub(super) Arc<Inner>);

impl Keeper {
    /// A keeper of no pods; [`Keeper::recover`] gives it those of the store.
    pub fn new(
        mut config: KeeperConfig,
        runtime: Arc<dyn Runtime>,
        routes: Arc<dyn Routes>,
        desk: Arc<Desk>,
        store: Store,
        clock: Arc<dyn Clock>,
        metrics: PodMetrics,
    ) -> Self {
        let capacity = desk.capacity().clone();
        let (table, changed) = (StateLock::new("pods", store.supervisor(), Table::new(capacity.clone())), watch::Sender::new(()));
        let house = StateLock::new("operator settings", store.supervisor(), config.house.clone());
        let marks = Mutex::new(std::mem::take(&mut config.marks).into_iter().collect());
        let inner = Inner {
            table,
            capacity,
            config,
            house,
            runtime,
            routes,
            desk,
            store,
            clock,
            metrics,
            marks,
            trials: Semaphore::new(1),
            fell_in_start: AtomicU64::new(u64::MAX),
            on_trial: Mutex::new(None),
            recovering: AtomicBool::new(false),
            changed,
        };
        Self(Arc::new(inner))
    }

    /// Whether the host takes orders at all now.
    pub async fn open(&self) -> Result<(), Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        self.ready().await
    }

    /// Whether pods could be started, and those from before are known.
    pub async fn ready(&self) -> Result<(), Refusal> {
        self.0.runtime.ready().await?;
        self.0.known()
    }

    /// An error if what runs the pods can't be asked about them.
    pub async fn reaches_runtime(&self) -> Result<(), RuntimeError> {
        self.0.runtime.list().await.map(drop)
    }

    /// Whether what happens to pods can be made durable.
    pub fn is_durable(&self) -> bool {
        self.0.store.is_durable()
    }

    /// Notices the end of what works on pods.
    pub fn supervisor(&self) -> &Supervisor {
        self.0.store.supervisor()
    }

    /// An error if the operator doesn't want `order` run.
    pub fn wanted(&self, order: &Order) -> Result<(), Refusal> {
        self.0.wanted(order)
    }

    /// What pods hold of the machine.
    pub fn room(&self) -> Room {
        self.0.capacity.room(self.0.clock.now())
    }

    /// How many pods run.
    pub fn running_count(&self) -> usize {
        self.0.table().values().filter(|entry| matches!(entry.stage, Stage::Running { .. })).count()
    }

    /// What runs the pods.
    pub fn capabilities(&self) -> Capabilities {
        self.0.runtime.capabilities()
    }

    /// Whether an upload of `order` could be carried out now. Asked before any money moves.
    pub async fn admit(&self, order: &Order) -> Result<(), Refusal> {
        self.0.wanted(order)?;
        self.open().await?;
        for container in &order.spec.containers {
            self.0.runtime.check_container(container).await?;
        }
        let table = self.0.table();
        match decide(table.get(&order.spec.id)) {
            Decision::Start { .. } => self.0.startable(order).and_then(|()| self.0.fits(order)),
            Decision::Extend | Decision::Wait => Ok(()),
        }
    }

    /// Carries out a paid upload: starts the pod, or lets it run longer if it does. `segment` names the payment; it is used
    /// only if this succeeds. Once begun it goes on when nobody waits for it any more.
    pub async fn upload(&self, order: Arc<Order>, seconds: u32, segment: &str) -> Result<Receipt, Refusal> {
        let (keeper, segment) = (self.clone(), segment.to_owned());
        self.supervisor().spawn_job("upload", async move { keeper.start_or_extend(order, seconds, &segment).await }).await?
    }

    async fn start_or_extend(&self, order: Arc<Order>, seconds: u32, segment: &str) -> Result<Receipt, Refusal> {
        let mut changed = self.0.changed.subscribe();
        loop {
            let permit = self.0.store.reserve().await?;
            let begun = {
                let mut table = self.0.table();
                self.0.wanted(&order)?;
                self.0.known()?;
                match decide(table.get(&order.spec.id)) {
                    Decision::Wait => None,
                    Decision::Extend => {
                        let (receipt, writes) = self.0.extend(&mut table, &order.spec.id, seconds, segment)?;
                        Some((Some(receipt), permit.send(writes)))
                    }
                    Decision::Start { kept_seconds } => {
                        let writes = self.0.begin(&mut table, &order, seconds, kept_seconds, segment)?;
                        Some((None, permit.send(writes)))
                    }
                }
            };
            match begun {
                None => {
                    // The sender lives as long as `self`: this ends with a change, not with an error.
                    let _ = changed.changed().await;
                }
                Some((receipt, durable)) => {
                    durable.await?;
                    return match receipt {
                        Some(receipt) => {
                            self.0.announce();
                            Ok(receipt)
                        }
                        None => self.0.start(&order).await,
                    };
                }
            }
        }
    }

    /// Carries out a paid extension of a pod that runs. Once begun it goes on when nobody waits for it any more.
    pub async fn extend(&self, id: &PodId, seconds: u32, segment: &str) -> Result<Receipt, Refusal> {
        let (keeper, id, segment) = (self.clone(), id.clone(), segment.to_owned());
        self.supervisor().spawn_job("extension", async move { keeper.extend_running(&id, seconds, &segment).await }).await?
    }

    async fn extend_running(&self, id: &PodId, seconds: u32, segment: &str) -> Result<Receipt, Refusal> {
        let permit = self.0.store.reserve().await?;
        let (receipt, durable) = {
            let mut table = self.0.table();
            self.0.known()?;
            let (entry, _) = running(&table, id)?;
            self.0.wanted(&entry.order)?;
            let (receipt, writes) = self.0.extend(&mut table, id, seconds, segment)?;
            (receipt, permit.send(writes))
        };
        durable.await?;
        self.0.announce();
        Ok(receipt)
    }

    /// The pod, if it runs.
    pub fn running(&self, id: &PodId) -> Result<PodView, Refusal> {
        let table = self.0.table();
        let found = running(&table, id);
        if matches!(found, Err(Refusal::Stopped(_))) && self.0.marks_of(id).end_new_starts() {
            return Err(Refusal::TakenDown(id.clone()));
        }
        let (entry, expires_at) = found?;
        Ok(PodView { order: entry.order.clone(), receipt: self.receipt(id, expires_at) })
    }

    /// What was uploaded under that name, whatever has become of it.
    pub fn order(&self, id: &PodId) -> Option<Arc<Order>> {
        self.0.table().get(id).map(|entry| entry.order.clone())
    }

    /// The pod's log; whether the caller may read it is the caller's question.
    pub async fn logs(&self, id: &PodId, follow: bool) -> Result<LogLines, Refusal> {
        Ok(self.0.runtime.logs(id, follow).await?)
    }

    /// The receipt of a pod that runs until `expires_at`.
    pub fn receipt(&self, id: &PodId, expires_at: Timestamp) -> Receipt {
        self.0.receipt(id, expires_at)
    }

    /// What a receipt would say if the pod were started now.
    pub fn provisional(&self, id: &PodId, seconds: u32) -> Receipt {
        self.receipt(id, later(self.0.clock.now(), seconds))
    }

    /// Stops every pod, also those that are being changed, and waits for it; what they had left to run is gone. For demonstrations and tests.
    pub async fn stop_all(&self) {
        let ids: Vec<PodId> = self.0.table().keys().cloned().collect();
        self.stop_these(&ids).await;
    }
}

/// The entry of a pod that runs, and when it expires.
fn running<'a>(table: &'a HashMap<PodId, Entry>, id: &PodId) -> Result<(&'a Entry, Timestamp), Refusal> {
    let entry = table.get(id).ok_or_else(|| Refusal::NoSuchPod(id.clone()))?;
    match entry.stage {
        Stage::Running { term, .. } => Ok((entry, term.expires_at)),
        Stage::Reviving | Stage::Starting { .. } | Stage::Stopping | Stage::Unknown => Err(Refusal::Changing(id.clone())),
        Stage::Clearing | Stage::Exited { .. } => Err(Refusal::Stopped(id.clone())),
    }
}

impl Inner {
    pub(super) fn table(&self) -> StateGuard<'_, Table> {
        self.table.lock()
    }

    pub(super) fn announce(&self) {
        self.changed.send_replace(());
        self.desk.announce();
    }

    pub(super) fn receipt(&self, id: &PodId, expires_at: Timestamp) -> Receipt {
        let mut url = self.config.public_uri.clone();
        let host = url.host_str().map(|host| format!("{id}.{host}"));
        // An IP address can't have a name before it; the URI was checked to be a name at start.
        let _ = url.set_host(host.as_deref());
        Receipt { url: url.into(), manifest_hash: id.clone(), expiry: format!("{expires_at:.3}") }
    }

    /// An error until the pods from before the start are known.
    fn known(&self) -> Result<(), Refusal> {
        if self.recovering.load(Ordering::Acquire) { Err(Refusal::Recovering) } else { Ok(()) }
    }

    /// Whether the pod has its place, or would get one now.
    fn fits(&self, order: &Order) -> Result<(), Refusal> {
        self.capacity.fits(&order.spec.id, &order.spec.machine, self.clock.now()).map_err(Refusal::Full)
    }

    /// Looks how much disk there is. What can't be said stays what it was.
    pub(super) async fn measure_disk(&self) {
        let capacity = self.capacity.clone();
        let measured = tokio::task::spawn_blocking(move || capacity.measure_disk()).await;
        if let Err(error) = measured.map_err(io::Error::other).flatten() {
            tracing::warn!(%error, "can't say how much disk is free");
        }
    }

    /// How long until `at`, not less than nothing.
    pub(super) fn until(&self, at: Timestamp) -> Duration {
        let left = self.clock.now().duration_until(at);
        if left > SignedDuration::ZERO { left.unsigned_abs() } else { Duration::ZERO }
    }
}
