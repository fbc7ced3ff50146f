//! What hyperd holds: our pods and how they are, others' and what they take.
//!
//! Whether a pod runs is decided by its containers: hyperd calls a pod running from the end of its create on, whether its
//! containers were started, run, or have all exited.
//!
//! | its machine | its containers | made under this run of the daemon | under an earlier one |
//! |---|---|---|---|
//! | there | one runs | runs | runs, worn |
//! | there | none runs | exited; the machine is taken from it | the same |
//! | gone | | exited | lost, with the daemon |

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use super::{
    Inner,
    client::Call,
    create::running,
    error::HyperdError,
    generation::{self, Generation},
    names::{self, Attempt},
    wire::{ContainerPhase, ContainerStatus, PodRow},
};
use crate::{PodId, PodState, PodStatus, RunningPod};

/// What has been read of pods that don't change in this respect, so that a look at all of them is two calls.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ours: Mutex<HashMap<PodId, (Attempt, RunningPod, u64)>>,
    /// Exited pods whose machine was taken by us: they weren't lost.
    retired: Mutex<HashMap<PodId, Attempt>>,
    /// Memory of others' pods in bytes, by pod and machine.
    others: Mutex<HashMap<(String, String), u64>>,
}

impl Seen {
    fn ours(&self) -> MutexGuard<'_, HashMap<PodId, (Attempt, RunningPod, u64)>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, HashMap<PodId, Attempt>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others(&self) -> MutexGuard<'_, HashMap<(String, String), u64>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The containers of one of our pods.
struct Containers {
    attempt: Attempt,
    running: bool,
}

/// Looks at all that hyperd holds.
pub(super) async fn survey(inner: &Inner) -> Result<Vec<PodStatus>, HyperdError> {
    let generation = generation::current(&inner.client).await?;
    let (pods, containers) = (inner.list("pod").await?.pods, inner.list("container").await?.containers);
    let containers = by_pod(&containers);
    let (mut statuses, mut foreign) = (Vec::new(), 0_u64);
    for row in pods.iter().filter_map(|row| PodRow::parse(row)) {
        match row.id.parse::<PodId>() {
            Ok(id) => statuses.push(look_at(inner, id, &row, &containers, generation).await?),
            Err(_) => foreign = foreign.saturating_add(memory_of_other(inner, &row).await?),
        }
    }
    inner.foreign_memory_bytes.store(foreign, Ordering::Relaxed);
    inner.seen.ours().retain(|id, _| statuses.iter().any(|status| status.id == *id));
    inner.seen.retired().retain(|id, _| statuses.iter().any(|status| status.id == *id));
    inner.seen.others().retain(|(id, vm), _| pods.iter().filter_map(|row| PodRow::parse(row)).any(|row| row.id == *id && row.vm == *vm));
    Ok(statuses)
}

fn by_pod(rows: &[String]) -> HashMap<PodId, Containers> {
    let mut pods: HashMap<PodId, Containers> = HashMap::new();
    for row in rows {
        let mut fields = row.split(':');
        let (Some(_id), Some(name), Some(_pod), Some(phase)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Some((pod, _, attempt)) = names::parse(name) else { continue };
        let running = ContainerPhase::parse(phase) == Some(ContainerPhase::Running);
        pods.entry(pod).or_insert(Containers { attempt, running: false }).running |= running;
    }
    pods
}

async fn look_at(
    inner: &Inner,
    id: PodId,
    row: &PodRow<'_>,
    containers: &HashMap<PodId, Containers>,
    generation: Generation,
) -> Result<PodStatus, HyperdError> {
    let holds = row.holds_memory();
    // A pod of our kind of name whose containers don't have ours is another program's: it is listed, and an orphan.
    let Some(containers) = containers.get(&id) else {
        let memory_bytes = if holds { memory_of_other(inner, row).await? } else { 0 };
        return Ok(PodStatus { id, state: PodState::Exited, memory_bytes, worn: false });
    };
    let earlier = containers.attempt.generation() != generation;
    if !holds {
        let exited = !earlier || inner.seen.retired().get(&id) == Some(&containers.attempt);
        let state = if exited { PodState::Exited } else { PodState::Lost };
        return Ok(PodStatus { id, state, memory_bytes: 0, worn: false });
    }
    let known = match inner.seen.known(&id, containers.attempt) {
        Some(known) => Some(known),
        None => read(inner, &id, containers.attempt).await?,
    };
    let memory_bytes = known.map_or(0, |(_, memory)| memory);
    let state = match known {
        Some((run, _)) if containers.running => PodState::Running(run),
        // It runs, but where can't be known.
        None if containers.running => PodState::Lost,
        _ => PodState::Exited,
    };
    // Not while it is being made: its containers haven't begun then.
    let was_made = earlier || inner.seen.known(&id, containers.attempt).is_some();
    if state == PodState::Exited && row.status == "running" && was_made {
        take_machine(inner, &id, containers.attempt).await;
    }
    Ok(PodStatus { id, state, memory_bytes, worn: earlier && containers.running })
}

/// What isn't in the lists; nothing if the pod went meanwhile, or is still being made.
async fn read(inner: &Inner, id: &PodId, attempt: Attempt) -> Result<Option<(RunningPod, u64)>, HyperdError> {
    let info = match inner.info(id).await {
        Ok(info) => info,
        Err(HyperdError::NoSuchPod | HyperdError::Busy(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    if info.is_being_created() || info.status.container_status.iter().all(|status| status.phase == ContainerPhase::Pending) {
        return Ok(None);
    }
    if !inner.is_where_it_says(id, &info).await? {
        return Ok(None);
    }
    let run = running(&info, attempt)?;
    for container in &info.spec.containers {
        inner.images.remember(&container.image);
    }
    inner.seen.remember(id, attempt, run, info.memory_bytes());
    Ok(Some((run, info.memory_bytes())))
}

/// A pod whose containers have all exited keeps its machine, for ever, unless it is stopped. Its log stays.
async fn take_machine(inner: &Inner, id: &PodId, attempt: Attempt) {
    let turn = inner.turns.of(id);
    let Ok(_mine) = turn.try_lock() else { return };
    // What is there now may be another than what was listed.
    let Ok(info) = inner.info(id).await else { return };
    let same = |status: &ContainerStatus| {
        names::parse(&status.name).is_some_and(|(_, _, found)| found == attempt) && status.phase != ContainerPhase::Running
    };
    if !info.status.container_status.iter().all(same) {
        return;
    }
    match inner.client.call(Call::Stop, &[("podId", id.as_str())], None).await {
        Ok(_) => {
            inner.seen.retired().insert(id.clone(), attempt);
        }
        Err(error) => {
            tracing::warn!(pod = %id, error = &error as &dyn std::error::Error, "the machine of an exited pod can't be taken from it yet");
        }
    }
}

async fn memory_of_other(inner: &Inner, row: &PodRow<'_>) -> Result<u64, HyperdError> {
    if !row.holds_memory() {
        return Ok(0);
    }
    let key = (row.id.to_owned(), row.vm.to_owned());
    let known = inner.seen.others().get(&key).copied();
    if let Some(known) = known {
        return Ok(known);
    }
    let answer = inner.client.call(Call::Info, &[("podName", row.id)], None).await;
    let info: super::wire::Info = match answer {
        Ok(answer) => generation::read(&answer)?,
        Err(HyperdError::NoSuchPod | HyperdError::Busy(_)) => return Ok(0),
        Err(error) => return Err(error),
    };
    if !info.is_being_created() {
        inner.seen.others().insert(key, info.memory_bytes());
    }
    Ok(info.memory_bytes())
}

impl Inner {
    /// Whether a container, as hyperd calls it, writes no more. After a restart of the daemon one that had exited is `pending`.
    pub(super) async fn has_ended(&self, pod: &PodId, name: &str) -> bool {
        match self.info(pod).await {
            Ok(info) => !info.status.container_status.iter().any(|status| status.name == name && status.phase == ContainerPhase::Running),
            Err(error) => matches!(error, HyperdError::NoSuchPod),
        }
    }
}
