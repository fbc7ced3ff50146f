//! Polls the runtime and handles what it reports: exits, losses, pods that need a restart, and orphans.
//!
//! | the runtime reports of a running pod | what is done |
//! |---|---|
//! | all its containers have exited | route withdrawn, remaining time kept for another upload |
//! | it was lost with the daemon it ran under | restarted; its expiry is unchanged |
//! | it can't be distinguished from another pod at its address | the same, and its route stays withdrawn meanwhile |
//! | its machine has crashed, but not the daemon | marked (`crash_policy`), then restarted or exited |
//! | nothing, several polls in a row | restarted; if the daemon has restarted, first marked, then restarted on trial |
//! | it runs, but is no longer supervised (degraded) | restarted when no request to it is in flight |
//!
//! The more often the daemon has crashed recently, the longer automatic restarts are paused.
//!
//! An orphan is stopped after the runtime's grace time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use codiusd_runtime::{PodId, PodState, PodStatus, RunningPod};
use jiff::Timestamp;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    crash_policy::{self, CrashHistory},
    crash_recovery::Wait,
    manager::{Inner, WithdrawReason},
    metrics::RestartCause,
    state::{Entry, Pod, Stage},
    tables::PodChange,
};
use crate::db::DatabaseFailed;

/// Consecutive polls that must miss a pod before it counts as lost: a daemon that has just started may not list every pod yet.
const MISSING_LOOKS: u32 = 3;
/// How long a degraded pod may stay busy before it is restarted regardless of requests in flight: it may hang at any time.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// Degraded pods restarted at the same time: they still serve, so each is down only for its own restart.
const RENEWALS_AT_ONCE: usize = 1;
/// A restart that takes longer than this no longer blocks the next one.
const RENEWAL_TURN: Duration = Duration::from_secs(20);

/// How long a daemon crash counts as recent, in units of the retry delay.
const ENDS_KEPT: u32 = 300;

/// State kept between polls.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    missing: HashMap<(PodId, u64), u32>,
    orphans: HashMap<PodId, Instant>,
    degraded: HashMap<(PodId, u64), Instant>,
    /// When the restart of each degraded pod began.
    renewed: HashMap<PodId, Instant>,
    /// Orphans that are being stopped.
    stopping: HashMap<PodId, JoinHandle<()>>,
    away: bool,
    daemon: Daemon,
}

/// State of the daemon behind the runtime.
#[derive(Debug, Default)]
struct Daemon {
    /// Its run at the last poll.
    run: Option<u64>,
    /// The last run that ended, when that was noticed, and whether pods survived it.
    ended: Option<Ended>,
    /// When it ended recently.
    ends: Vec<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    run: u64,
    by: Timestamp,
    survived: bool,
}

impl Daemon {
    /// Whether a pod that is missing was already running when the daemon ended.
    fn took(&self, pod: &Before) -> bool {
        let started_at = Timestamp::try_from(pod.run.started_at).ok();
        self.ended.zip(started_at).is_some_and(|(ended, started)| started <= ended.by)
    }
}

/// A pod that was running before the poll.
struct Before {
    id: PodId,
    run: RunningPod,
}

