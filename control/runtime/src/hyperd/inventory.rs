//! Lists what hyperd holds: our pods and their states, other pods and their resources.
//!
//! Whether a pod runs is decided by its containers: hyperd reports a pod as running from the end of its create on, whether its containers
//! were started, run, or have all exited.
//!
//! | its machine | its containers | made under this run of the daemon | under an earlier one |
//! |---|---|---|---|
//! | booting | | unstarted | unstarted |
//! | exists | none has begun | unstarted | exited, which hyperd forgets when it is restarted |
//! | exists | one runs | runs | runs, degraded |
//! | exists | none runs | exited; we take the machine | the same |
//! | exists | none runs, one has ended as if with its machine | runs, until the machine ends or outlives it for long enough | exited |
//! | taken by us | | exited | exited |
//! | ended | one has ended with it | crashed | lost, with the daemon |
//! | ended | none has | exited: stopped by someone else | lost, with the daemon |
//!
//! hyperd reports containers as failed up to two seconds before the pod whose machine has ended, with a code that programs may exit with,
//! too: only the machine distinguishes the two.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    Inner,
    addresses::{self, v4},
    client::Call,
    create::running,
    error::HyperdError,
    folders,
    generation::{self, Generation},
    names::{self, Attempt},
    wire::{ContainerPhase, ContainerStatus, Info, PodRow, PodSize},
};
use crate::{PodId, PodState, PodStatus, RunningPod};

/// How long a dying machine may still be listed after its containers: hyperd takes up to 2 s.
const DYING_WITHIN: Duration = Duration::from_secs(4);
/// Number of characters of a machine's name in its link's name.
const LINK_CHARS: usize = 12;

/// Cached data of pods that doesn't change, so that a survey of all pods takes two calls.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ours: Mutex<HashMap<PodId, (Attempt, RunningPod, u64)>>,
    /// Exited pods whose machine we took: they weren't lost.
    retired: Mutex<HashMap<PodId, Attempt>>,
    /// Since when a pod's containers have looked as if its machine had ended, while the machine is still listed.
    dying: Mutex<HashMap<PodId, (Attempt, Instant)>>,
    /// Resources of pods' machines, by pod and machine.
    others: Mutex<HashMap<(String, String), Holding>>,
    /// Running pods, by incarnation, that can't be distinguished from others: each is logged once.
    misplaced: Mutex<HashSet<u64>>,
}

impl Seen {
    fn ours(&self) -> MutexGuard<'_, HashMap<PodId, (Attempt, RunningPod, u64)>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, HashMap<PodId, Attempt>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dying(&self) -> MutexGuard<'_, HashMap<PodId, (Attempt, Instant)>> {
        self.dying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a machine whose containers look as if it had ended may still turn out to be ending.
    fn may_be_dying(&self, id: &PodId, attempt: Attempt) -> bool {
        let now = Instant::now();
        let mut dying = self.dying();
        let seen = dying.entry(id.clone()).or_insert((attempt, now));
        if seen.0 != attempt {
            *seen = (attempt, now);
        }
        now.duration_since(seen.1) < DYING_WITHIN
    }

    fn others(&self) -> MutexGuard<'_, HashMap<(String, String), Holding>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn misplaced(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.misplaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember(&self, id: &PodId, attempt: Attempt, run: RunningPod, memory_bytes: u64) {
        self.ours().insert(id.clone(), (attempt, run, memory_bytes));
    }

    pub(super) fn forget(&self, id: &PodId) {
        self.ours().remove(id);
    }

    fn known(&self, id: &PodId, attempt: Attempt) -> Option<(RunningPod, u64)> {
        self.ours().get(id).filter(|(known, ..)| *known == attempt).map(|(_, run, memory)| (*run, *memory))
    }
}

/// The resources of a pod's machine.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    memory_bytes: u64,
    address: Option<IpAddr>,
}

/// A pod and its address.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) id: String,
    vm: String,
    pub(super) address: Option<IpAddr>,
}

/// The containers of one of our pods.
struct Containers {
    attempt: Attempt,
    running: bool,
    begun: bool,
}

