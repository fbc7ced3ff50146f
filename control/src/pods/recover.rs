//! Recovery after a start: reconciles the database's pods with the runtime's before uploads are taken.

use std::sync::{Arc, atomic::Ordering};

use codiusd_runtime::{PodId, PodStatus};
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::time;

use super::{
    manager::{Inner, PodManager, WithdrawReason},
    reconcile::{Repair, reconcile},
    state::{EXITED_KEPT, Entry, Pod, PodRecord, Stage, Term},
    tables::PodChange,
};
use crate::db::{Changes, DatabaseFailed};
use crate::workload::PodOrder;

/// Failed restarts, for causes that last, after which a pod that ran before is given up.
const RESTARTS_MAX: u32 = 3;
/// The delay between restart attempts grows up to this multiple of the retry delay.
const RETRIES_SLOWER_UNTIL: u32 = 10;

impl PodManager {
    /// Takes over the stored pods: running ones are adopted, interrupted starts are completed or their payment is given back,
    /// lost ones are restarted. If the runtime doesn't answer, this returns with uploads refused, and recovery continues when
    /// it does.
    pub async fn recover(&self, stored: Vec<PodRecord>) -> Result<(), DatabaseFailed> {
        self.0.measure_disk().await;
        match self.0.runtime.list().await {
            Ok(found) => self.take_over(stored, &found).await,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "runtime does not list its pods; uploads are refused until it does"
                );
                self.0.recovering.store(true, Ordering::Release);
                for record in &stored {
                    self.0.routes.withdraw(&record.order.spec.id, WithdrawReason::Restarting(self.0.clock.now())).await;
                    // In this stage no task changes the pod, and it doesn't count as an orphan.
                    let entry = Entry { order: Arc::new(record.order.clone()), stage: Stage::Unknown };
                    self.0.table().insert(record.order.spec.id.clone(), entry);
                }
                let manager = self.clone();
                self.supervisor().spawn_job("recovery", async move { manager.recover_later(stored).await });
                Ok(())
            }
        }
    }

    async fn recover_later(&self, stored: Vec<PodRecord>) {
        let found = loop {
            time::sleep(self.0.config.retry_after).await;
            if let Ok(found) = self.0.runtime.list().await {
                break found;
            }
        };
        // If the database has failed, the process ends, and the next start recovers from the same state.
        if self.take_over(stored, &found).await.is_ok() {
            self.0.recovering.store(false, Ordering::Release);
            tracing::info!("runtime answers; uploads are accepted");
            self.0.announce();
        }
    }

    /// First does everything that doesn't wait for the runtime: running pods are routed at once, whatever happens to others.
    async fn take_over(&self, stored: Vec<PodRecord>, found: &[PodStatus]) -> Result<(), DatabaseFailed> {
        let repairs = reconcile(&stored, found, self.0.clock.now());
        let mut later = Vec::new();
        for (record, (id, repair)) in stored.into_iter().zip(repairs) {
            tracing::info!(pod = %id, ?repair, "pod recovered from the database");
            later.extend(self.repair(&id, Arc::new(record.order), repair).await?);
        }
        self.0.count(found);
        self.free_payments().await?;
        for work in later {
            self.supervisor().spawn_job("recovery of a pod", work);
        }
        self.enforce_bans();
        Ok(())
    }

    /// Enters a pod into the table, and returns the work that has to wait for the runtime; until that is done the pod is being changed.
    /// Visitors may have been shown "restarting" so far; a different state replaces that.
    async fn repair(&self, id: &PodId, order: Arc<PodOrder>, repair: Repair) -> Result<Option<BoxFuture<'static, ()>>, DatabaseFailed> {
        let repair = match repair {
            Repair::Crashed { term, incarnation } if self.0.mark_crash(id, incarnation).await?.end_new_starts() => {
                Repair::Exited { expires_at: term.expires_at }
            }
            Repair::Crashed { term, .. } => Repair::Restart { term },
            repair => repair,
        };
        let place = |stage| {
            self.0.table().insert(id.clone(), Entry { order: order.clone(), stage });
        };
        let withdraw = |why| self.0.routes.withdraw(id, why);
        let (inner, name, now) = (self.0.clone(), id.clone(), self.0.clock.now());
        match repair {
            Repair::Complete { run, segment, seconds } => {
                place(Stage::Starting { segment, seconds, kept_seconds: 0 });
                let started_at = Timestamp::try_from(run.started_at).unwrap_or(now);
                self.0.started(&order, run, started_at).await?;
            }
            Repair::GiveBack { segment, kept_seconds } => {
                withdraw(if kept_seconds == 0 { WithdrawReason::Stopped } else { WithdrawReason::Exited(now) }).await;
                place(Stage::Starting { segment, seconds: kept_seconds, kept_seconds });
                return Ok(Some(Box::pin(async move { inner.undo_start(&name).await })));
            }
            Repair::Adopt { run, term } => {
                place(Stage::Running { run, term });
                self.0.publish(id, &run).await;
            }
            Repair::Crashed { term, .. } | Repair::Restart { term } => {
                // Visitors are asked to retry, instead of getting "no such pod".
                withdraw(WithdrawReason::Restarting(now)).await;
                place(Stage::Restarting);
                let order = order.clone();
                return Ok(Some(Box::pin(async move { inner.restart(&order, term).await })));
            }
            Repair::Exited { expires_at } => {
                let (seconds, forget_at) = self.0.what_is_left(expires_at);
                withdraw(WithdrawReason::Exited(now)).await;
                place(Stage::Exited { seconds, forget_at });
                self.0.keep(id, Pod::Exited { seconds, forget_at }).await?;
            }
            Repair::Keep { seconds, forget_at } => {
                withdraw(WithdrawReason::Exited(forget_at.saturating_sub(EXITED_KEPT).unwrap_or(now))).await;
                place(Stage::Exited { seconds, forget_at });
            }
            Repair::Forget => {
                place(Stage::Stopping);
                return Ok(Some(Box::pin(async move { inner.clear(&name, WithdrawReason::Stopped).await })));
            }
        }
        Ok(None)
    }

    /// Gives back payments that were being consumed when the process ended and belong to no pod.
    async fn free_payments(&self) -> Result<(), DatabaseFailed> {
        for segment in self.0.payments.consuming() {
            let in_hand = |entry: &Entry| matches!(&entry.stage, Stage::Starting { segment: theirs, .. } if *theirs == segment);
            if self.0.table().values().any(in_hand) {
                continue;
            }
            let permit = self.0.database.reserve().await?;
            permit.send(self.0.payments.give_back(&segment).map(Changes::from).unwrap_or_default()).await?;
        }
        Ok(())
    }
}

