//! After a start: the store's pods and the runtime's are made to agree, before orders are taken.

use std::sync::{Arc, atomic::Ordering};

use codiusd_runtime::{PodId, PodStatus};
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::time;

use super::{
    keeper::{Gone, Inner, Keeper},
    reconcile::{Repair, reconcile},
    state::{EXITED_KEPT, Entry, Order, Pod, PodRecord, Stage, Term},
};
use crate::store::{StoreFailed, Write};

/// How often a pod that ran before is started anew before it counts as broken.
const REVIVALS_MAX: u32 = 3;
/// Each try to start a pod anew waits longer than the one before, up to this one.
const RETRIES_SLOWER_UNTIL: u32 = 10;

impl Keeper {
    /// Takes over the stored pods: those that run go on, interrupted starts are completed or their payment given back,
    /// pods lost with the machine are started again. While the runtime is away nothing can be said of them: this returns,
    /// orders are refused, and they are taken over when it is back.
    pub async fn recover(&self, stored: Vec<PodRecord>) -> Result<(), StoreFailed> {
        self.0.measure_disk().await;
        match self.0.runtime.list().await {
            Ok(found) => self.take_over(stored, &found).await,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the runtime can't say which pods run; orders are refused until it can"
                );
                self.0.recovering.store(true, Ordering::Release);
                for record in &stored {
                    // Nobody touches them, and they are no orphans.
                    self.0.routes.withdraw(&record.order.spec.id, Gone::Restarting(self.0.clock.now()));
                    let entry = Entry { order: Arc::new(record.order.clone()), stage: Stage::Unknown };
                    self.0.table().insert(record.order.spec.id.clone(), entry);
                }
                let keeper = self.clone();
                self.supervisor().spawn_job("recovery", async move { keeper.recover_later(stored).await });
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
        // If the store has failed, the process ends, and the next one finds all as it was.
        if self.take_over(stored, &found).await.is_ok() {
            self.0.recovering.store(false, Ordering::Release);
            tracing::info!("the runtime is back, and orders are taken");
            self.0.announce();
        }
    }