/// Surveys everything hyperd holds.
pub(super) async fn survey(inner: &Arc<Inner>) -> Result<Vec<PodStatus>, HyperdError> {
    let generation = generation::current(&inner.client).await?;
    let (pods, containers) = (inner.list("pod").await?.pods, inner.list("container").await?.containers);
    let containers = by_pod(&containers);
    let (mut statuses, mut foreign) = (Vec::new(), 0_u64);
    for row in pods.iter().filter_map(|row| PodRow::parse(row)) {
        match row.id.parse::<PodId>() {
            Ok(id) => statuses.push(look_at(inner, id, &row, &containers, generation).await?),
            Err(_) => foreign = foreign.saturating_add(memory_of(inner, &row).await?),
        }
    }
    let holders = holders(inner, &pods).await?;
    if generation::current(&inner.client).await? != generation {
        return Err(HyperdError::Lost("it was restarted while it was asked".into()));
    }
    inner.foreign_memory_bytes.store(foreign, Ordering::Relaxed);
    if inner.daemon.swap(u64::from(generation.0), Ordering::Relaxed) != u64::from(generation.0) {
        tokio::spawn(folders::sweep(Arc::clone(inner)));
    }
    inner.seen.dying().retain(|id, _| statuses.iter().any(|status| status.id == *id));
    tell_apart(inner, &mut statuses, &holders).await;
    inner.seen.ours().retain(|id, _| statuses.iter().any(|status| status.id == *id));
    inner.seen.retired().retain(|id, _| statuses.iter().any(|status| status.id == *id));
    inner.seen.others().retain(|(id, vm), _| pods.iter().filter_map(|row| PodRow::parse(row)).any(|row| row.id == *id && row.vm == *vm));
    Ok(statuses)
}

/// All pods with a machine, whether ours or others', and their addresses.
pub(super) async fn held(inner: &Inner) -> Result<Vec<Holder>, HyperdError> {
    holders(inner, &inner.list("pod").await?.pods).await
}

async fn holders(inner: &Inner, rows: &[String]) -> Result<Vec<Holder>, HyperdError> {
    let mut holders = Vec::new();
    for row in rows.iter().filter_map(|row| PodRow::parse(row)).filter(PodRow::holds_memory) {
        let address = holding_of(inner, &row).await?.address;
        holders.push(Holder { id: row.id.to_owned(), vm: row.vm.to_owned(), address });
    }
    Ok(holders)
}

/// A pod counts as reachable only if no other pod has its address, and its port is at the bridge that has a policy.
async fn tell_apart(inner: &Inner, statuses: &mut [PodStatus], holders: &[Holder]) {
    let bridge = match inner.guard.clone() {
        Some(guard) => addresses::look(guard.clone()).await.ok().map(|(_, pool, seated)| (guard, pool, seated)),
        None => None,
    };
    if let Some((_, pool, seated)) = &bridge {
        let is_ours = |holder: &&Holder| statuses.iter().any(|status| status.id.as_str() == holder.id);
        let address = |holder: &Holder| holder.address.and_then(v4);
        let held = holders.iter().filter_map(address).collect();
        inner.addresses.count(*pool, &held, &holders.iter().filter(is_ours).filter_map(address).collect(), seated);
    }
    let mut misplaced = HashSet::new();
    for status in statuses {
        let PodState::Running(run) = status.state else { continue };
        let shares = |other: &&Holder| other.id != status.id.as_str() && other.address == Some(run.address);
        let sharing: Vec<&str> = holders.iter().filter(shares).map(|other| other.id.as_str()).collect();
        let vm = holders.iter().find(|holder| holder.id == status.id.as_str()).map(|holder| holder.vm.as_str());
        let is_elsewhere = || {
            bridge.as_ref().is_some_and(|(guard, pool, seated)| {
                let given = v4(run.address).map(|address| pool.port(address));
                given.into_iter().chain(vm.map(link_of)).any(|link| guard.is_elsewhere(&link, seated))
            })
        };
        // The link of a machine that has just ended leaves the bridge before the machine disappears from the list.
        let elsewhere = is_elsewhere() && !has_died(inner, &status.id).await && is_elsewhere();
        if sharing.is_empty() && !elsewhere {
            continue;
        }
        misplaced.insert(run.incarnation);
        if !inner.seen.misplaced().contains(&run.incarnation) {
            inner.client.misplaced();
            tracing::error!(
                pod = %status.id, address = %run.address, sharing = sharing.join(", "), elsewhere,
                "the pod can't be told from others: pods share its address, or it isn't at the pods' bridge; it is not served"
            );
        }
        status.state = PodState::Misplaced;
    }
    *inner.seen.misplaced() = misplaced;
}

