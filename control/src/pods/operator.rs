//! The operator's view of pods, and operations on them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use codiusd_runtime::PodId;
use codiusd_supervisor::StateGuard;
use futures::future::join_all;
use jiff::Timestamp;

use super::{
    manager::{Inner, PodManager, Refusal},
    state::{Entry, Stage, Term},
};
use crate::workload::PodOrder;
use crate::{
    db::DatabaseFailed,
    money::CostPerMonth,
    operator::{BANS_MAX, Ban, OperatorChange, OperatorState},
};

/// The phase of a pod, as the operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Its crash history has ended automatic restarts; the remaining time is kept for another upload.
    Crashed,
    /// Its containers have exited; the remaining time is kept for another upload.
    Exited,
    /// It is restarting.
    Restarting,
    /// It runs.
    Running,
    /// It is being started.
    Starting,
    /// It is being stopped.
    Stopping,
    /// From before the host's start; the runtime hasn't reported its state yet.
    Unknown,
}

impl PodPhase {
    /// All phases.
    pub const ALL: [Self; 7] =
        [Self::Crashed, Self::Exited, Self::Restarting, Self::Running, Self::Starting, Self::Stopping, Self::Unknown];

    /// The phase as one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Exited => "exited",
            Self::Restarting => "restarting",
            Self::Running => "running",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Unknown => "unknown",
        }
    }
}

/// Summary of a pod in any phase.
#[derive(Clone, Debug)]
pub struct PodSummary {
    /// The uploaded order.
    pub order: Arc<PodOrder>,
    /// Its phase.
    pub phase: PodPhase,
    /// Details of a running pod.
    pub run: Option<RunSummary>,
    /// Remaining time.
    pub remaining: Option<Duration>,
    /// Memory it holds, in bytes.
    pub memory_bytes: u64,
}

/// Details of a running pod.
#[derive(Clone, Copy, Debug)]
pub struct RunSummary {
    /// Distinguishes this incarnation of the pod from any other.
    pub incarnation: u64,
    /// When it was last started.
    pub since: Timestamp,
    /// The time it was bought, and its expiry.
    pub term: Term,
    /// Its address.
    pub address: IpAddr,
}

/// Why a ban was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// The limit of bans is reached.
    #[error("there are {BANS_MAX} bans already")]
    Full,
    /// Nothing can be made durable.
    #[error(transparent)]
    Database(#[from] DatabaseFailed),
}

impl PodManager {
    /// A summary of every pod, sorted by name.
    pub fn summaries(&self) -> Vec<PodSummary> {
        let mut pods: Vec<PodSummary> = self.0.table().values().map(|entry| self.0.facts(entry)).collect();
        pods.sort_unstable_by(|one, other| one.order.spec.id.as_str().cmp(other.order.spec.id.as_str()));
        pods
    }

    /// The phase of every pod, in no order.
    pub fn phases(&self) -> Vec<PodPhase> {
        self.0.table().values().map(|entry| self.0.phase(entry)).collect()
    }

    /// The summary of one pod.
    pub fn facts(&self, id: &PodId) -> Option<PodSummary> {
        self.0.table().get(id).map(|entry| self.0.facts(entry))
    }

    /// Stops a pod and waits until it is removed; its remaining time is lost. A pod that is being changed is stopped when that change has
    /// finished. Once begun, a stop continues even if the caller stops waiting.
    pub async fn stop(&self, id: &PodId) -> Result<(), Refusal> {
        let mut changed = self.0.changed.subscribe();
        if !self.0.table().contains_key(id) {
            return Err(Refusal::NoSuchPod(id.clone()));
        }
        while self.0.table().contains_key(id) {
            if let Some(why) = self.0.close(id) {
                let (inner, id) = (self.0.clone(), id.clone());
                self.supervisor().spawn_job("removal of a pod", async move { inner.clear(&id, why).await }).await?;
                break;
            }
            // The sender lives as long as `self`, so this returns for a change, never with an error.
            let _ = changed.changed().await;
        }
        Ok(())
    }

