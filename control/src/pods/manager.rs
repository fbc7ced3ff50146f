//! The table of pods, and how a paid order goes through it.
//!
//! One lock, never held across an await. A change of both a payment and a pod (start, extension, failure) is one
//! commit: a place in the database's queue is reserved, table and invoices are changed, the changes are sent, the lock is released.
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

use async_trait::async_trait;
use codiusd_api_types::pods::Receipt;
use codiusd_runtime::{Capabilities, LogLines, PodId, Runtime, RuntimeError};
use codiusd_supervisor::{StateGuard, StateLock, Supervisor};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinError,
};
use url::Url;

use super::{
    crash_policy::CrashHistory,
    metrics::PodMetrics,
    state::{Decision, Entry, Stage, decide, later},
    table::Table,
};
use crate::workload::PodOrder;
use crate::{
    capacity::{CapacityLedger, CapacityUsage, Resource},
    clock::Clock,
    db::{Database, DatabaseFailed},
    money::{CostPerMonth, NotPaid, Payments},
    operator::{Ban, OperatorRows, OperatorState},
};

/// Why a pod's route was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithdrawReason {
    /// It expired at that time.
    Expired(Timestamp),
    /// All its containers had exited, as noticed at that time.
    Exited(Timestamp),
    /// It has been restarting since that time.
    Restarting(Timestamp),
    /// It was stopped or removed.
    Stopped,
}

/// The edge's routes of pods. A pod is published only while it runs, and a withdrawal completes before the pod's next transition: the
/// table keeps it in a stage that is neither running nor free until then, so the two never overtake each other.
#[async_trait]
pub trait Routes: Debug + Send + Sync + 'static {
    /// Routes new requests for the pod to `address`. `incarnation` differs between any two starts.
    fn publish(&self, pod: &PodId, address: SocketAddr, incarnation: u64);
    /// Completes when every edge has acknowledged that it sends no new request to the pod: only then may the address be reused.
    /// Visitors may be shown the reason. Called again when the reason changes; never called while the table is locked.
    async fn withdraw(&self, pod: &PodId, why: WithdrawReason);
    /// Whether no visitor's request to the pod is in flight.
    fn is_quiet(&self, pod: &PodId) -> bool;
}

/// Settings and initial state of the manager.
#[derive(Clone, Debug)]
pub struct PodManagerConfig {
    /// Where visitors reach this host; pods are at `<hash>.` before its host name.
    pub public_uri: Url,
    /// The operator's settings and bans at start.
    pub operator: OperatorState,
    /// Interval between polls of the runtime.
    pub look_every: Duration,
    /// Delay before a failed runtime operation is retried.
    pub retry_after: Duration,
    /// Crash histories of pods, as stored.
    pub crash_histories: Vec<(PodId, CrashHistory)>,
}

impl PodManagerConfig {
    /// Default intervals, without operator settings.
    pub fn new(public_uri: Url) -> Self {
        let operator = OperatorState::new(OperatorRows::default(), CostPerMonth::DEFAULT);
        Self { public_uri, operator, look_every: Duration::from_secs(1), retry_after: Duration::from_secs(2), crash_histories: Vec::new() }
    }
}

/// Why an order is refused (for now). The payment is not lost: it stays on the Pay-Token.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The operator has banned it.
    #[error("{} {} is banned by the operator of this host", .0.kind(), .0)]
    Banned(Ban),
    /// The host is draining.
    #[error("this host takes no uploads and extensions at the moment")]
    Draining,
    /// The pods hold all the capacity of a resource.
    #[error("{0} usage exceeded. Send pod request later.")]
    Full(Resource),
    /// The operator no longer sells the pod's size, so an extension has no price.
    #[error("machine: this host doesn't sell {0:?} any more")]
    NotSold(String),
    /// There is no such pod.
    #[error("no pod found with id. id={0}")]
    NoSuchPod(PodId),
    /// Another request has used the payment meanwhile.
    #[error(transparent)]
    NotPaid(#[from] NotPaid),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The pod is being started or stopped.
    #[error("pod is being started or stopped. manifestHash={0}")]
    Changing(PodId),
    /// Recovery of the pods from before the start hasn't finished.
    #[error("the host is still looking for its pods")]
    Recovering,
    /// The pod's containers have exited.
    #[error("pod has stopped. manifestHash={0}")]
    Stopped(PodId),
    /// The pod's automatic restarts have ended because of its crash history.
    #[error(
        "pod has taken down its virtual machine, or what runs all of them, too often. Its time left is kept for another upload. manifestHash={0}"
    )]
    TakenDown(PodId),
    /// Nothing can be made durable.
    #[error(transparent)]
    Database(#[from] DatabaseFailed),
    /// The task carrying out the request panicked.
    #[error("the request was interrupted")]
    Interrupted(#[from] JoinError),
}

/// What callers get to know about a running pod.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The uploaded order.
    pub order: Arc<PodOrder>,
    /// Its URL and expiry.
    pub receipt: Receipt,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) table: StateLock<Table>,
    pub(super) capacity: Arc<CapacityLedger>,
    pub(super) config: PodManagerConfig,
    /// The operator's current settings and bans.
    pub(super) operator: StateLock<OperatorState>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) routes: Arc<dyn Routes>,
    pub(super) payments: Arc<Payments>,
    pub(super) database: Database,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: PodMetrics,
    /// Crash histories.
    pub(super) marks: Mutex<HashMap<PodId, CrashHistory>>,
    /// One permit: a single pod is on trial at a time.
    pub(super) trials: Semaphore,
    /// The pod on trial.
    pub(super) on_trial: Mutex<Option<PodId>>,
    /// The last run of the daemon that ended while a pod was being started; [`u64::MAX`]: none.
    pub(super) fell_in_start: AtomicU64,
    /// Whether recovery of the pods from before the start is unfinished.
    pub(super) recovering: AtomicBool,
    /// Notifies tasks that wait for a change of the table.
    pub(super) changed: watch::Sender<()>,
}