    /// What needs no word from the runtime first: pods that run are routed at once, whatever is wrong with others.
    async fn take_over(&self, stored: Vec<PodRecord>, found: &[PodStatus]) -> Result<(), StoreFailed> {
        let repairs = reconcile(&stored, found, self.0.clock.now());
        let mut later = Vec::new();
        for (record, (id, repair)) in stored.into_iter().zip(repairs) {
            tracing::info!(pod = %id, ?repair, "pod from before the start");
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

    /// Gives a pod its place, and answers what has to be waited for; until then the pod is being changed. Visitors may have been told to
    /// come again: who needn't is told so.
    async fn repair(&self, id: &PodId, order: Arc<Order>, repair: Repair) -> Result<Option<BoxFuture<'static, ()>>, StoreFailed> {
        let repair = match repair {
            Repair::Crashed { term, incarnation } if self.0.mark_crash(id, incarnation).await?.end_new_starts() => {
                Repair::Exited { expires_at: term.expires_at }
            }
            Repair::Crashed { term, .. } => Repair::Revive { term },
            repair => repair,
        };
        let place = |stage| {
            self.0.table().insert(id.clone(), Entry { order: order.clone(), stage });
        };
        let gone = |why| self.0.routes.withdraw(id, why);
        let (inner, name, now) = (self.0.clone(), id.clone(), self.0.clock.now());
        match repair {
            Repair::Complete { run, segment, seconds } => {
                place(Stage::Starting { segment, seconds, kept_seconds: 0 });
                let started_at = Timestamp::try_from(run.started_at).unwrap_or(now);
                self.0.started(&order, run, started_at).await?;
            }
            Repair::GiveBack { segment, kept_seconds } => {
                place(Stage::Starting { segment, seconds: kept_seconds, kept_seconds });
                gone(if kept_seconds == 0 { Gone::Stopped } else { Gone::Exited(now) });
                return Ok(Some(Box::pin(async move { inner.undo_start(&name).await })));
            }
            Repair::Adopt { run, term } => {
                place(Stage::Running { run, term });
                self.0.publish(id, &run);
            }
            Repair::Crashed { term, .. } | Repair::Revive { term } => {
                place(Stage::Reviving);
                // Visitors are told to come again, not that there is no such pod.
                gone(Gone::Restarting(now));
                let order = order.clone();
                return Ok(Some(Box::pin(async move { inner.revive(&order, term).await })));
            }
            Repair::Exited { expires_at } => {
                let (seconds, forget_at) = self.0.what_is_left(expires_at);
                place(Stage::Exited { seconds, forget_at });
                gone(Gone::Exited(now));
                self.0.keep(id, Pod::Exited { seconds, forget_at }).await?;
            }
            Repair::Keep { seconds, forget_at } => {
                place(Stage::Exited { seconds, forget_at });
                gone(Gone::Exited(forget_at.saturating_sub(EXITED_KEPT).unwrap_or(now)));
            }
            Repair::Forget => {
                place(Stage::Stopping);
                gone(Gone::Stopped);
                return Ok(Some(Box::pin(async move { inner.clear(&name).await })));
            }
        }
        Ok(None)
    }

    /// Payments that were in hand when the process ended and belong to no pod are free again.
    async fn free_payments(&self) -> Result<(), StoreFailed> {
        for segment in self.0.desk.consuming() {
            let in_hand = |entry: &Entry| matches!(&entry.stage, Stage::Starting { segment: theirs, .. } if *theirs == segment);
            if self.0.table().values().any(in_hand) {
                continue;
            }
            let permit = self.0.store.reserve().await?;
            let writes: Vec<Write> = self.0.desk.give_back(&segment).into_iter().collect();
            permit.send(writes).await?;
        }
        Ok(())
    }
}

impl Inner {
    /// Clears away what an interrupted start has left, and frees its payment.
    async fn undo_start(&self, id: &PodId) {
        if let Err(error) = self.runtime.stop(id).await {
            tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "what is left of an interrupted start can't be removed yet");
        }
        // If the store has failed, the next start finds the pod as it was.
        let _ = self.give_back(id).await;
    }

    /// Starts a pod that was lost, or that is worn; it keeps its end. It ran before: unless it is its own containers that don't
    /// begin, this is tried until its time is over.
    pub(super) async fn revive(&self, order: &Arc<Order>, term: Term) {
        let (id, expires_at) = (&order.spec.id, term.expires_at);
        let mut tries = 0;
        let started = loop {
            tries += 1;
            let daemon = self.daemon_now().await;
            let started = self.run(order).await;
            // If the store has failed, the process ends.
            let is_culprit = started.is_err() && self.mark_failed_start(id, daemon).await.unwrap_or(true);
            match &started {
                Err(error) if !(is_culprit || error.is_lasting() && tries >= REVIVALS_MAX) && self.clock.now() < expires_at => {
                    tracing::debug!(pod = %id, error = error as &dyn std::error::Error, "pod can't be started anew yet");
                    time::sleep(self.config.retry_after * tries.min(RETRIES_SLOWER_UNTIL)).await;
                }
                _ => break started,
            }
        };
        let place = |stage| {
            let mut table = self.table();
            match stage {
                Stage::Exited { .. } => self.routes.withdraw(id, Gone::Exited(self.clock.now())),
                Stage::Stopping => self.routes.withdraw(id, Gone::Expired(expires_at)),
                _ => {}
            }
            table.insert(id.clone(), Entry { order: order.clone(), stage });
        };
        match started {
            Ok(run) => {
                self.answers(order, &run).await;
                place(Stage::Running { run, term });
                self.publish(id, &run);
            }
            Err(_) if expires_at <= self.clock.now() => {
                place(Stage::Stopping);
                self.clear(id).await;
            }
            Err(error) => {
                tracing::error!(pod = %id, error = &error as &dyn std::error::Error, "pod can't be started again; its time left is kept");
                let (seconds, forget_at) = self.what_is_left(expires_at);
                place(Stage::Exited { seconds, forget_at });
                // If the store has failed, the next start finds the pod as it was.
                let _ = self.keep(id, Pod::Exited { seconds, forget_at }).await;
            }
        }
        self.announce();
    }