    /// The bans, each with whether it also stops running pods.
    pub fn bans(&self) -> Vec<(Ban, bool)> {
        self.0.operator().bans.iter().map(|(ban, stop)| (ban.clone(), *stop)).collect()
    }

    /// Refuses uploads under `ban` from now on. Returns the pods it covers; if `stop`, the caller is to stop them, and a restart of the
    /// process stops any that remain. Nothing under the ban starts any more when this returns.
    pub async fn ban(&self, ban: Ban, stop: bool) -> Result<Vec<PodId>, BanError> {
        let permit = self.0.database.reserve().await?;
        let durable = {
            let mut operator = self.0.operator();
            if operator.bans.len() >= BANS_MAX && !operator.bans.contains_key(&ban) {
                return Err(BanError::Full);
            }
            operator.bans.insert(ban.clone(), stop);
            permit.send(vec![OperatorChange::Ban { ban: ban.clone(), stop }])
        };
        durable.await?;
        tracing::warn!(%ban, stop, "ban added");
        // A start that locked the table before the ban was added is in the table now; any later one is refused.
        Ok(self.0.covered(|order| ban.covers(order)))
    }

    /// Removes a ban; false if there is none.
    pub async fn unban(&self, ban: &Ban) -> Result<bool, DatabaseFailed> {
        let permit = self.0.database.reserve().await?;
        let durable = {
            let mut operator = self.0.operator();
            if operator.bans.remove(ban).is_none() {
                return Ok(false);
            }
            permit.send(vec![OperatorChange::Unban(ban.clone())])
        };
        durable.await?;
        tracing::warn!(%ban, "ban removed");
        Ok(true)
    }

    /// Stops these pods in parallel and waits for completion.
    pub async fn stop_these(&self, ids: &[PodId]) {
        // A pod that has been removed already is a success.
        join_all(ids.iter().map(|id| self.stop(id))).await;
    }

    /// Whether the host is draining.
    pub fn is_draining(&self) -> bool {
        self.0.operator().draining
    }

    /// Refuses uploads and extensions before they are paid for, or accepts them again. Paid requests are still carried out.
    pub async fn drain(&self, draining: bool) -> Result<(), DatabaseFailed> {
        let permit = self.0.database.reserve().await?;
        let durable = {
            let mut operator = self.0.operator();
            operator.draining = draining;
            permit.send(vec![OperatorChange::Draining(draining)])
        };
        durable.await?;
        tracing::warn!(draining, "drain mode changed");
        Ok(())
    }

    /// Sets the price of a small pod; it survives a restart if `durable`.
    pub async fn set_cost(&self, cost: CostPerMonth, durable: bool) -> Result<(), DatabaseFailed> {
        let permit = self.0.database.reserve().await?;
        let written = {
            let operator = self.0.operator();
            operator.tariff.set(cost);
            let instead_of = operator.configured;
            permit.send(if durable { vec![OperatorChange::Cost { cost, instead_of }] } else { Vec::new() })
        };
        written.await?;
        tracing::warn!(%cost, durable, "price changed");
        Ok(())
    }

    /// Stops pods under bans with `stop` that were still running when the process ended.
    pub(super) fn enforce_bans(&self) {
        let stopping: Vec<Ban> = self.0.operator().bans.iter().filter(|(_, stop)| **stop).map(|(ban, _)| ban.clone()).collect();
        let ids = self.0.covered(|order| stopping.iter().any(|ban| ban.covers(order)));
        if !ids.is_empty() {
            let manager = self.clone();
            self.supervisor().spawn_job("stop of banned pods", async move { manager.stop_these(&ids).await });
        }
    }
}

