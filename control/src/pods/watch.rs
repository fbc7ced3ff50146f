//! Expiry and exits: what ends a pod without anybody asking.
//!
//! A pod's route goes first, then its containers, then its manifest and files.

use std::time::Duration;

use codiusd_runtime::{PodId, PodState, RunningPod};
use jiff::Timestamp;
use tokio::time;

use super::{
    keeper::{Inner, Keeper},
    state::{EXITED_KEPT, Entry, Pod, Stage, left},
};
use crate::store::{StoreFailed, Write};

/// How often the runtime is asked which pods still run.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long after a failed stop the next try is made.
const STOP_RETRY: Duration = Duration::from_secs(5);

impl Keeper {
    /// Watches over the pods until the store fails; run it in a task of its own.
    pub async fn watch(&self) {
        let mut changed = self.0.changed.subscribe();
        let mut poll = time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let next_end = self.0.next_end().map(|at| self.0.until(at));
            let ended = async {
                match next_end {
                    Some(left) => time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                () = ended => {
                    self.end_due();
                    Ok(())
                }
                _ = changed.changed() => Ok(()),
                _ = poll.tick() => self.0.notice_exits().await,
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    /// Ends every pod whose time is over, each in a task of its own.
    fn end_due(&self) {
        let now = self.0.clock.now();
        let due: Vec<PodId> = {
            let table = self.0.table();
            table.iter().filter(|(_, entry)| end_of(entry).is_some_and(|at| at <= now)).map(|(id, _)| id.clone()).collect()
        };
        for id in due {
            self.0.close(&id);
            let inner = self.0.clone();
            tokio::spawn(async move { inner.clear(&id).await });
        }
    }
}

/// When an entry ends by itself.
fn end_of(entry: &Entry) -> Option<Timestamp> {
    match entry.stage {
        Stage::Running { expires_at, .. } => Some(expires_at),
        Stage::Exited { forget_at, .. } => Some(forget_at),
        Stage::Reviving | Stage::Starting { .. } | Stage::Stopping => None,
    }
}

impl Inner {
    /// What a pod that ends before `expires_at` had left, and until when that is kept.
    pub(super) fn what_is_left(&self, expires_at: Timestamp) -> (u32, Timestamp) {
        let now = self.clock.now();
        (left(expires_at, now), now.saturating_add(EXITED_KEPT).unwrap_or(Timestamp::MAX))
    }

    fn next_end(&self) -> Option<Timestamp> {
        self.table().values().filter_map(end_of).min()
    }

    /// Ends one pod now, whatever it had left.
    pub(super) async fn end(&self, id: &PodId) {
        if self.close(id) {
            self.clear(id).await;
        }
    }

    /// Running or Exited -> Stopping; the route is gone when this returns. False if the pod is being changed already.
    fn close(&self, id: &PodId) -> bool {
        let mut table = self.table();
        let Some(entry) = table.get_mut(id).filter(|entry| end_of(entry).is_some()) else { return false };
        self.routes.withdraw(id);
        entry.stage = Stage::Stopping;
        true
    }

    /// Stopping -> gone.
    async fn clear(&self, id: &PodId) {
        while let Err(error) = self.runtime.stop(id).await {
            tracing::error!(pod = %id, error = &error as &dyn std::error::Error, "pod can't be stopped; trying again");
            time::sleep(STOP_RETRY).await;
        }
        let Ok(permit) = self.store.reserve().await else { return };
        let durable = {
            self.table().remove(id);
            permit.send(vec![Write::ForgetPod(id.clone())])
        };
        if durable.await.is_ok() {
            tracing::info!(pod = %id, "pod has ended");
        }
        self.announce();
    }

    /// Finds pods whose containers have exited, withdraws their routes and keeps what they had left.
    async fn notice_exits(&self) -> Result<(), StoreFailed> {
        let before: Vec<(PodId, RunningPod)> = {
            let table = self.table();
            let running = table.iter().filter_map(|(id, entry)| match entry.stage {
                Stage::Running { run, .. } => Some((id.clone(), run)),
                Stage::Exited { .. } | Stage::Reviving | Stage::Starting { .. } | Stage::Stopping => None,
            });
            running.collect()
        };
        if before.is_empty() {
            return Ok(());
        }
        let found = match self.runtime.list().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the runtime can't say which pods run");
                return Ok(());
            }
        };
        for (id, run) in before {
            let runs = found.iter().any(|status| status.id == id && matches!(status.state, PodState::Running(_)));
            if !runs {
                self.exited(&id, run.incarnation).await?;
            }
        }
        Ok(())
    }

    /// Running -> Exited. Nothing happens if the pod has changed meanwhile, or runs in another incarnation by now.
    async fn exited(&self, id: &PodId, incarnation: u64) -> Result<(), StoreFailed> {
        let permit = self.store.reserve().await?;
        let (durable, keep_log) = {
            let mut table = self.table();
            let Some(entry) = table.get_mut(id) else { return Ok(()) };
            let Stage::Running { run, expires_at } = entry.stage else { return Ok(()) };
            if run.incarnation != incarnation {
                return Ok(());
            }
            self.routes.withdraw(id);
            let (seconds, forget_at) = self.what_is_left(expires_at);
            entry.stage = Stage::Exited { seconds, forget_at };
            let write = Write::PodProgress(id.clone(), Pod::Exited { seconds, forget_at });
            (permit.send(vec![write]), entry.order.debug)
        };
        durable.await?;
        tracing::warn!(pod = %id, "all containers of the pod have exited; the time it had left is kept for another upload");
        if !keep_log && let Err(error) = self.runtime.stop(id).await {
            tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "an exited pod can't be cleared away");
        }
        self.announce();
        Ok(())
    }
}
