//! What a look at the runtime tells: exits, losses, pods that need a new start, and pods nobody here knows.
//!
//! | the runtime says of a pod that runs here | what is done |
//! |---|---|
//! | all its containers have exited | route withdrawn, the time it had left kept for another upload |
//! | it was lost with the daemon it ran under | started anew, its end stays |
//! | it can't be told from another at its address | the same, and not served meanwhile |
//! | its machine has ended, but not the daemon | marked (`crashes`), and started anew or not any more |
//! | nothing, several times in a row | started anew; if the daemon has been restarted, marked before that, and tried out alone |
//! | it runs, but can't be looked after (worn) | the same, when no request is under way to it |
//!
//! The more often the daemon ended lately, the longer nothing is loaded on it by itself.
//!
//! A pod nobody here knows is stopped when it has been there for the runtime's grace time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use codiusd_runtime::{PodId, PodState, PodStatus, RunningPod};
use jiff::Timestamp;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    crashes::{self, Marks},
    keeper::{Gone, Inner},
    lost::Wait,
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

/// How long an end of the daemon counts, in waits before a new try.
const ENDS_KEPT: u32 = 300;

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
    daemon: Daemon,
}

/// What is remembered of the daemon behind the runtime.
#[derive(Debug, Default)]
struct Daemon {
    /// Its run at the last look.
    run: Option<u64>,
    /// Its last run that has ended: when the next one was first seen, and whether pods survived that.
    ended: Option<Ended>,
    /// When it has ended lately.
    ends: Vec<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    run: u64,
    by: Timestamp,
    survived: bool,
}

