//! What is done about pods that have lost their machines: marked, tried out one after the other, or not started any more.
//!
//! `crashes` says what each loss tells.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use codiusd_runtime::{PodId, RuntimeError};
use jiff::Timestamp;
use tokio::time;

use super::{
    crashes::{self, LostOne, Mark, Marks},
    keeper::{Inner, Refusal},
    state::{Order, Term},
};
use crate::store::{StoreFailed, Write};

/// Pods whose losses are remembered; those that were marked longest ago make room.
const MARKED_MAX: usize = 10_000;

/// What a new start waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wait {
    /// For the daemon to have some peace.
    pub(super) calm: Duration,
    /// For its turn among those that are tried out, which it keeps for so long.
    pub(super) trial: Option<Duration>,
}

impl Inner {
    /// May be taken while the table is held, never the other way round.
    fn marks(&self) -> MutexGuard<'_, HashMap<PodId, Marks>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_trial(&self) -> MutexGuard<'_, Option<PodId>> {
        self.on_trial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What counts of a pod's losses.
    pub(super) fn marks_of(&self, id: &PodId) -> Marks {
        let now = self.clock.now();
        self.marks().get(id).copied().filter(|marks| !marks.are_forgotten(now)).unwrap_or_else(|| Marks::none(now))
    }

    /// An error if the pod has been marked too often to be started again, whoever pays for it.
    pub(super) fn startable(&self, order: &Order) -> Result<(), Refusal> {
        let marks = self.marks_of(&order.spec.id);
        if !marks.are_too_many() {
            return Ok(());
        }
        let until = marks.last.saturating_add(crashes::FORGOTTEN_AFTER).unwrap_or(Timestamp::MAX);
        let step =
            format!("it has taken down its virtual machine, or what runs all of them, {} times; not before {until:.0}", marks.count());
        Err(RuntimeError::Start { id: order.spec.id.clone(), step, source: None }.into())
    }

    /// Adds a mark, and answers what there is then. It is durable when this returns.
    pub(super) async fn mark(&self, id: &PodId, mark: Mark) -> Result<Marks, StoreFailed> {
        self.change_marks(id, |marks, now| marks.with(mark, now)).await
    }

    /// The same for a pod whose machine has ended alone.
    pub(super) async fn mark_crash(&self, id: &PodId, incarnation: u64) -> Result<Marks, StoreFailed> {
        self.change_marks(id, |marks, now| marks.with_crash(incarnation, now)).await
    }

    async fn change_marks(&self, id: &PodId, change: impl FnOnce(Marks, Timestamp) -> Marks) -> Result<Marks, StoreFailed> {
        let permit = self.store.reserve().await?;
        let now = self.clock.now();
        let (marked, durable) = {
            let mut marks = self.marks();
            let before = marks.get(id).copied().filter(|marks| !marks.are_forgotten(now)).unwrap_or_else(|| Marks::none(now));
            let marked = change(before, now);
            let mut forgotten: Vec<PodId> = marks.iter().filter(|(_, marks)| marks.are_forgotten(now)).map(|(id, _)| id.clone()).collect();
            if marks.len() >= MARKED_MAX && !marks.contains_key(id) {
                forgotten.extend(marks.iter().min_by_key(|(_, marks)| marks.last).map(|(id, _)| id.clone()));
            }
            forgotten.retain(|other| other != id);
            let mut writes = vec![Write::Marks(id.clone(), marked)];
            for id in forgotten {
                marks.remove(&id);
                writes.push(Write::ForgetMarks(id));
            }
            marks.insert(id.clone(), marked);
            (marked, permit.send(writes))
        };
        durable.await?;
        tracing::warn!(
            pod = %id, strikes = marked.strikes, suspicions = marked.suspicions,
            "the pod's machine was lost, or the daemon while it was started"
        );
        Ok(marked)
    }

    /// Marks pods that the end of this run of the daemon took along.
    pub(super) async fn mark_lost(&self, lost: &[&PodId], run: Option<u64>, survived: bool) -> Result<Vec<Marks>, StoreFailed> {
        let tried = self.on_trial().clone();
        let fact = |id: &&PodId| LostOne { marks: self.marks_of(id).count(), on_trial: tried.as_ref() == Some(*id) };
        let facts: Vec<LostOne> = lost.iter().map(fact).collect();
        let mut marked = Vec::with_capacity(lost.len());
        // Who was being started then may have done it, and isn't among them.
        let fell_in_start = run == Some(self.fell_in_start.load(Ordering::Relaxed));
        for (id, mark) in lost.iter().zip(crashes::judge_crash(&facts, survived)) {
            let mark = if fell_in_start { Mark::Suspicion } else { mark };
            marked.push(self.mark(id, mark).await?);
        }
        Ok(marked)
    }

    /// How long a pod with these marks is tried out alone.
    pub(super) fn trial(&self, marks: Marks) -> Duration {
        crashes::trial(marks.count(), self.config.retry_after)
    }

    /// Marks a pod if the daemon has gone while it was being started: `before` is its run then. True if it isn't to be tried again.
    pub(super) async fn mark_failed_start(&self, id: &PodId, before: Option<u64>) -> Result<bool, StoreFailed> {
        let Some(before) = before else { return Ok(false) };
        let lives = self.runtime.list().await.is_ok() && self.runtime.daemon() == Some(before);
        if lives {
            return Ok(false);
        }
        self.fell_in_start.store(before, Ordering::Relaxed);
        let mark = crashes::judge_start(self.marks_of(id).count());
        Ok(self.mark(id, mark).await?.end_new_starts())
    }

    /// The run of the daemon that is there now; none if there is none, or it is away.
    pub(super) async fn daemon_now(&self) -> Option<u64> {
        self.runtime.daemon()?;
        self.runtime.list().await.ok()?;
        self.runtime.daemon()
    }

    /// Starts a pod anew when what it waits for has come, or ends it if its time is over before.
    pub(super) async fn renewed(&self, order: &Arc<Order>, term: Term, wait: Wait) {
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
        self.revive(order, term).await;
        if let (Some(_turn), Some(trial)) = (turn, wait.trial) {
            time::sleep(trial).await;
            *self.on_trial() = None;
        }
    }
}