impl Inner {
    /// Lock order: never held while the table is being locked.
    pub(super) fn operator(&self) -> StateGuard<'_, OperatorState> {
        self.operator.lock()
    }

    /// Fails if the operator has banned `order`.
    pub(super) fn wanted(&self, order: &PodOrder) -> Result<(), Refusal> {
        self.operator().ban_of(order).map_or(Ok(()), |ban| Err(Refusal::Banned(ban.clone())))
    }

    fn covered(&self, is_covered: impl Fn(&PodOrder) -> bool) -> Vec<PodId> {
        self.table().iter().filter(|(_, entry)| is_covered(&entry.order)).map(|(id, _)| id.clone()).collect()
    }

    fn phase(&self, entry: &Entry) -> PodPhase {
        match entry.stage {
            Stage::Exited { .. } if self.marks_of(&entry.order.spec.id).end_new_starts() => PodPhase::Crashed,
            Stage::Clearing | Stage::Exited { .. } => PodPhase::Exited,
            Stage::Restarting => PodPhase::Restarting,
            Stage::Running { .. } => PodPhase::Running,
            Stage::Starting { .. } => PodPhase::Starting,
            Stage::Stopping => PodPhase::Stopping,
            Stage::Unknown => PodPhase::Unknown,
        }
    }

    fn facts(&self, entry: &Entry) -> PodSummary {
        let phase = self.phase(entry);
        let run = match entry.stage {
            Stage::Running { run, term } => {
                let since = Timestamp::try_from(run.started_at).unwrap_or_else(|_| self.clock.now());
                Some(RunSummary { incarnation: run.incarnation, since, term, address: run.address })
            }
            _ => None,
        };
        let remaining = run.map(|run| self.until(run.term.expires_at));
        let memory_bytes = entry.holds().map_or(0, |machine| machine.memory_bytes);
        PodSummary { order: entry.order.clone(), phase, run, remaining, memory_bytes }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use codiusd_runtime::{NoopRuntime, Runtime};
    use tokio::time;

    use super::*;
    use crate::{
        operator::OperatorRows,
        pods::{
            Pod, PodRecord,
            test_support::{RecordingRoutes, RouteState, WITHIN, an_hour, order, recovered},
        },
    };

    /// A manager of these pods, which have run until now; and the file it keeps them in.
    async fn manager(kept: OperatorRows, orders: &[PodOrder]) -> (tempfile::TempDir, PodManager) {
        let stored = orders.iter().map(|order| PodRecord { order: order.clone(), pod: Pod::Running { term: an_hour() } });
        let operator = OperatorState::new(kept, CostPerMonth::DEFAULT);
        recovered(operator, Arc::new(NoopRuntime::new()), Arc::new(RecordingRoutes::default()), stored.collect()).await
    }

    #[tokio::test]
    async fn a_ban_that_was_cut_off_is_made_up_for() {
        let (stop, only_refuse) = (Ban::image("evil/miner").unwrap(), Ban::image("odd/page").unwrap());
        let kept = OperatorRows { bans: vec![(stop, true), (only_refuse, false)], ..OperatorRows::default() };
        let orders = [order("a", "evil/miner@sha256:1"), order("b", "odd/page@sha256:1"), order("c", "fine@sha256:1")];
        let (_files, manager) = manager(kept, &orders).await;
        let gone = async {
            let mut changed = manager.0.changed.subscribe();
            while manager.facts(&orders[0].spec.id).is_some() {
                changed.changed().await.unwrap();
            }
        };
        time::timeout(WITHIN, gone).await.expect("the banned pod to be gone");
        let left: Vec<PodId> = manager.summaries().iter().map(|pod| pod.order.spec.id.clone()).collect();
        assert_eq!(left, [orders[1].spec.id.clone(), orders[2].spec.id.clone()]);
    }

    #[tokio::test]
    async fn a_pod_that_is_being_changed_is_stopped_when_that_is_done() {
        let (_files, manager) = manager(OperatorRows::default(), &[order("a", "fine@sha256:1")]).await;
        let id: PodId = "a".repeat(52).parse().unwrap();
        // A stored pod is restarting; both stop calls return once it is removed.
        let both = async { tokio::join!(manager.stop(&id), manager.stop(&id)) };
        let (one, other) = time::timeout(WITHIN, both).await.expect("the pod to be gone");
        assert!(one.is_ok() && other.is_ok() && manager.summaries().is_empty());
        assert!(matches!(manager.stop(&id).await, Err(Refusal::NoSuchPod(_))));
    }

    #[tokio::test]
    async fn nothing_is_left_of_pods_that_were_being_changed_when_all_were_stopped() {
        let (_files, manager) = manager(OperatorRows::default(), &[order("a", "fine@sha256:1"), order("b", "fine@sha256:1")]).await;
        assert!(manager.summaries().iter().all(|pod| pod.phase == PodPhase::Restarting));
        time::timeout(WITHIN, manager.stop_all()).await.expect("all to be stopped");
        assert!(manager.summaries().is_empty());
    }

    #[tokio::test]
    async fn a_stop_goes_on_when_nobody_waits_for_it_any_more() {
        let (_files, manager) = manager(OperatorRows::default(), &[order("a", "fine@sha256:1")]).await;
        let id: PodId = "a".repeat(52).parse().unwrap();
        let mut changed = manager.0.changed.subscribe();
        while manager.facts(&id).is_some_and(|pod| pod.phase != PodPhase::Running) {
            time::timeout(WITHIN, changed.changed()).await.expect("the pod to run").unwrap();
        }
        // One poll begins the stop.
        assert!(futures::poll!(std::pin::pin!(manager.stop(&id))).is_pending());
        assert_eq!(manager.facts(&id).map(|pod| pod.phase), Some(PodPhase::Stopping));
        time::timeout(WITHIN, manager.stop_all()).await.expect("it to be stopped");
        assert!(manager.summaries().is_empty());
    }

    #[tokio::test]
    async fn a_pod_runs_until_every_edge_has_acknowledged_that_its_route_is_withdrawn() {
        let (runtime, routes) = (Arc::new(NoopRuntime::new()), Arc::new(RecordingRoutes::default()));
        let lost = vec![PodRecord { order: order("a", "fine@sha256:1"), pod: Pod::Running { term: an_hour() } }];
        let operator = OperatorState::new(OperatorRows::default(), CostPerMonth::DEFAULT);
        let orders = ["a", "b", "c"].map(|letter| order(letter, "fine@sha256:1"));
        let (_other_files, other) = manager(OperatorRows::default(), &orders).await;
        let (_files, manager) = recovered(operator, runtime.clone(), routes.clone(), lost).await;
        routes.comes_to(&[RouteState::Routed]).await;

        let id: PodId = "a".repeat(52).parse().unwrap();
        routes.acknowledge(false);
        let mut stop = Box::pin(manager.stop(&id));
        // Another host's pods, whose withdrawals are acknowledged, are stopped meanwhile, one after the other.
        let others = async {
            for order in &orders {
                time::timeout(WITHIN, other.stop(&order.spec.id)).await.expect("the other host's pod to be stopped").unwrap();
            }
        };
        tokio::select! {
            biased;
            _ = &mut stop => panic!("nobody has acknowledged yet"),
            () = others => {}
        }
        assert_eq!(routes.told(), [RouteState::Stopped]);
        assert_eq!((runtime.list().await.unwrap().len(), manager.facts(&id).map(|pod| pod.phase)), (1, Some(PodPhase::Stopping)));

        routes.acknowledge(true);
        time::timeout(WITHIN, stop).await.expect("the pod to be stopped").unwrap();
        assert!(runtime.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn there_are_no_more_bans_than_may_be_kept() {
        let name = |number: usize| Ban::image(&format!("a/{number}")).unwrap();
        let kept = OperatorRows { bans: (0..BANS_MAX).map(|number| (name(number), false)).collect(), ..OperatorRows::default() };
        let (_files, manager) = manager(kept, &[]).await;
        assert_eq!(manager.ban(name(BANS_MAX), false).await, Err(BanError::Full));
        assert_eq!(manager.ban(name(0), true).await, Ok(Vec::new()), "one that is there may be changed");
        assert_eq!(manager.unban(&name(1)).await, Ok(true));
        assert_eq!(manager.ban(name(BANS_MAX), false).await, Ok(Vec::new()));
    }
}
