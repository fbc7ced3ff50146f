//! What the operator sees of pods, and does to them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use codiusd_runtime::PodId;
use codiusd_supervisor::StateGuard;
use futures::future::join_all;
use jiff::Timestamp;

use super::{
    keeper::{Inner, Keeper, Refusal},
    state::{Entry, Order, Stage, Term},
};
use crate::{
    house::{BANS_MAX, Ban, House},
    pay::CostPerMonth,
    store::{StoreFailed, Write},
};

/// What a pod is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It has taken down its machine, or its runtime, too often; what it had left is kept for another upload.
    Crashed,
    /// Its containers have exited; what it had left is kept for another upload.
    Exited,
    /// It is being started anew.
    Restarting,
    /// It runs.
    Running,
    /// It is being started.
    Starting,
    /// It is being stopped.
    Stopping,
    /// It ran before the host's start, and the runtime hasn't said yet what has become of it.
    Unknown,
}

impl Doing {
    /// All of it.
    pub const ALL: [Self; 7] =
        [Self::Crashed, Self::Exited, Self::Restarting, Self::Running, Self::Starting, Self::Stopping, Self::Unknown];

    /// In a word.
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

/// What can be said of a pod, whatever has become of it.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// What was uploaded.
    pub order: Arc<Order>,
    /// What it does.
    pub doing: Doing,
    /// Of one that runs.
    pub run: Option<RunFacts>,
    /// How long it still runs.
    pub remaining: Option<Duration>,
    /// What it holds of the machine's memory, in bytes.
    pub memory_bytes: u64,
}

/// What is known of a pod that runs.
#[derive(Clone, Copy, Debug)]
pub struct RunFacts {
    /// Tells this run of the pod from any other one.
    pub incarnation: u64,
    /// When it was last started.
    pub since: Timestamp,
    /// What was bought, and until when it runs.
    pub term: Term,
    /// Where it is.
    pub address: IpAddr,
}

/// The operator has banned as much as can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// There are as many as may be.
    #[error("there are {BANS_MAX} bans already")]
    Full,
    /// Nothing can be made durable.
    #[error(transparent)]
    Store(#[from] StoreFailed),
}

impl Keeper {
    /// What can be said of every pod, in the order of their names.
    pub fn survey(&self) -> Vec<PodFacts> {
        let mut pods: Vec<PodFacts> = self.0.table().values().map(|entry| self.0.facts(entry)).collect();
        pods.sort_unstable_by(|one, other| one.order.spec.id.as_str().cmp(other.order.spec.id.as_str()));
        pods
    }

    /// What can be said of one.
    pub fn facts(&self, id: &PodId) -> Option<PodFacts> {
        self.0.table().get(id).map(|entry| self.0.facts(entry))
    }

    /// Stops a pod and waits until it is gone; what it had left to run is gone, too. One that is being changed is stopped when
    /// that is done. A stop that has begun goes on when nobody waits for it any more.
    pub async fn stop(&self, id: &PodId) -> Result<(), Refusal> {
        let mut changed = self.0.changed.subscribe();
        if !self.0.table().contains_key(id) {
            return Err(Refusal::NoSuchPod(id.clone()));
        }
        while self.0.table().contains_key(id) {
            if self.0.close(id) {
                let (inner, id) = (self.0.clone(), id.clone());
                self.supervisor().spawn_job("removal of a pod", async move { inner.clear(&id).await }).await?;
                break;
            }
            // The sender lives as long as `self`: this ends with a change, not with an error.
            let _ = changed.changed().await;
        }
        Ok(())
    }

    /// What isn't run here, and whether what ran of it was to be stopped.
    pub fn bans(&self) -> Vec<(Ban, bool)> {
        self.0.house().bans.iter().map(|(ban, stop)| (ban.clone(), *stop)).collect()
    }

    /// From now on orders under `ban` are refused. Answers which of them there are; if `stop`, they are also to be stopped, which
    /// is made up for at the next start if it can't be done before. Nothing under it starts any more when this returns.
    pub async fn ban(&self, ban: Ban, stop: bool) -> Result<Vec<PodId>, BanError> {
        let permit = self.0.store.reserve().await?;
        let durable = {
            let mut house = self.0.house();
            if house.bans.len() >= BANS_MAX && !house.bans.contains_key(&ban) {
                return Err(BanError::Full);
            }
            house.bans.insert(ban.clone(), stop);
            permit.send(vec![Write::Ban { ban: ban.clone(), stop }])
        };
        durable.await?;
        tracing::warn!(%ban, stop, "banned");
        // Whoever had the table before the ban was said is in it now; whoever has it later sees the ban.
        Ok(self.0.covered(|order| ban.covers(order)))
    }