/// The name of a machine's link, if we gave it none.
fn link_of(vm: &str) -> String {
    format!("{}0", vm.chars().take(LINK_CHARS).collect::<String>())
}

fn by_pod(rows: &[String]) -> HashMap<PodId, Containers> {
    let mut pods: HashMap<PodId, Containers> = HashMap::new();
    for row in rows {
        let mut fields = row.split(':');
        let (Some(_id), Some(name), Some(_pod), Some(phase)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Some((pod, _, attempt)) = names::parse(name) else { continue };
        let phase = ContainerPhase::parse(phase);
        let containers = pods.entry(pod).or_insert(Containers { attempt, running: false, begun: false });
        containers.running |= phase == Some(ContainerPhase::Running);
        containers.begun |= phase != Some(ContainerPhase::Pending);
    }
    pods
}

async fn look_at(
    inner: &Arc<Inner>,
    id: PodId,
    row: &PodRow<'_>,
    containers: &HashMap<PodId, Containers>,
    generation: Generation,
) -> Result<PodStatus, HyperdError> {
    let status = |id, state, memory_bytes, degraded| Ok(PodStatus { id, state, memory_bytes, degraded });
    let Some(containers) = containers.get(&id) else {
        // A pod with a Codius name and foreign container names belongs to another program: it is listed, and an orphan.
        let state = if row.status == "pending" { PodState::Unstarted } else { PodState::Exited };
        let memory_bytes = memory_of(inner, row).await?;
        return status(id, state, memory_bytes, false);
    };
    let earlier = containers.attempt.generation() != generation;
    if !row.holds_memory() {
        let state = without_machine(inner, &id, containers.attempt, earlier).await?;
        return status(id, state, 0, false);
    }
    if row.status == "pending" || (!containers.begun && !earlier) {
        let memory_bytes = memory_of(inner, row).await?;
        return status(id, PodState::Unstarted, memory_bytes, false);
    }
    if !containers.running {
        if row.status == "running" {
            if !earlier && let Some((run, memory_bytes)) = dying(inner, &id, containers.attempt).await? {
                return status(id, PodState::Running(run), memory_bytes, false);
            }
            let (inner, id, attempt) = (Arc::clone(inner), id.clone(), containers.attempt);
            tokio::spawn(async move { take_machine(&inner, &id, attempt).await });
        }
        let memory_bytes = memory_of(inner, row).await?;
        return status(id, PodState::Exited, memory_bytes, false);
    }
    let known = match inner.seen.known(&id, containers.attempt) {
        Some(known) => Some(known),
        None => read(inner, &id, containers.attempt).await?,
    };
    match known {
        Some((run, memory_bytes)) => status(id, PodState::Running(run), memory_bytes, earlier),
        // It runs, but its address can't be determined.
        None => status(id, PodState::Lost, 0, false),
    }
}

/// The state of a pod whose machine doesn't exist any more.
async fn without_machine(inner: &Inner, id: &PodId, attempt: Attempt, earlier: bool) -> Result<PodState, HyperdError> {
    let is_retired = inner.seen.retired().get(id) == Some(&attempt);
    if is_retired {
        return Ok(PodState::Exited);
    }
    let info = match inner.info(id).await {
        Ok(info) => info,
        Err(error) if error.is_of_the_daemon() => return Err(error),
        // It is being deleted at this moment; its deleter knows why.
        Err(_) => return Ok(if earlier { PodState::Lost } else { PodState::Exited }),
    };
    // The images are present, and can be run again without their registry.
    inner.images.remember_all(&info);
    if earlier {
        return Ok(PodState::Lost);
    }
    if looks_lost(&info) {
        return Ok(PodState::Crashed { incarnation: attempt.incarnation() });
    }
    inner.seen.retired().insert(id.clone(), attempt);
    Ok(PodState::Exited)
}

/// A pod whose containers have ended as if with their machine, which is still listed: it counts as running until that is decided.
async fn dying(inner: &Inner, id: &PodId, attempt: Attempt) -> Result<Option<(RunningPod, u64)>, HyperdError> {
    let info = match inner.info(id).await {
        Ok(info) => info,
        Err(error) if error.is_of_the_daemon() => return Err(error),
        Err(_) => return Ok(None),
    };
    if !looks_lost(&info) || !inner.seen.may_be_dying(id, attempt) {
        return Ok(None);
    }
    let known = inner.seen.known(id, attempt);
    Ok(known.or_else(|| Some((running(&info, attempt).ok()?, info.memory_bytes()))))
}

fn looks_lost(info: &Info) -> bool {
    info.status.container_status.iter().any(ContainerStatus::looks_lost)
}

/// Whether a pod that counts as running has lost its machine meanwhile.
async fn has_died(inner: &Inner, id: &PodId) -> bool {
    match inner.info(id).await {
        Ok(info) => looks_lost(&info),
        Err(error) => !error.is_of_the_daemon(),
    }
}

/// Reads what the lists don't contain; none if it makes no sense, or the pod was deleted meanwhile.
async fn read(inner: &Inner, id: &PodId, attempt: Attempt) -> Result<Option<(RunningPod, u64)>, HyperdError> {
    let read = async {
        let info = inner.info(id).await?;
        if !inner.is_where_it_says(id, &info).await? {
            return Ok::<_, HyperdError>(None);
        }
        Ok(Some((running(&info, attempt)?, info)))
    };
    match read.await {
        Ok(Some((run, info))) => {
            inner.images.remember_all(&info);
            inner.seen.remember(id, attempt, run, info.memory_bytes());
            Ok(Some((run, info.memory_bytes())))
        }
        Ok(None) => Ok(None),
        Err(error) if error.is_of_the_daemon() => Err(error),
        Err(error) => {
            tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "hyperd's description of the pod is invalid");
            Ok(None)
        }
    }
}

