//! Expiry, and when to look whether pods still run (`notice` says what is done about what is seen).
//!
//! A pod's route goes first, then its containers, then its manifest and files.

use std::time::Duration;

use codiusd_runtime::PodId;
use jiff::Timestamp;
use tokio::time;

use super::{
    keeper::{Gone, Inner, Keeper},
    notice::Earlier,
    state::{EXITED_KEPT, Entry, Stage, left},
};
use crate::store::Write;

/// How long requests under way to a pod that ends have to be answered: well within the second an end is precise to.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

impl Keeper {
    /// Ends pods when their time is over, for ever; run it in a task of its own: a runtime that is slow to answer makes no pod end late.
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

    /// Sees what has become of the runtime's pods, until the store fails; run it in a task of its own.
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
            self.supervisor().spawn_job("removal of a pod", async move { inner.clear(&id).await });
        }
    }
}

/// When an entry ends by itself.
fn end_of(entry: &Entry) -> Option<Timestamp> {
    match entry.stage {
        Stage::Running { term, .. } => Some(term.expires_at),
        Stage::Exited { forget_at, .. } => Some(forget_at),
        Stage::Clearing | Stage::Reviving | Stage::Starting { .. } | Stage::Stopping | Stage::Unknown => None,
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

    /// Running or Exited -> Stopping; the route is gone when this returns. False if the pod is being changed already.
    pub(super) fn close(&self, id: &PodId) -> bool {
        let mut table = self.table();
        let Some(entry) = table.get(id).filter(|entry| end_of(entry).is_some()) else { return false };
        let why = match entry.stage {
            Stage::Running { term, .. } if term.expires_at <= self.clock.now() => Gone::Expired(term.expires_at),
            _ => Gone::Stopped,
        };
        self.routes.withdraw(id, why);
        table.set_stage(id, Stage::Stopping);
        true
    }

    /// Stopping -> gone. In a task of its own: a pod that nobody goes on stopping stays so.
    pub(super) async fn clear(&self, id: &PodId) {
        // Its route is gone; what has come before that may be answered.
        time::sleep(LAST_ANSWERS).await;
        while let Err(error) = self.runtime.stop(id).await {
            tracing::error!(pod = %id, error = &error as &dyn std::error::Error, "pod can't be stopped; trying again");
            time::sleep(self.config.retry_after).await;
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
}
