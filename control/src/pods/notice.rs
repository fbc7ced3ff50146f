//! What a look at the runtime tells: exits, losses, pods that need a new start, and pods nobody here knows.
//!
//! | the runtime says of a pod that runs here | what is done |
//! |---|---|
//! | all its containers have exited | route withdrawn, the time it had left kept for another upload |
//! | it was lost with the daemon it ran under | started anew, its end stays |
//! | it can't be told from another at its address | the same, and not served meanwhile |
//! | nothing, several times in a row | the same |
//! | it runs, but can't be looked after (worn) | the same, when no request is under way to it |
//!
//! A pod nobody here knows is stopped when it has been there for the runtime's grace time.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use codiusd_runtime::{PodId, PodState, PodStatus, RunningPod};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    keeper::{Gone, Inner},
    metrics::Renewal,
    state::{Entry, Pod, Stage},
};
use crate::store::{StoreFailed, Write};

/// Looks in a row that must not find a pod before it counts as lost: a daemon that has just started may not know all yet.
const MISSING_LOOKS: u32 = 3;
/// How long a worn pod is waited for to be quiet. After that it is renewed in the middle of its work: it may hang any time.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// Worn pods that are renewed at a time: they serve, and each is away only as long as its own new start takes.
const RENEWALS_AT_ONCE: usize = 1;
/// A renewal that takes longer than this keeps no other from its turn.
const RENEWAL_TURN: Duration = Duration::from_secs(20);

/// What earlier looks have seen that takes more than one.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    missing: HashMap<(PodId, u64), u32>,
    orphans: HashMap<PodId, Instant>,
    worn: HashMap<(PodId, u64), Instant>,
    /// When worn pods have begun to be renewed.
    renewed: HashMap<PodId, Instant>,
    /// Orphans that are being stopped.
    stopping: HashMap<PodId, JoinHandle<()>>,
    away: bool,
}

/// A pod that ran before the look.
struct Before {
    id: PodId,
    run: RunningPod,
}

impl Inner {
    /// Looks once.
    pub(super) async fn look(self: &Arc<Self>, earlier: &mut Earlier) -> Result<(), StoreFailed> {
        // Before the runtime is asked: what starts meanwhile isn't missing.
        let before = self.run_before();
        self.measure_disk().await;
        let found = match self.runtime.list().await {
            Ok(found) => found,
            Err(error) => {
                if !earlier.away {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the runtime can't say which pods run; pods and routes stay");
                }
                earlier.away = true;
                return Ok(());
            }
        };
        if std::mem::take(&mut earlier.away) {
            tracing::info!("the runtime answers again");
        }
        self.count_others(&found);
        let statuses: HashMap<&PodId, &PodStatus> = found.iter().map(|status| (&status.id, status)).collect();
        let still: HashSet<(PodId, u64)> = before.iter().map(|pod| (pod.id.clone(), pod.run.incarnation)).collect();
        earlier.missing.retain(|key, _| still.contains(key));
        earlier.worn.retain(|key, _| still.contains(key));
        for pod in before {
            let key = (pod.id.clone(), pod.run.incarnation);
            match statuses.get(&pod.id).map(|status| (status.state, status.worn)) {
                Some((PodState::Running(run), worn)) if run.incarnation == pod.run.incarnation => {
                    earlier.missing.remove(&key);
                    if worn {
                        self.look_at_worn(&pod, earlier);
                    }
                }
                // Its own task is changing it.
                Some((PodState::Running(_) | PodState::Unstarted, _)) => {}
                Some((PodState::Exited, _)) => self.exited(&pod.id, pod.run.incarnation).await?,
                Some((PodState::Lost, _)) => self.renew(&pod, Renewal::Lost),
                Some((PodState::Misplaced, _)) => self.renew(&pod, Renewal::Misplaced),
                None => {
                    let looks = earlier.missing.entry(key).or_default();
                    *looks += 1;
                    if *looks >= MISSING_LOOKS {
                        self.renew(&pod, Renewal::Missing);
                    }
                }
            }
        }
        self.look_at_orphans(&found, earlier);
        Ok(())
    }

    fn run_before(&self) -> Vec<Before> {
        let table = self.table();
        let running = table.iter().filter_map(|(id, entry)| match entry.stage {
            Stage::Running { run, .. } => Some(Before { id: id.clone(), run }),
            _ => None,
        });
        running.collect()
    }

    /// Memory that isn't our pods' to give: others', and what pods hold that nobody here counts.
    pub(super) fn count_others(&self, found: &[PodStatus]) {
        let table = self.table();
        let uncounted = found.iter().filter(|status| table.get(&status.id).is_none_or(|entry| entry.holds().is_none()));
        let sum = uncounted.fold(self.runtime.foreign_memory_bytes(), |sum, status| sum.saturating_add(status.memory_bytes));
        self.others_bytes.store(sum, Ordering::Relaxed);
    }