impl Inner {
    /// Polls the runtime once.
    pub(super) async fn look(self: &Arc<Self>, earlier: &mut Earlier) -> Result<(), DatabaseFailed> {
        // Taken before the runtime is asked, so that a pod started meanwhile doesn't count as missing.
        let (before, began) = (self.run_before(), self.clock.now());
        self.measure_disk().await;
        let found = match self.runtime.list().await {
            Ok(found) => found,
            Err(error) => {
                if !earlier.away {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "runtime does not list its pods; running pods and routes stay"
                    );
                }
                earlier.away = true;
                return Ok(());
            }
        };
        if std::mem::take(&mut earlier.away) {
            tracing::info!("runtime answers again");
        }
        self.count(&found);
        let statuses: HashMap<&PodId, &PodStatus> = found.iter().map(|status| (&status.id, status)).collect();
        self.look_at_daemon(earlier, &before, &statuses, began);
        let calm = self.calm(earlier);
        let mut lost = Vec::new();
        let still: HashSet<(PodId, u64)> = before.iter().map(|pod| (pod.id.clone(), pod.run.incarnation)).collect();
        earlier.missing.retain(|key, _| still.contains(key));
        earlier.degraded.retain(|key, _| still.contains(key));
        for pod in before {
            let key = (pod.id.clone(), pod.run.incarnation);
            match statuses.get(&pod.id).map(|status| (status.state, status.degraded)) {
                Some((PodState::Running(run), degraded)) if run.incarnation == pod.run.incarnation => {
                    earlier.missing.remove(&key);
                    if degraded && calm.is_zero() {
                        self.look_at_degraded(&pod, earlier);
                    }
                }
                // Its own task is changing it.
                Some((PodState::Running(_) | PodState::Unstarted, _)) => {}
                Some((PodState::Crashed { .. }, _)) => self.crashed(&pod).await?,
                Some((PodState::Exited, _)) => self.exited(&pod.id, pod.run.incarnation, "all containers of the pod exited").await?,
                Some((PodState::Lost, _)) => self.renew(&pod, RestartCause::Lost, Wait { calm, trial: None }),
                Some((PodState::Misplaced, _)) => self.renew(&pod, RestartCause::Misplaced, Wait { calm, trial: None }),
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

    /// How long automatic restarts stay paused from now on.
    fn calm(&self, earlier: &mut Earlier) -> Duration {
        let (unit, ends) = (self.config.retry_after, &mut earlier.daemon.ends);
        ends.retain(|end| end.elapsed() < unit * ENDS_KEPT);
        ends.last().map_or(Duration::ZERO, |last| crash_policy::calm(ends.len(), unit).saturating_sub(last.elapsed()))
    }

    /// Handles a pod whose machine crashed while the daemon kept running.
    async fn crashed(self: &Arc<Self>, pod: &Before) -> Result<(), DatabaseFailed> {
        if !self.still_runs(pod) {
            return Ok(());
        }
        let marks = self.mark_crash(&pod.id, pod.run.incarnation).await?;
        self.renew_or_stop(pod, RestartCause::Crashed, marks, Wait::default()).await
    }

    /// Handles pods that the runtime no longer lists.
    async fn missing(self: &Arc<Self>, lost: Vec<Before>, daemon: &Daemon, calm: Duration) -> Result<(), DatabaseFailed> {
        let lost: Vec<Before> = lost.into_iter().filter(|pod| self.still_runs(pod)).collect();
        let (mut taken, others): (Vec<Before>, Vec<Before>) = lost.into_iter().partition(|pod| daemon.took(pod));
        for pod in others {
            self.renew(&pod, RestartCause::Missing, Wait { calm, trial: None });
        }
        // The pod started last goes on trial first: it is the most likely culprit.
        taken.sort_unstable_by_key(|pod| std::cmp::Reverse(pod.run.started_at));
        let ids: Vec<&PodId> = taken.iter().map(|pod| &pod.id).collect();
        let marked = self.mark_lost(&ids, daemon.ended.map(|ended| ended.run), daemon.ended.is_some_and(|ended| ended.survived)).await?;
        for (pod, marks) in taken.iter().zip(marked) {
            self.renew_or_stop(pod, RestartCause::Missing, marks, Wait { calm, trial: Some(self.trial(marks)) }).await?;
        }
        Ok(())
    }

    async fn renew_or_stop(
        self: &Arc<Self>,
        pod: &Before,
        why: RestartCause,
        marks: CrashHistory,
        wait: Wait,
    ) -> Result<(), DatabaseFailed> {
        if marks.end_new_starts() {
            let said = "pod crashed its virtual machine or the daemon too often; not restarted";
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

    /// Reports the runtime's memory use to the ledger, including pods that are not in the table.
    pub(super) fn count(&self, found: &[PodStatus]) {
        let bytes = found.iter().map(|status| (status.id.clone(), status.memory_bytes)).collect();
        self.capacity.looked(bytes, self.runtime.foreign_memory_bytes(), self.runtime.addresses());
    }

    fn look_at_degraded(self: &Arc<Self>, pod: &Before, earlier: &mut Earlier) {
        let key = (pod.id.clone(), pod.run.incarnation);
        let since = *earlier.degraded.entry(key).or_insert_with(|| {
            tracing::warn!(pod = %pod.id, "runtime restarted and no longer supervises this pod; the pod is restarted when it is idle");
            Instant::now()
        });
        let due = self.routes.is_quiet(&pod.id) || since.elapsed() >= QUIET_WITHIN;
        if due && self.renewing(earlier) < RENEWALS_AT_ONCE {
            earlier.renewed.insert(pod.id.clone(), Instant::now());
            self.renew(pod, RestartCause::Degraded, Wait::default());
        }
    }

    /// Number of degraded pods being restarted.
    fn renewing(&self, earlier: &mut Earlier) -> usize {
        let table = self.table();
        let is_changed = |id: &PodId| matches!(table.get(id).map(|entry| &entry.stage), Some(Stage::Restarting));
        earlier.renewed.retain(|id, since| since.elapsed() < RENEWAL_TURN && is_changed(id));
        earlier.renewed.len()
    }

    /// Running -> Restarting: stops the pod if it still runs, and restarts it with the same expiry.
    fn renew(self: &Arc<Self>, pod: &Before, why: RestartCause, wait: Wait) {
        let (order, term) = {
            let mut table = self.table();
            let Some(&Entry { ref order, stage: Stage::Running { run, term } }) = table.get(&pod.id) else { return };
            let order = order.clone();
            if run.incarnation != pod.run.incarnation {
                return;
            }
            table.set_stage(&pod.id, Stage::Restarting);
            (order, term)
        };
        tracing::warn!(pod = %pod.id, reason = why.label(), "pod restarting; its expiry is unchanged");
        self.metrics.renewed(why);
        let inner = Arc::clone(self);
        self.database.supervisor().spawn_job("new start of a pod", async move {
            inner.routes.withdraw(&order.spec.id, WithdrawReason::Restarting(inner.clock.now())).await;
            inner.renewed(&order, term, wait).await;
        });
    }

    /// Running -> Exited, by way of `Clearing` while the route is withdrawn and the pod's remains are removed. Does nothing if the pod has
    /// changed meanwhile, or runs as another incarnation.
    async fn exited(self: &Arc<Self>, id: &PodId, incarnation: u64, why: &str) -> Result<(), DatabaseFailed> {
        let permit = self.database.reserve().await?;
        let (durable, order, exited) = {
            let mut table = self.table();
            let Some(&Entry { ref order, stage: Stage::Running { run, term } }) = table.get(id) else { return Ok(()) };
            let order = order.clone();
            if run.incarnation != incarnation {
                return Ok(());
            }
            let (seconds, forget_at) = self.what_is_left(term.expires_at);
            table.set_stage(id, Stage::Clearing);
            let write = PodChange::Progress(id.clone(), Pod::Exited { seconds, forget_at });
            (permit.send(vec![write]), order, Stage::Exited { seconds, forget_at })
        };
        let ((), durable) = tokio::join!(self.routes.withdraw(id, WithdrawReason::Exited(self.clock.now())), durable);
        durable?;
        self.metrics.exited();
        tracing::warn!(pod = %id, "{why}; its remaining time is kept for another upload");
        // A debug pod is kept for its log; any other pod is removed from the runtime.
        if order.debug {
            self.table().set_stage(id, exited);
        } else {
            let (inner, id) = (Arc::clone(self), id.clone());
            self.database.supervisor().spawn_job("removal of a pod", async move {
                if let Err(error) = inner.runtime.stop(&id).await {
                    tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "exited pod not removed");
                } else {
                    inner.capacity.cleared(&id);
                }
                inner.table().insert(id, Entry { order, stage: exited });
                inner.announce();
            });
        }
        self.announce();
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
                // The pod may just have ended: `found` is older than the table.
                earlier.orphans.insert(id, Instant::now());
                continue;
            };
            if since.elapsed() < grace || self.table().contains_key(&id) || earlier.stopping.contains_key(&id) {
                continue;
            }
            tracing::warn!(pod = %id, "orphaned pod stopped");
            let (inner, name) = (Arc::clone(self), id.clone());
            let stop = self.database.supervisor().spawn_job("removal of a pod", async move {
                if let Err(error) = inner.runtime.stop(&name).await {
                    tracing::error!(pod = %name, error = &error as &dyn std::error::Error, "orphaned pod not stopped yet");
                }
            });
            earlier.stopping.insert(id, stop);
        }
    }
}