impl Daemon {
    /// Whether a pod that isn't there any more was there when the daemon ended.
    fn took(&self, pod: &Before) -> bool {
        let started_at = Timestamp::try_from(pod.run.started_at).ok();
        self.ended.zip(started_at).is_some_and(|(ended, started)| started <= ended.by)
    }
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
        let (before, began) = (self.run_before(), self.clock.now());
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
        self.count(&found);
        let statuses: HashMap<&PodId, &PodStatus> = found.iter().map(|status| (&status.id, status)).collect();
        self.look_at_daemon(earlier, &before, &statuses, began);
        let calm = self.calm(earlier);
        let mut lost = Vec::new();
        let still: HashSet<(PodId, u64)> = before.iter().map(|pod| (pod.id.clone(), pod.run.incarnation)).collect();
        earlier.missing.retain(|key, _| still.contains(key));
        earlier.worn.retain(|key, _| still.contains(key));
        for pod in before {
            let key = (pod.id.clone(), pod.run.incarnation);
            match statuses.get(&pod.id).map(|status| (status.state, status.worn)) {
                Some((PodState::Running(run), worn)) if run.incarnation == pod.run.incarnation => {
                    earlier.missing.remove(&key);
                    if worn && calm.is_zero() {
                        self.look_at_worn(&pod, earlier);
                    }
                }
                // Its own task is changing it.
                Some((PodState::Running(_) | PodState::Unstarted, _)) => {}
                Some((PodState::Crashed { .. }, _)) => self.crashed(&pod).await?,
                Some((PodState::Exited, _)) => self.exited(&pod.id, pod.run.incarnation, "all containers of the pod have exited").await?,
                Some((PodState::Lost, _)) => self.renew(&pod, Renewal::Lost, Wait { calm, trial: None }),
                Some((PodState::Misplaced, _)) => self.renew(&pod, Renewal::Misplaced, Wait { calm, trial: None }),
                None => {
                    let looks = earlier.missing.entry(key).or_default();
                    *looks += 1;
                    if *looks >= MISSING_LOOKS {
                        lost.push(pod);
                    }
                }
            }
        }
        self.missing(lost, &earlier.daemon, calm).await?;
        self.look_at_orphans(&found, earlier);
        Ok(())
    }

    fn look_at_daemon(&self, earlier: &mut Earlier, before: &[Before], statuses: &HashMap<&PodId, &PodStatus>, began: Timestamp) {
        let (run, daemon) = (self.runtime.daemon(), &mut earlier.daemon);
        if let Some(last) = daemon.run
            && daemon.run != run
        {
            let survives = |pod: &Before| matches!(statuses.get(&pod.id).map(|status| status.state), Some(PodState::Running(run)) if run.incarnation == pod.run.incarnation);
            daemon.ended = Some(Ended { run: last, by: began, survived: before.iter().any(survives) });
            daemon.ends.push(Instant::now());
        }
        daemon.run = run;
    }

    /// How long nothing is loaded on the daemon by itself from now on.
    fn calm(&self, earlier: &mut Earlier) -> Duration {
        let (unit, ends) = (self.config.retry_after, &mut earlier.daemon.ends);
        ends.retain(|end| end.elapsed() < unit * ENDS_KEPT);
        ends.last().map_or(Duration::ZERO, |last| crashes::calm(ends.len(), unit).saturating_sub(last.elapsed()))
    }

    /// A pod whose machine has ended alone.
    async fn crashed(self: &Arc<Self>, pod: &Before) -> Result<(), StoreFailed> {
        if !self.still_runs(pod) {
            return Ok(());
        }
        let marks = self.mark_crash(&pod.id, pod.run.incarnation).await?;
        self.renew_or_stop(pod, Renewal::Crashed, marks, Wait::default()).await
    }

    /// Pods the runtime doesn't know any more.
    async fn missing(self: &Arc<Self>, lost: Vec<Before>, daemon: &Daemon, calm: Duration) -> Result<(), StoreFailed> {
        let lost: Vec<Before> = lost.into_iter().filter(|pod| self.still_runs(pod)).collect();
        let (mut taken, others): (Vec<Before>, Vec<Before>) = lost.into_iter().partition(|pod| daemon.took(pod));
        for pod in others {
            self.renew(&pod, Renewal::Missing, Wait { calm, trial: None });
        }
        // Who began last is tried first: most likely it is the one.
        taken.sort_unstable_by_key(|pod| std::cmp::Reverse(pod.run.started_at));
        let ids: Vec<&PodId> = taken.iter().map(|pod| &pod.id).collect();
        let marked = self.mark_lost(&ids, daemon.ended.map(|ended| ended.run), daemon.ended.is_some_and(|ended| ended.survived)).await?;
        for (pod, marks) in taken.iter().zip(marked) {
            self.renew_or_stop(pod, Renewal::Missing, marks, Wait { calm, trial: Some(self.trial(marks)) }).await?;
        }
        Ok(())
    }

    async fn renew_or_stop(self: &Arc<Self>, pod: &Before, why: Renewal, marks: Marks, wait: Wait) -> Result<(), StoreFailed> {
        if marks.end_new_starts() {
            let said = "the pod has taken down its machine, or the daemon, too often, and isn't started anew";
            return self.exited(&pod.id, pod.run.incarnation, said).await;
        }
        self.renew(pod, why, wait);
        Ok(())
    }

    fn still_runs(&self, pod: &Before) -> bool {
        matches!(self.table().get(&pod.id).map(|entry| &entry.stage), Some(Stage::Running { run, .. }) if run.incarnation == pod.run.incarnation)
    }

    fn run_before(&self) -> Vec<Before> {
        let table = self.table();
        let running = table.iter().filter_map(|(id, entry)| match entry.stage {
            Stage::Running { run, .. } => Some(Before { id: id.clone(), run }),
            _ => None,
        });
        running.collect()
    }

    /// What the runtime has takes memory, also where no pod of the table is known to hold it.
    pub(super) fn count(&self, found: &[PodStatus]) {
        let bytes = found.iter().map(|status| (status.id.clone(), status.memory_bytes)).collect();
        self.capacity.looked(bytes, self.runtime.foreign_memory_bytes(), self.runtime.addresses());
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
            self.renew(pod, Renewal::Worn, Wait::default());
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
    fn renew(self: &Arc<Self>, pod: &Before, why: Renewal, wait: Wait) {
        let (order, term) = {
            let mut table = self.table();
            let Some(&Entry { ref order, stage: Stage::Running { run, term } }) = table.get(&pod.id) else { return };
            let order = order.clone();
            if run.incarnation != pod.run.incarnation {
                return;
            }
            self.routes.withdraw(&pod.id, Gone::Restarting(self.clock.now()));
            table.set_stage(&pod.id, Stage::Reviving);
            (order, term)
        };
        tracing::warn!(pod = %pod.id, reason = why.label(), "pod is started anew; its end stays as it was");
        self.metrics.renewed(why);
        let inner = Arc::clone(self);
        self.store.supervisor().spawn_job("new start of a pod", async move { inner.renewed(&order, term, wait).await });
    }

    /// Running -> Exited, by way of `Clearing` while what is there of it is cleared away. Nothing happens if the pod has
    /// changed meanwhile, or runs in another incarnation by now.
    async fn exited(self: &Arc<Self>, id: &PodId, incarnation: u64, why: &str) -> Result<(), StoreFailed> {
        let permit = self.store.reserve().await?;
        let (durable, order, exited) = {
            let mut table = self.table();
            let Some(&Entry { ref order, stage: Stage::Running { run, term } }) = table.get(id) else { return Ok(()) };
            let order = order.clone();
            if run.incarnation != incarnation {
                return Ok(());
            }
            self.routes.withdraw(id, Gone::Exited(self.clock.now()));
            let (seconds, forget_at) = self.what_is_left(term.expires_at);
            // The log of a debug pod is kept with it; of any other nothing is.
            table.set_stage(id, if order.debug { Stage::Exited { seconds, forget_at } } else { Stage::Clearing });
            let write = Write::PodProgress(id.clone(), Pod::Exited { seconds, forget_at });
            (permit.send(vec![write]), order, Stage::Exited { seconds, forget_at })
        };
        durable.await?;
        self.metrics.exited();
        tracing::warn!(pod = %id, "{why}; the time it had left is kept for another upload");
        self.announce();
        if !order.debug {
            let (inner, id) = (Arc::clone(self), id.clone());
            self.store.supervisor().spawn_job("removal of a pod", async move {
                if let Err(error) = inner.runtime.stop(&id).await {
                    tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "an exited pod can't be cleared away");
                } else {
                    inner.capacity.cleared(&id);
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
