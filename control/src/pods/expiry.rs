//! Expiry, and the schedule of polls (`watcher` handles their results).
//!
//! The end of a pod withdraws its route first, then stops its containers, then deletes its manifest and files.

use std::time::Duration;

use codiusd_runtime::PodId;
use jiff::Timestamp;
use tokio::time;

use super::{
    manager::{Inner, PodManager, WithdrawReason},
    state::{EXITED_KEPT, Entry, Stage, left},
    tables::PodChange,
    watcher::Earlier,
};

/// How long requests in flight to an ending pod have to complete: well within the one-second precision of an expiry.
pub(super) const LAST_ANSWERS: Duration = Duration::from_millis(100);

impl PodManager {
    /// Ends pods when they expire; never returns. Run it in a task of its own, so that a slow runtime delays no expiry.
    pub async fn watch_ends(&self) {
        let mut changed = self.0.changed.subscribe();
        loop {
            let next_end = self.0.next_end().map(|at| self.0.until(at));
            let ended = async {
                match next_end {
                    Some(left) => time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ended => self.end_due(),
                _ = changed.changed() => {}
            }
        }
    }

    /// Polls the runtime until the database fails; run it in a task of its own.
    pub async fn watch_runtime(&self) {
        let mut looks = time::interval(self.0.config.look_every);
        looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut earlier = Earlier::default();
        loop {
            looks.tick().await;
            if self.0.look(&mut earlier).await.is_err() {
                return;
            }
        }
    }

    /// Ends every expired pod, each in a task of its own.
    fn end_due(&self) {
        let now = self.0.clock.now();
        let due: Vec<PodId> = {
            let table = self.0.table();
            table.iter().filter(|(_, entry)| end_of(entry).is_some_and(|at| at <= now)).map(|(id, _)| id.clone()).collect()
        };
        for id in due {
            let Some(why) = self.0.close(&id) else { continue };
            let inner = self.0.clone();
            self.supervisor().spawn_job("removal of a pod", async move { inner.clear(&id, why).await });
        }
    }
}

/// When an entry expires.
fn end_of(entry: &Entry) -> Option<Timestamp> {
    match entry.stage {
        Stage::Running { term, .. } => Some(term.expires_at),
        Stage::Exited { forget_at, .. } => Some(forget_at),
        Stage::Clearing | Stage::Restarting | Stage::Starting { .. } | Stage::Stopping | Stage::Unknown => None,
    }
}

impl Inner {
    /// Remaining time of a pod that ends before `expires_at`, and until when it is kept.
    pub(super) fn what_is_left(&self, expires_at: Timestamp) -> (u32, Timestamp) {
        let now = self.clock.now();
        (left(expires_at, now), now.saturating_add(EXITED_KEPT).unwrap_or(Timestamp::MAX))
    }

    fn next_end(&self) -> Option<Timestamp> {
        self.table().values().filter_map(end_of).min()
    }

    /// Running or Exited -> Stopping. Returns the reason to pass to [`clear`](Self::clear); `None` if the pod is being changed already.
    pub(super) fn close(&self, id: &PodId) -> Option<WithdrawReason> {
        let mut table = self.table();
        let why = match table.get(id).filter(|entry| end_of(entry).is_some())?.stage {
            Stage::Running { term, .. } if term.expires_at <= self.clock.now() => WithdrawReason::Expired(term.expires_at),
            _ => WithdrawReason::Stopped,
        };
        table.set_stage(id, Stage::Stopping);
        Some(why)
    }

    /// Stopping -> removed. Run it in a task of its own: if it were cancelled, the pod would stay in `Stopping`.
    pub(super) async fn clear(&self, id: &PodId, why: WithdrawReason) {
        self.routes.withdraw(id, why).await;
        // Lets requests in flight complete.
        time::sleep(LAST_ANSWERS).await;
        while let Err(error) = self.runtime.stop(id).await {
            tracing::error!(pod = %id, error = &error as &dyn std::error::Error, "pod stop failed; trying again");
            time::sleep(self.config.retry_after).await;
        }
        let Ok(permit) = self.database.reserve().await else { return };
        let durable = {
            self.table().remove(id);
            permit.send(vec![PodChange::Remove(id.clone())])
        };
        if durable.await.is_ok() {
            tracing::info!(pod = %id, "pod removed");
        }
        self.announce();
    }
}