    /// Takes a ban back; false if there is none.
    pub async fn unban(&self, ban: &Ban) -> Result<bool, StoreFailed> {
        let permit = self.0.store.reserve().await?;
        let durable = {
            let mut house = self.0.house();
            if house.bans.remove(ban).is_none() {
                return Ok(false);
            }
            permit.send(vec![Write::Unban(ban.clone())])
        };
        durable.await?;
        tracing::warn!(%ban, "not banned any more");
        Ok(true)
    }

    /// Stops these, side by side, and waits for it.
    pub async fn stop_these(&self, ids: &[PodId]) {
        // One that is gone already is what was wanted.
        join_all(ids.iter().map(|id| self.stop(id))).await;
    }

    /// Whether nothing new is taken.
    pub fn is_draining(&self) -> bool {
        self.0.house().draining
    }

    /// From now on uploads and extensions are refused before they are paid for, or taken again. What is paid for is carried out.
    pub async fn drain(&self, draining: bool) -> Result<(), StoreFailed> {
        let permit = self.0.store.reserve().await?;
        let durable = {
            let mut house = self.0.house();
            house.draining = draining;
            permit.send(vec![Write::Draining(draining)])
        };
        durable.await?;
        tracing::warn!(draining, "told to drain, or not to any more");
        Ok(())
    }

    /// From now on a small pod costs this; also after a restart, if `durable`.
    pub async fn set_cost(&self, cost: CostPerMonth, durable: bool) -> Result<(), StoreFailed> {
        let permit = self.0.store.reserve().await?;
        let written = {
            let house = self.0.house();
            house.tariff.set(cost);
            let instead_of = house.configured;
            permit.send(if durable { vec![Write::Cost { cost, instead_of }] } else { Vec::new() })
        };
        written.await?;
        tracing::warn!(%cost, durable, "a small pod costs this for a month now");
        Ok(())
    }

    /// Makes up for what bans wanted stopped before the process ended.
    pub(super) fn enforce_bans(&self) {
        let stopping: Vec<Ban> = self.0.house().bans.iter().filter(|(_, stop)| **stop).map(|(ban, _)| ban.clone()).collect();
        let ids = self.0.covered(|order| stopping.iter().any(|ban| ban.covers(order)));
        if !ids.is_empty() {
            let keeper = self.clone();
            self.supervisor().spawn_job("stop of banned pods", async move { keeper.stop_these(&ids).await });
        }
    }
}