/// Stops a pod whose containers have all exited: otherwise it would keep its machine for ever. Its log stays.
async fn take_machine(inner: &Inner, id: &PodId, attempt: Attempt) {
    let turn = inner.turns.of(id);
    let Ok(_mine) = turn.try_lock() else { return };
    // The pod may have been replaced since it was listed.
    let Ok(info) = inner.info(id).await else { return };
    let same = |status: &ContainerStatus| {
        names::parse(&status.name).is_some_and(|(_, _, found)| found == attempt) && status.phase != ContainerPhase::Running
    };
    if !info.status.container_status.iter().all(same) {
        return;
    }
    // Recorded first: a survey that finds the pod without its machine must know why.
    inner.seen.retired().insert(id.clone(), attempt);
    if let Err(error) = inner.client.call(Call::Stop, &[("podId", id.as_str())], None).await {
        tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "virtual machine of an exited pod not released yet");
    }
}

/// Memory of a pod's machine, ours or others'.
async fn memory_of(inner: &Inner, row: &PodRow<'_>) -> Result<u64, HyperdError> {
    if row.holds_memory() { Ok(holding_of(inner, row).await?.memory_bytes) } else { Ok(0) }
}

/// Resources of a pod's machine, ours or others'. If it can't be queried, defaults are assumed.
async fn holding_of(inner: &Inner, row: &PodRow<'_>) -> Result<Holding, HyperdError> {
    let key = (row.id.to_owned(), row.vm.to_owned());
    let known = inner.seen.others().get(&key).copied();
    if let Some(known) = known {
        return Ok(known);
    }
    let answer = inner.client.call(Call::Info, &[("podName", row.id)], None).await;
    let size: PodSize = match answer.and_then(|answer| generation::read(&answer)) {
        Ok(size) => size,
        Err(error) if error.is_of_the_daemon() => return Err(error),
        Err(_) => PodSize::default(),
    };
    let holding = Holding { memory_bytes: size.memory_bytes(), address: size.address() };
    // While it is being created or deleted, the information is incomplete.
    if row.status != "pending" && holding.address.is_some() {
        inner.seen.others().insert(key, holding);
    }
    Ok(holding)
}

impl Inner {
    /// Whether a container, by its name in hyperd, writes no more. After a restart of the daemon one that had exited is `pending`.
    pub(super) async fn has_ended(&self, pod: &PodId, name: &str) -> bool {
        match self.info(pod).await {
            Ok(info) => !info.status.container_status.iter().any(|status| status.name == name && status.phase == ContainerPhase::Running),
            Err(error) => matches!(error, HyperdError::NoSuchPod),
        }
    }
}