/// Owns the pods; cheap to clone.
#[derive(Clone, Debug)]
pub struct PodManager(pub(super) Arc<Inner>);

impl PodManager {
    /// A manager without pods; [`PodManager::recover`] gives it those of the database.
    pub fn new(
        mut config: PodManagerConfig,
        runtime: Arc<dyn Runtime>,
        routes: Arc<dyn Routes>,
        payments: Arc<Payments>,
        database: Database,
        clock: Arc<dyn Clock>,
        metrics: PodMetrics,
    ) -> Self {
        let capacity = payments.capacity().clone();
        let (table, changed) = (StateLock::new("pods", database.supervisor(), Table::new(capacity.clone())), watch::Sender::new(()));
        let operator = StateLock::new("operator settings", database.supervisor(), config.operator.clone());
        let marks = Mutex::new(std::mem::take(&mut config.crash_histories).into_iter().collect());
        let inner = Inner {
            table,
            capacity,
            config,
            operator,
            runtime,
            routes,
            payments,
            database,
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

    /// Fails if the host doesn't take uploads and extensions now.
    pub async fn open(&self) -> Result<(), Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        self.ready().await
    }

    /// Whether pods can be started, and recovery has finished.
    pub async fn ready(&self) -> Result<(), Refusal> {
        self.0.runtime.ready().await?;
        self.0.known()
    }

    /// Fails if the runtime can't list its pods.
    pub async fn reaches_runtime(&self) -> Result<(), RuntimeError> {
        self.0.runtime.list().await.map(drop)
    }

    /// Whether changes to pods can be made durable.
    pub fn is_durable(&self) -> bool {
        self.0.database.is_durable()
    }

    /// The supervisor of all tasks that change pods.
    pub fn supervisor(&self) -> &Supervisor {
        self.0.database.supervisor()
    }

    /// Fails if the operator has banned `order`.
    pub fn wanted(&self, order: &PodOrder) -> Result<(), Refusal> {
        self.0.wanted(order)
    }

    /// The capacity there is, and how much of it pods hold.
    pub fn room(&self) -> CapacityUsage {
        self.0.capacity.room(self.0.clock.now())
    }

    /// Number of running pods.
    pub fn running_count(&self) -> usize {
        self.0.table().values().filter(|entry| matches!(entry.stage, Stage::Running { .. })).count()
    }

    /// Capabilities of the runtime.
    pub fn capabilities(&self) -> Capabilities {
        self.0.runtime.capabilities()
    }

    /// Why pods aren't isolated better; see [`codiusd_runtime::Runtime::isolation_note`].
    pub fn isolation_note(&self) -> Option<String> {
        self.0.runtime.isolation_note()
    }

    /// Whether an upload of `order` can be carried out now. Checked before any money moves.
    pub async fn admit(&self, order: &PodOrder) -> Result<(), Refusal> {
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

    /// Carries out a paid upload: starts the pod, or extends it if it is running. `segment` names the payment; it is used
    /// only if this succeeds. Once begun, it continues even if the caller stops waiting.
    pub async fn upload(&self, order: Arc<PodOrder>, seconds: u32, segment: &str) -> Result<Receipt, Refusal> {
        let (manager, segment) = (self.clone(), segment.to_owned());
        self.supervisor().spawn_job("upload", async move { manager.start_or_extend(order, seconds, &segment).await }).await?
    }

    async fn start_or_extend(&self, order: Arc<PodOrder>, seconds: u32, segment: &str) -> Result<Receipt, Refusal> {
        let mut changed = self.0.changed.subscribe();
        loop {
            let permit = self.0.database.reserve().await?;
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
                    // The sender lives as long as `self`, so this returns for a change, never with an error.
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

    /// Carries out a paid extension of a running pod. Once begun, it continues even if the caller stops waiting.
    pub async fn extend(&self, id: &PodId, seconds: u32, segment: &str) -> Result<Receipt, Refusal> {
        let (manager, id, segment) = (self.clone(), id.clone(), segment.to_owned());
        self.supervisor().spawn_job("extension", async move { manager.extend_running(&id, seconds, &segment).await }).await?
    }

    async fn extend_running(&self, id: &PodId, seconds: u32, segment: &str) -> Result<Receipt, Refusal> {
        let permit = self.0.database.reserve().await?;
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

    /// The pod, if it is running.
    pub fn running(&self, id: &PodId) -> Result<PodView, Refusal> {
        let table = self.0.table();
        let found = running(&table, id);
        if matches!(found, Err(Refusal::Stopped(_))) && self.0.marks_of(id).end_new_starts() {
            return Err(Refusal::TakenDown(id.clone()));
        }
        let (entry, expires_at) = found?;
        Ok(PodView { order: entry.order.clone(), receipt: self.receipt(id, expires_at) })
    }

    /// The order uploaded under that name, in whatever stage its pod is.
    pub fn order(&self, id: &PodId) -> Option<Arc<PodOrder>> {
        self.0.table().get(id).map(|entry| entry.order.clone())
    }

    /// The pod's log; the caller must check who may read it.
    pub async fn logs(&self, id: &PodId, follow: bool) -> Result<LogLines, Refusal> {
        Ok(self.0.runtime.logs(id, follow).await?)
    }

    /// The receipt of a pod that expires at `expires_at`.
    pub fn receipt(&self, id: &PodId, expires_at: Timestamp) -> Receipt {
        self.0.receipt(id, expires_at)
    }

    /// The receipt the pod would get if it were started now.
    pub fn provisional(&self, id: &PodId, seconds: u32) -> Receipt {
        self.receipt(id, later(self.0.clock.now(), seconds))
    }

    /// Stops every pod, including those being changed, and waits for completion; remaining time is lost. For demonstrations and tests.
    pub async fn stop_all(&self) {
        let ids: Vec<PodId> = self.0.table().keys().cloned().collect();
        self.stop_these(&ids).await;
    }
}

/// The entry of a running pod, and its expiry.
fn running<'a>(table: &'a HashMap<PodId, Entry>, id: &PodId) -> Result<(&'a Entry, Timestamp), Refusal> {
    let entry = table.get(id).ok_or_else(|| Refusal::NoSuchPod(id.clone()))?;
    match entry.stage {
        Stage::Running { term, .. } => Ok((entry, term.expires_at)),
        Stage::Restarting | Stage::Starting { .. } | Stage::Stopping | Stage::Unknown => Err(Refusal::Changing(id.clone())),
        Stage::Clearing | Stage::Exited { .. } => Err(Refusal::Stopped(id.clone())),
    }
}

impl Inner {
    pub(super) fn table(&self) -> StateGuard<'_, Table> {
        self.table.lock()
    }

    pub(super) fn announce(&self) {
        self.changed.send_replace(());
        self.payments.announce();
    }

    pub(super) fn receipt(&self, id: &PodId, expires_at: Timestamp) -> Receipt {
        let mut url = self.config.public_uri.clone();
        let host = url.host_str().map(|host| format!("{id}.{host}"));
        // An IP address can't have a subdomain; start-up has checked that the URI has a host name.
        let _ = url.set_host(host.as_deref());
        Receipt { url: url.into(), manifest_hash: id.to_string(), expiry: format!("{expires_at:.3}") }
    }

    /// Fails until recovery has finished.
    fn known(&self) -> Result<(), Refusal> {
        if self.recovering.load(Ordering::Acquire) { Err(Refusal::Recovering) } else { Ok(()) }
    }

    /// Fails if the pod holds no capacity and would get none now.
    fn fits(&self, order: &PodOrder) -> Result<(), Refusal> {
        self.capacity.fits(&order.spec.id, &order.spec.machine, self.clock.now()).map_err(Refusal::Full)
    }

    /// Measures free disk space. On failure the previous value stays.
    pub(super) async fn measure_disk(&self) {
        let capacity = self.capacity.clone();
        let measured = tokio::task::spawn_blocking(move || capacity.measure_disk()).await;
        if let Err(error) = measured.map_err(io::Error::other).flatten() {
            tracing::warn!(%error, "free disk space unknown");
        }
    }

    /// Time until `at`; zero if it has passed.
    pub(super) fn until(&self, at: Timestamp) -> Duration {
        let left = self.clock.now().duration_until(at);
        if left > SignedDuration::ZERO { left.unsigned_abs() } else { Duration::ZERO }
    }
}