    fn look_at_worn(self: &Arc<Self>, pod: &Before, earlier: &mut Earlier) {
        let key = (pod.id.clone(), pod.run.incarnation);
        let since = *earlier.worn.entry(key).or_insert_with(|| {
            tracing::warn!(pod = %pod.id, "the runtime was restarted and can't look after this pod any more; it is renewed when it is quiet");
            Instant::now()
        });
        let due = self.routes.is_quiet(&pod.id) || since.elapsed() >= QUIET_WITHIN;
        if due && self.renewing(earlier) < RENEWALS_AT_ONCE {
            earlier.renewed.insert(pod.id.clone(), Instant::now());
            self.renew(pod, Renewal::Worn);
        }
    }

    /// How many renewals have the turn.
    fn renewing(&self, earlier: &mut Earlier) -> usize {
        let table = self.table();
        let is_changed = |id: &PodId| matches!(table.get(id).map(|entry| &entry.stage), Some(Stage::Reviving));
        earlier.renewed.retain(|id, since| since.elapsed() < RENEWAL_TURN && is_changed(id));
        earlier.renewed.len()
    }

    /// Running -> Reviving: stopped if it is still there, and started anew until the same end.
    fn renew(self: &Arc<Self>, pod: &Before, why: Renewal) {
        let (order, expires_at) = {
            let mut table = self.table();
            let Some(entry) = table.get_mut(&pod.id) else { return };
            let Stage::Running { run, expires_at } = entry.stage else { return };
            if run.incarnation != pod.run.incarnation {
                return;
            }
            self.routes.withdraw(&pod.id, Gone::Restarting(self.clock.now()));
            entry.stage = Stage::Reviving;
            (entry.order.clone(), expires_at)
        };
        tracing::warn!(pod = %pod.id, reason = why.label(), "pod is started anew; its end stays as it was");
        self.metrics.renewed(why);
        let inner = Arc::clone(self);
        self.store.supervisor().spawn_job("new start of a pod", async move { inner.revive(&order, expires_at).await });
    }

    /// Running -> Exited, by way of `Clearing` while what is there of it is cleared away. Nothing happens if the pod has
    /// changed meanwhile, or runs in another incarnation by now.
    async fn exited(self: &Arc<Self>, id: &PodId, incarnation: u64) -> Result<(), StoreFailed> {
        let permit = self.store.reserve().await?;
        let (durable, order, exited) = {
            let mut table = self.table();
            let Some(entry) = table.get_mut(id) else { return Ok(()) };
            let Stage::Running { run, expires_at } = entry.stage else { return Ok(()) };
            if run.incarnation != incarnation {
                return Ok(());
            }
            self.routes.withdraw(id, Gone::Exited(self.clock.now()));
            let (seconds, forget_at) = self.what_is_left(expires_at);
            // The log of a debug pod is kept with it; of any other nothing is.
            entry.stage = if entry.order.debug { Stage::Exited { seconds, forget_at } } else { Stage::Clearing };
            let write = Write::PodProgress(id.clone(), Pod::Exited { seconds, forget_at });
            (permit.send(vec![write]), entry.order.clone(), Stage::Exited { seconds, forget_at })
        };
        durable.await?;
        self.metrics.exited();
        tracing::warn!(pod = %id, "all containers of the pod have exited; the time it had left is kept for another upload");
        self.announce();
        if !order.debug {
            let (inner, id) = (Arc::clone(self), id.clone());
            self.store.supervisor().spawn_job("removal of a pod", async move {
                if let Err(error) = inner.runtime.stop(&id).await {
                    tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "an exited pod can't be cleared away");
                }
                inner.table().insert(id, Entry { order, stage: exited });
                inner.announce();
            });
        }
        Ok(())
    }

    fn look_at_orphans(self: &Arc<Self>, found: &[PodStatus], earlier: &mut Earlier) {
        let unknown: HashSet<PodId> = {
            let table = self.table();
            found.iter().map(|status| &status.id).filter(|id| !table.contains_key(*id)).cloned().collect()
        };
        earlier.orphans.retain(|id, _| unknown.contains(id));
        earlier.stopping.retain(|_, task| !task.is_finished());
        let grace = self.runtime.capabilities().orphan_grace;
        for id in unknown {
            let Some(since) = earlier.orphans.get(&id) else {
                // It may just have come to its end: what was listed is older than the table.
                earlier.orphans.insert(id, Instant::now());
                continue;
            };
            if since.elapsed() < grace || self.table().contains_key(&id) || earlier.stopping.contains_key(&id) {
                continue;
            }
            tracing::warn!(pod = %id, "a pod nobody pays for is stopped");
            let (inner, name) = (Arc::clone(self), id.clone());
            let stop = self.store.supervisor().spawn_job("removal of a pod", async move {
                if let Err(error) = inner.runtime.stop(&name).await {
                    tracing::error!(pod = %name, error = &error as &dyn std::error::Error, "it can't be stopped yet");
                }
            });
            earlier.stopping.insert(id, stop);
        }
    }
}