impl Inner {
    /// Never held while the table is taken.
    pub(super) fn house(&self) -> StateGuard<'_, House> {
        self.house.lock()
    }

    /// An error if the operator doesn't want `order`.
    pub(super) fn wanted(&self, order: &Order) -> Result<(), Refusal> {
        self.house().ban_of(order).map_or(Ok(()), |ban| Err(Refusal::Banned(ban.clone())))
    }

    fn covered(&self, is_covered: impl Fn(&Order) -> bool) -> Vec<PodId> {
        self.table().iter().filter(|(_, entry)| is_covered(&entry.order)).map(|(id, _)| id.clone()).collect()
    }

    fn facts(&self, entry: &Entry) -> PodFacts {
        let (doing, run) = match &entry.stage {
            Stage::Exited { .. } if self.marks_of(&entry.order.spec.id).end_new_starts() => (Doing::Crashed, None),
            Stage::Clearing | Stage::Exited { .. } => (Doing::Exited, None),
            Stage::Reviving => (Doing::Restarting, None),
            Stage::Running { run, term } => {
                let since = Timestamp::try_from(run.started_at).unwrap_or_else(|_| self.clock.now());
                (Doing::Running, Some(RunFacts { incarnation: run.incarnation, since, term: *term, address: run.address }))
            }
            Stage::Starting { .. } => (Doing::Starting, None),
            Stage::Stopping => (Doing::Stopping, None),
            Stage::Unknown => (Doing::Unknown, None),
        };
        let remaining = run.map(|run| self.until(run.term.expires_at));
        let memory_bytes = entry.holds().map_or(0, |machine| machine.memory_bytes);
        PodFacts { order: entry.order.clone(), doing, run, remaining, memory_bytes }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use codiusd_runtime::NoopRuntime;
    use tokio::time;

    use super::*;
    use crate::{
        house::HouseRows,
        pods::{
            Pod, PodRecord,
            kit::{Board, WITHIN, an_hour, order, recovered},
        },
    };

    /// A keeper of these pods, which have run until now; and the file it keeps them in.
    async fn keeper(kept: HouseRows, orders: &[Order]) -> (tempfile::TempDir, Keeper) {
        let stored = orders.iter().map(|order| PodRecord { order: order.clone(), pod: Pod::Running { term: an_hour() } });
        let house = House::new(kept, CostPerMonth::DEFAULT);
        recovered(house, Arc::new(NoopRuntime::new()), Arc::new(Board::default()), stored.collect()).await
    }

    #[tokio::test]
    async fn a_ban_that_was_cut_off_is_made_up_for() {
        let (stop, only_refuse) = (Ban::image("evil/miner").unwrap(), Ban::image("odd/page").unwrap());
        let kept = HouseRows { bans: vec![(stop, true), (only_refuse, false)], ..HouseRows::default() };
        let orders = [order("a", "evil/miner@sha256:1"), order("b", "odd/page@sha256:1"), order("c", "fine@sha256:1")];
        let (_files, keeper) = keeper(kept, &orders).await;
        let gone = async {
            let mut changed = keeper.0.changed.subscribe();
            while keeper.facts(&orders[0].spec.id).is_some() {
                changed.changed().await.unwrap();
            }
        };
        time::timeout(WITHIN, gone).await.expect("the banned pod to be gone");
        let left: Vec<PodId> = keeper.survey().iter().map(|pod| pod.order.spec.id.clone()).collect();
        assert_eq!(left, [orders[1].spec.id.clone(), orders[2].spec.id.clone()]);
    }

    #[tokio::test]
    async fn a_pod_that_is_being_changed_is_stopped_when_that_is_done() {
        let (_files, keeper) = keeper(HouseRows::default(), &[order("a", "fine@sha256:1")]).await;
        let id: PodId = "a".repeat(52).parse().unwrap();
        // The new start of a pod from before is under way; both who stop it are answered when it is gone.
        let both = async { tokio::join!(keeper.stop(&id), keeper.stop(&id)) };
        let (one, other) = time::timeout(WITHIN, both).await.expect("the pod to be gone");
        assert!(one.is_ok() && other.is_ok() && keeper.survey().is_empty());
        assert!(matches!(keeper.stop(&id).await, Err(Refusal::NoSuchPod(_))));
    }

    #[tokio::test]
    async fn nothing_is_left_of_pods_that_were_being_changed_when_all_were_stopped() {
        let (_files, keeper) = keeper(HouseRows::default(), &[order("a", "fine@sha256:1"), order("b", "fine@sha256:1")]).await;
        assert!(keeper.survey().iter().all(|pod| pod.doing == Doing::Restarting));
        time::timeout(WITHIN, keeper.stop_all()).await.expect("all to be stopped");
        assert!(keeper.survey().is_empty());
    }

    #[tokio::test]
    async fn a_stop_goes_on_when_nobody_waits_for_it_any_more() {
        let (_files, keeper) = keeper(HouseRows::default(), &[order("a", "fine@sha256:1")]).await;
        let id: PodId = "a".repeat(52).parse().unwrap();
        let mut changed = keeper.0.changed.subscribe();
        while keeper.facts(&id).is_some_and(|pod| pod.doing != Doing::Running) {
            time::timeout(WITHIN, changed.changed()).await.expect("the pod to run").unwrap();
        }
        // Polled once: it is being stopped from then on.
        assert!(futures::poll!(std::pin::pin!(keeper.stop(&id))).is_pending());
        assert_eq!(keeper.facts(&id).map(|pod| pod.doing), Some(Doing::Stopping));
        time::timeout(WITHIN, keeper.stop_all()).await.expect("it to be stopped");
        assert!(keeper.survey().is_empty());
    }

    #[tokio::test]
    async fn there_are_no_more_bans_than_may_be_kept() {
        let name = |number: usize| Ban::image(&format!("a/{number}")).unwrap();
        let kept = HouseRows { bans: (0..BANS_MAX).map(|number| (name(number), false)).collect(), ..HouseRows::default() };
        let (_files, keeper) = keeper(kept, &[]).await;
        assert_eq!(keeper.ban(name(BANS_MAX), false).await, Err(BanError::Full));
        assert_eq!(keeper.ban(name(0), true).await, Ok(Vec::new()), "one that is there may be changed");
        assert_eq!(keeper.unban(&name(1)).await, Ok(true));
        assert_eq!(keeper.ban(name(BANS_MAX), false).await, Ok(Vec::new()));
    }
}
