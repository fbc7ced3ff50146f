//! A keeper with a store of its own, and a front door that remembers what it was told last.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use codiusd_runtime::{ContainerSpec, Machine, PodId, PodSpec, Runtime};
use jiff::Timestamp;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::{sync::watch, time};

use super::{Capacity, Gone, Keeper, KeeperConfig, Order, PodMetrics, PodRecord, Routes, Term};
use crate::{
    capacity::CapacityLedger,
    clock::SystemClock,
    house::House,
    pay::{Asset, Desk},
    store::{Store, Write},
};

/// For whatever is waited for.
pub(super) const WITHIN: Duration = Duration::from_secs(30);

/// What visitors are told of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is there.
    Routed,
    Expired,
    Exited,
    Restarting,
    /// There is no such pod.
    Stopped,
}

/// What visitors are told of each pod that anything was said of.
#[derive(Debug, Default)]
pub(super) struct Board(watch::Sender<BTreeMap<PodId, Told>>);

impl Board {
    pub(super) fn told(&self) -> Vec<Told> {
        self.0.borrow().values().copied().collect()
    }

    /// Waits until visitors of the pods are told this, in the order of their names.
    pub(super) async fn comes_to(&self, told: &[Told]) {
        let mut board = self.0.subscribe();
        let all = board.wait_for(|board| board.values().eq(told));
        assert!(time::timeout(WITHIN, all).await.is_ok_and(|told| told.is_ok()), "{:?} instead of {told:?}", self.told());
    }

    fn tell(&self, pod: &PodId, told: Told) {
        self.0.send_modify(|board| {
            board.insert(pod.clone(), told);
        });
    }
}

impl Routes for Board {
    fn publish(&self, pod: &PodId, _: SocketAddr, _: u64) {
        self.tell(pod, Told::Routed);
    }

    fn withdraw(&self, pod: &PodId, why: Gone) {
        let told = match why {
            Gone::Expired(_) => Told::Expired,
            Gone::Exited(_) => Told::Exited,
            Gone::Restarting(_) => Told::Restarting,
            Gone::Stopped => Told::Stopped,
        };
        self.tell(pod, told);
    }

    fn is_quiet(&self, _: &PodId) -> bool {
        true
    }
}

/// One container, at port 80.
pub(super) fn order(letter: &str, image: &str) -> Order {
    let machine = Machine { vcpus: 1, memory_bytes: 1, disk_bytes: 1 };
    let container = ContainerSpec { name: "app".to_owned(), image: image.to_owned(), command: None, workdir: None, env: Vec::new() };
    let spec = PodSpec { id: letter.repeat(52).parse().unwrap(), machine, containers: vec![container] };
    Order { spec, machine: "small".to_owned(), manifest: "{}".into(), port: Some(80), debug: false }
}

pub(super) fn an_hour() -> Term {
    Term::new(Timestamp::now(), 3600)
}

/// A keeper that has recovered these pods, and is quick to try again; and the file it keeps them in.
pub(super) async fn recovered(house: House, runtime: Arc<dyn Runtime>, routes: Arc<Board>, stored: Vec<PodRecord>) -> (TempDir, Keeper) {
    let files = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&files.path().join("codius.db")).unwrap();
    let (_, asset) = watch::channel::<Option<Asset>>(None);
    let clock = SystemClock::shared();
    let capacity = Arc::new(CapacityLedger::new(Capacity::of_memory(64 << 30)));
    let desk = Arc::new(Desk::new(Vec::new(), Vec::new(), store.clone(), clock.clone(), asset, capacity).unwrap());
    let config = KeeperConfig::new("http://host.example".parse().unwrap());
    let config = KeeperConfig { house, retry_after: Duration::from_millis(10), ..config };
    let metrics = PodMetrics::register(&Registry::new()).unwrap();
    let rows = stored.iter().cloned().map(|record| Write::Pod(Box::new(record)));
    store.reserve().await.unwrap().send(rows.collect()).await.unwrap();
    let keeper = Keeper::new(config, runtime, routes, desk, store, clock, metrics);
    keeper.recover(stored).await.unwrap();
    (files, keeper)
}