    async fn keep(&self, id: &PodId, pod: Pod) -> Result<(), StoreFailed> {
        self.store.reserve().await?.send(vec![Write::PodProgress(id.clone(), pod)]).await
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
        house::{House, HouseRows},
        pay::CostPerMonth,
        pods::{
            Doing,
            kit::{Board, Told, WITHIN, an_hour, order, recovered},
        },
    };

    /// A runtime that is away until it is said to be back. Until then starts, too, wait for that.
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
            let exited = |id: &PodId| PodStatus { id: id.clone(), state: PodState::Exited, memory_bytes: 1, worn: false };
            let running = self.runs.list().await?;
            Ok(running.into_iter().chain(self.exited.iter().map(exited)).collect())
        }

        async fn logs(&self, id: &PodId, follow: bool) -> Result<LogLines, RuntimeError> {
            self.runs.logs(id, follow).await
        }
    }

    fn house() -> House {
        House::new(HouseRows::default(), CostPerMonth::DEFAULT)
    }

    fn stored(letter: &str, pod: Pod) -> PodRecord {
        PodRecord { order: order(letter, "image"), pod }
    }

    /// One that panics when a pod is to be started.
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
        let (_files, keeper) = recovered(house(), Arc::new(Broken::default()), Arc::new(Board::default()), lost).await;
        let failure = time::timeout(WITHIN, keeper.supervisor().failed()).await.expect("waited for the failure to be noticed");
        assert_eq!((failure.name, failure.cause), ("recovery of a pod", Cause::Panicked));
    }

    #[tokio::test]
    async fn visitors_of_a_lost_pod_are_told_to_come_again_until_it_is_back() {
        let (runtime, board) = (Arc::new(Away { lists: true, ..Away::default() }), Arc::new(Board::default()));
        let lost = vec![stored("a", Pod::Running { term: an_hour() })];
        let (_files, _keeper) = recovered(house(), runtime.clone(), board.clone(), lost).await;
        assert_eq!(board.told(), [Told::Restarting], "before anything is served");
        runtime.back.send_replace(true);
        board.comes_to(&[Told::Routed]).await;
    }

    #[tokio::test]
    async fn visitors_are_told_to_come_again_until_the_runtime_says_what_has_become_of_pods() {
        let now = Timestamp::now();
        let forget_at = an_hour().expires_at;
        let starting = |kept_seconds| Pod::Starting { segment: "unknown".to_owned(), seconds: 60, kept_seconds };
        let runtime = Arc::new(Away { exited: vec![order("b", "image").spec.id], ..Away::default() });
        runtime.runs.start(order("a", "image").spec).await.unwrap();
        let rows = [
            (stored("a", Pod::Running { term: an_hour() }), Told::Routed),
            (stored("b", Pod::Running { term: an_hour() }), Told::Exited),
            (stored("c", Pod::Exited { seconds: 60, forget_at }), Told::Exited),
            (stored("d", starting(0)), Told::Stopped),
            (stored("e", starting(60)), Told::Exited),
            (stored("f", Pod::Running { term: Term::new(now, 0) }), Told::Stopped),
            (stored("g", Pod::Running { term: an_hour() }), Told::Routed),
            (stored("h", Pod::Running { term: an_hour() }), Told::Stopped),
        ];
        let (mut records, told): (Vec<PodRecord>, Vec<Told>) = rows.into_iter().unzip();
        records[7].order.port = None;
        let board = Arc::new(Board::default());
        let (_files, keeper) = recovered(house(), runtime.clone(), board.clone(), records).await;
        assert_eq!(board.told(), [Told::Restarting; 8], "nobody knows yet");
        assert!(keeper.survey().iter().all(|pod| pod.doing == Doing::Unknown), "nor is any said to be restarted");
        runtime.back.send_replace(true);
        board.comes_to(&told).await;
    }
}
