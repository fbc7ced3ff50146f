//! A manager with a database of its own, and an edge that records the last state of each route.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use codiusd_runtime::{ContainerSpec, Machine, PodId, PodSpec, Runtime};
use codiusd_supervisor::Supervisor;
use jiff::Timestamp;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::{sync::watch, time};

use super::{PodChange, PodManager, PodManagerConfig, PodMetrics, PodRecord, Routes, Term, WithdrawReason};
use crate::workload::PodOrder;
use crate::{
    capacity::{Capacity, CapacityLedger},
    clock::SystemClock,
    money::{Asset, Payments},
    operator::OperatorState,
    persistence,
};

/// Timeout of every wait in tests.
pub(super) const WITHIN: Duration = Duration::from_secs(30);

/// The state of a pod's route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteState {
    /// Routed.
    Routed,
    Expired,
    Exited,
    Restarting,
    /// There is no such pod.
    Stopped,
}

/// Records the route state of each pod.
#[derive(Debug, Default)]
pub(super) struct RecordingRoutes {
    board: watch::Sender<BTreeMap<PodId, RouteState>>,
    withheld: watch::Sender<bool>,
}

impl RecordingRoutes {
    pub(super) fn told(&self) -> Vec<RouteState> {
        self.board.borrow().values().copied().collect()
    }

    /// Waits until the pods' routes are in these states, sorted by pod name.
    pub(super) async fn comes_to(&self, told: &[RouteState]) {
        let mut board = self.board.subscribe();
        let all = board.wait_for(|board| board.values().eq(told));
        assert!(time::timeout(WITHIN, all).await.is_ok_and(|told| told.is_ok()), "{:?} instead of {told:?}", self.told());
    }

    /// Sets whether withdrawals are acknowledged; waiting ones are released when this becomes true.
    pub(super) fn acknowledge(&self, acknowledges: bool) {
        self.withheld.send_replace(!acknowledges);
    }

    fn tell(&self, pod: &PodId, told: RouteState) {
        self.board.send_modify(|board| {
            board.insert(pod.clone(), told);
        });
    }
}

#[async_trait]
impl Routes for RecordingRoutes {
    fn publish(&self, pod: &PodId, _: SocketAddr, _: u64) {
        self.tell(pod, RouteState::Routed);
    }

    async fn withdraw(&self, pod: &PodId, why: WithdrawReason) {
        let told = match why {
            WithdrawReason::Expired(_) => RouteState::Expired,
            WithdrawReason::Exited(_) => RouteState::Exited,
            WithdrawReason::Restarting(_) => RouteState::Restarting,
            WithdrawReason::Stopped => RouteState::Stopped,
        };
        self.tell(pod, told);
        // The sender lives as long as `self`.
        let _ = self.withheld.subscribe().wait_for(|withheld| !withheld).await;
    }

    fn is_quiet(&self, _: &PodId) -> bool {
        true
    }
}

/// One container, at port 80.
pub(super) fn order(letter: &str, image: &str) -> PodOrder {
    let machine = Machine { vcpus: 1, memory_bytes: 1, disk_bytes: 1 };
    let container = ContainerSpec { name: "app".to_owned(), image: image.to_owned(), command: None, workdir: None, env: Vec::new() };
    let spec = PodSpec { id: letter.repeat(52).parse().unwrap(), machine, containers: vec![container] };
    PodOrder { spec, machine: "small".to_owned(), manifest: "{}".into(), port: Some(80), debug: false }
}

pub(super) fn an_hour() -> Term {
    Term::new(Timestamp::now(), 3600)
}

/// A manager that has recovered these pods and retries quickly, and its database file.
pub(super) async fn recovered(
    operator: OperatorState,
    runtime: Arc<dyn Runtime>,
    routes: Arc<RecordingRoutes>,
    stored: Vec<PodRecord>,
) -> (TempDir, PodManager) {
    let files = tempfile::tempdir().unwrap();
    let (database, _) = persistence::open(&files.path().join("codius.db"), Supervisor::default()).unwrap();
    let (_, asset) = watch::channel::<Option<Asset>>(None);
    let clock = SystemClock::shared();
    let capacity = Arc::new(CapacityLedger::new(Capacity::of_memory(64 << 30)));
    let payments = Arc::new(Payments::new(Vec::new(), Vec::new(), database.clone(), clock.clone(), asset, capacity).unwrap());
    let config = PodManagerConfig::new("http://host.example".parse().unwrap());
    let config = PodManagerConfig { operator, retry_after: Duration::from_millis(10), ..config };
    let metrics = PodMetrics::register(&Registry::new()).unwrap();
    let rows = stored.iter().cloned().map(|record| PodChange::Put(Box::new(record)));
    database.reserve().await.unwrap().send(rows.collect::<Vec<_>>()).await.unwrap();
    let manager = PodManager::new(config, runtime, routes, payments, database, clock, metrics);
    manager.recover(stored).await.unwrap();
    (files, manager)
}
