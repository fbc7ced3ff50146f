//! Handles pods that have lost their machines: marks them, restarts them one at a time on trial, or ends their automatic restarts.
//!
//! `crash_policy` decides what each loss counts as.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use codiusd_runtime::{PodId, RuntimeError};
use jiff::Timestamp;
use tokio::time;

use super::{
    crash_policy::{self, CrashHistory, LostOne, Mark},
    manager::{Inner, Refusal},
    state::Term,
    tables::PodChange,
};
use crate::db::DatabaseFailed;
use crate::workload::PodOrder;

/// Pods whose crash history is kept; beyond that the one with the oldest last mark is evicted.
const MARKED_MAX: usize = 10_000;

/// What a restart waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wait {
    /// Pause that spares a daemon that has crashed recently.
    pub(super) calm: Duration,
    /// Length of the trial, if the pod has to wait for its turn to be on trial.
    pub(super) trial: Option<Duration>,
}

impl Inner {
    /// Lock order: may be taken while the table is locked, never the other way round.
    fn marks(&self) -> MutexGuard<'_, HashMap<PodId, CrashHistory>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_trial(&self) -> MutexGuard<'_, Option<PodId>> {
        self.on_trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod's unexpired crash history.
    pub(super) fn marks_of(&self, id: &PodId) -> CrashHistory {
        let now = self.clock.now();
        self.marks().get(id).copied().filter(|marks| !marks.are_forgotten(now)).unwrap_or_else(|| CrashHistory::none(now))
    }

    /// Fails if the pod has too many marks to be started again, even for a paid upload.
    pub(super) fn startable(&self, order: &PodOrder) -> Result<(), Refusal> {
        let marks = self.marks_of(&order.spec.id);
        if !marks.are_too_many() {
            return Ok(());
        }
        let until = marks.last.saturating_add(crash_policy::FORGOTTEN_AFTER).unwrap_or(Timestamp::MAX);
        let step =
            format!("it has taken down its virtual machine, or what runs all of them, {} times; not before {until:.0}", marks.count());
        Err(RuntimeError::Start { id: order.spec.id.clone(), step, source: None }.into())
    }

    /// Adds a mark and returns the resulting crash history. The mark is durable when this returns.
    pub(super) async fn mark(&self, id: &PodId, mark: Mark) -> Result<CrashHistory, DatabaseFailed> {
        self.change_marks(id, |marks, now| marks.with(mark, now)).await
    }

    /// Like [`mark`](Self::mark), for a pod whose machine crashed while the daemon kept running.
    pub(super) async fn mark_crash(&self, id: &PodId, incarnation: u64) -> Result<CrashHistory, DatabaseFailed> {
        self.change_marks(id, |marks, now| marks.with_crash(incarnation, now)).await
    }

    async fn change_marks(
        &self,
        id: &PodId,
        change: impl FnOnce(CrashHistory, Timestamp) -> CrashHistory,
    ) -> Result<CrashHistory, DatabaseFailed> {
        let permit = self.database.reserve().await?;
        let now = self.clock.now();
        let (marked, durable) = {
            let mut marks = self.marks();
            let before = marks.get(id).copied().filter(|marks| !marks.are_forgotten(now)).unwrap_or_else(|| CrashHistory::none(now));
            let marked = change(before, now);
            let mut forgotten: Vec<PodId> = marks.iter().filter(|(_, marks)| marks.are_forgotten(now)).map(|(id, _)| id.clone()).collect();
            if marks.len() >= MARKED_MAX && !marks.contains_key(id) {
                forgotten.extend(marks.iter().min_by_key(|(_, marks)| marks.last).map(|(id, _)| id.clone()));
            }
            forgotten.retain(|other| other != id);
            let mut writes = vec![PodChange::CrashHistory(id.clone(), marked)];
            for id in forgotten {
                marks.remove(&id);
                writes.push(PodChange::RemoveCrashHistory(id));
            }
            marks.insert(id.clone(), marked);
            (marked, permit.send(writes))
        };
        durable.await?;
        tracing::warn!(
            pod = %id, strikes = marked.strikes, suspicions = marked.suspicions,
            "crash recorded for pod"
        );
        Ok(marked)
    }

    /// Marks the pods that were lost when this run of the daemon ended.
    pub(super) async fn mark_lost(&self, lost: &[&PodId], run: Option<u64>, survived: bool) -> Result<Vec<CrashHistory>, DatabaseFailed> {
        let tried = self.on_trial().clone();
        let fact = |id: &&PodId| LostOne { marks: self.marks_of(id).count(), on_trial: tried.as_ref() == Some(*id) };
        let facts: Vec<LostOne> = lost.iter().map(fact).collect();
        let mut marked = Vec::with_capacity(lost.len());
        // A pod that was starting at that time may be the culprit, and is not in `lost`.
        let fell_in_start = run == Some(self.fell_in_start.load(Ordering::Relaxed));
        for (id, mark) in lost.iter().zip(crash_policy::judge_crash(&facts, survived)) {
            let mark = if fell_in_start { Mark::Suspicion } else { mark };
            marked.push(self.mark(id, mark).await?);
        }
        Ok(marked)
    }

    /// Length of the trial of a pod with these marks.
    pub(super) fn trial(&self, marks: CrashHistory) -> Duration {
        crash_policy::trial(marks.count(), self.config.retry_after)
    }

    /// Marks a pod if the daemon crashed while the pod was starting; `before` is the daemon's run at the beginning of the start.
    /// Returns true if the pod must not be restarted automatically.
    pub(super) async fn mark_failed_start(&self, id: &PodId, before: Option<u64>) -> Result<bool, DatabaseFailed> {
        let Some(before) = before else { return Ok(false) };
        let lives = self.runtime.list().await.is_ok() && self.runtime.daemon() == Some(before);
        if lives {
            return Ok(false);
        }
        self.fell_in_start.store(before, Ordering::Relaxed);
        let mark = crash_policy::judge_start(self.marks_of(id).count());
        Ok(self.mark(id, mark).await?.end_new_starts())
    }

    /// The daemon's current run; none if there is no daemon, or it doesn't answer.
    pub(super) async fn daemon_now(&self) -> Option<u64> {
        self.runtime.daemon()?;
        self.runtime.list().await.ok()?;
        self.runtime.daemon()
    }

    /// Restarts a pod after the waits in `wait`, or ends it if it expires first.
    pub(super) async fn renewed(&self, order: &Arc<PodOrder>, term: Term, wait: Wait) {
        let turn = async {
            time::sleep(wait.calm).await;
            match wait.trial {
                Some(_) => self.trials.acquire().await.ok(),
                None => None,
            }
        };
        let turn = tokio::select! {
            turn = turn => turn,
            () = time::sleep(self.until(term.expires_at)) => None,
        };
        if turn.is_some() {
            *self.on_trial() = Some(order.spec.id.clone());
        }
        self.restart(order, term).await;
        if let (Some(_turn), Some(trial)) = (turn, wait.trial) {
            time::sleep(trial).await;
            *self.on_trial() = None;
        }
    }
}