impl Inner {
    /// Removes the remains of an interrupted start, and gives its payment back.
    async fn undo_start(&self, id: &PodId) {
        if let Err(error) = self.runtime.stop(id).await {
            tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "remains of an interrupted pod start not removed yet");
        }
        // If the database has failed, the next start finds the pod in the same state.
        let _ = self.give_back(id).await;
    }

    /// Restarts a lost or degraded pod with the same expiry. It has run before, so failures are retried until it expires, unless its own
    /// containers fail to start or it is the pod that crashes the daemon.
    pub(super) async fn restart(&self, order: &Arc<PodOrder>, term: Term) {
        let (id, expires_at) = (&order.spec.id, term.expires_at);
        let mut tries = 0;
        let started = loop {
            tries += 1;
            let daemon = self.daemon_now().await;
            let started = self.run(order).await;
            // If the database has failed, the process ends.
            let is_culprit = started.is_err() && self.mark_failed_start(id, daemon).await.unwrap_or(true);
            match &started {
                Err(error) if !(is_culprit || error.is_lasting() && tries >= RESTARTS_MAX) && self.clock.now() < expires_at => {
                    tracing::debug!(pod = %id, error = error as &dyn std::error::Error, "pod restart failed; trying again");
                    time::sleep(self.config.retry_after * tries.min(RETRIES_SLOWER_UNTIL)).await;
                }
                _ => break started,
            }
        };
        let place = |stage| self.table().insert(id.clone(), Entry { order: order.clone(), stage });
        match started {
            Ok(run) => {
                self.answers(order, &run).await;
                place(Stage::Running { run, term });
                self.publish(id, &run).await;
            }
            Err(_) if expires_at <= self.clock.now() => {
                place(Stage::Stopping);
                self.clear(id, WithdrawReason::Expired(expires_at)).await;
            }
            Err(error) => {
                tracing::error!(pod = %id, error = &error as &dyn std::error::Error, "pod restart failed; its remaining time is kept");
                self.routes.withdraw(id, WithdrawReason::Exited(self.clock.now())).await;
                let (seconds, forget_at) = self.what_is_left(expires_at);
                place(Stage::Exited { seconds, forget_at });
                // If the database has failed, the next start finds the pod in the same state.
                let _ = self.keep(id, Pod::Exited { seconds, forget_at }).await;
            }
        }
        self.announce();
    }

    async fn keep(&self, id: &PodId, pod: Pod) -> Result<(), DatabaseFailed> {
        self.database.reserve().await?.send(vec![PodChange::Progress(id.clone(), pod)]).await
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use codiusd_runtime::{Capabilities, LogLines, NoopRuntime, PodSpec, PodState, RunningPod, Runtime, RuntimeError};
    use codiusd_supervisor::Cause;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        money::CostPerMonth,
        operator::{OperatorRows, OperatorState},
        pods::{
            PodPhase,
            test_support::{RecordingRoutes, RouteState, WITHIN, an_hour, order, recovered},
        },
    };

    /// A runtime that doesn't answer until `back` is set; starts wait for that, too.
    #[derive(Debug, Default)]
    struct Away {
        runs: NoopRuntime,
        exited: Vec<PodId>,
        back: watch::Sender<bool>,
        lists: bool,
    }

    #[async_trait]
    impl Runtime for Away {
        fn capabilities(&self) -> Capabilities {
            self.runs.capabilities()
        }

        async fn check_image(&self, image: &str) -> Result<(), RuntimeError> {
            self.runs.check_image(image).await
        }

        async fn start(&self, spec: PodSpec) -> Result<RunningPod, RuntimeError> {
            self.back.subscribe().wait_for(|back| *back).await.unwrap();
            self.runs.start(spec).await
        }

        async fn stop(&self, id: &PodId) -> Result<(), RuntimeError> {
            self.runs.stop(id).await
        }

        async fn list(&self) -> Result<Vec<PodStatus>, RuntimeError> {
            if !self.lists && !*self.back.borrow() {
                return Err(RuntimeError::Unavailable { operation: "asking for pods".to_owned(), source: None });
            }
            let exited = |id: &PodId| PodStatus { id: id.clone(), state: PodState::Exited, memory_bytes: 1, degraded: false };
            let running = self.runs.list().await?;
            Ok(running.into_iter().chain(self.exited.iter().map(exited)).collect())
        }

        async fn logs(&self, id: &PodId, follow: bool) -> Result<LogLines, RuntimeError> {
            self.runs.logs(id, follow).await
        }
    }

    fn operator() -> OperatorState {
        OperatorState::new(OperatorRows::default(), CostPerMonth::DEFAULT)
    }

    fn stored(letter: &str, pod: Pod) -> PodRecord {
        PodRecord { order: order(letter, "image"), pod }
    }

    /// A runtime that panics when a pod is started.
    #[derive(Debug, Default)]
    struct Broken(NoopRuntime);

    #[async_trait]
    impl Runtime for Broken {
        fn capabilities(&self) -> Capabilities {
            self.0.capabilities()
        }

        async fn check_image(&self, _: &str) -> Result<(), RuntimeError> {
            Ok(())
        }

        async fn start(&self, spec: PodSpec) -> Result<RunningPod, RuntimeError> {
            panic!("a bug, met while {} is started", spec.id)
        }

        async fn stop(&self, id: &PodId) -> Result<(), RuntimeError> {
            self.0.stop(id).await
        }

        async fn list(&self) -> Result<Vec<PodStatus>, RuntimeError> {
            self.0.list().await
        }

        async fn logs(&self, id: &PodId, follow: bool) -> Result<LogLines, RuntimeError> {
            self.0.logs(id, follow).await
        }
    }

    #[tokio::test]
    async fn a_panic_in_a_task_that_changes_a_pod_is_not_lost() {
        let lost = vec![stored("a", Pod::Running { term: an_hour() })];
        let (_files, manager) = recovered(operator(), Arc::new(Broken::default()), Arc::new(RecordingRoutes::default()), lost).await;
        let failure = time::timeout(WITHIN, manager.supervisor().failed()).await.expect("waited for the failure to be noticed");
        assert_eq!((failure.name, failure.cause), ("recovery of a pod", Cause::Panicked));
    }

    #[tokio::test]
    async fn visitors_of_a_lost_pod_are_told_to_come_again_until_it_is_back() {
        let (runtime, board) = (Arc::new(Away { lists: true, ..Away::default() }), Arc::new(RecordingRoutes::default()));
        let lost = vec![stored("a", Pod::Running { term: an_hour() })];
        let (_files, _keeper) = recovered(operator(), runtime.clone(), board.clone(), lost).await;
        assert_eq!(board.told(), [RouteState::Restarting], "before anything is served");
        runtime.back.send_replace(true);
        board.comes_to(&[RouteState::Routed]).await;
    }

    #[tokio::test]
    async fn visitors_are_told_to_come_again_until_the_runtime_says_what_has_become_of_pods() {
        let now = Timestamp::now();
        let forget_at = an_hour().expires_at;
        let starting = |kept_seconds| Pod::Starting { segment: "unknown".to_owned(), seconds: 60, kept_seconds };
        let runtime = Arc::new(Away { exited: vec![order("b", "image").spec.id], ..Away::default() });
        runtime.runs.start(order("a", "image").spec).await.unwrap();
        let rows = [
            (stored("a", Pod::Running { term: an_hour() }), RouteState::Routed),
            (stored("b", Pod::Running { term: an_hour() }), RouteState::Exited),
            (stored("c", Pod::Exited { seconds: 60, forget_at }), RouteState::Exited),
            (stored("d", starting(0)), RouteState::Stopped),
            (stored("e", starting(60)), RouteState::Exited),
            (stored("f", Pod::Running { term: Term::new(now, 0) }), RouteState::Stopped),
            (stored("g", Pod::Running { term: an_hour() }), RouteState::Routed),
            (stored("h", Pod::Running { term: an_hour() }), RouteState::Stopped),
        ];
        let (mut records, told): (Vec<PodRecord>, Vec<RouteState>) = rows.into_iter().unzip();
        records[7].order.port = None;
        let board = Arc::new(RecordingRoutes::default());
        let (_files, manager) = recovered(operator(), runtime.clone(), board.clone(), records).await;
        assert_eq!(board.told(), [RouteState::Restarting; 8], "nobody knows yet");
        assert!(manager.summaries().iter().all(|pod| pod.phase == PodPhase::Unknown), "nor is any said to be restarted");
        runtime.back.send_replace(true);
        board.comes_to(&told).await;
    }
}
