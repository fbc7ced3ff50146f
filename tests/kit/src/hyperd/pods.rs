//! What is done to pods: started, stopped, deleted, paused.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::StatusCode;
use nix::sys::signal::Signal;

use super::{
    answer::{self, Answer, Refusal},
    create,
    daemon::Daemon,
    frames::{self, Run},
    machine::Machine,
    rootfs,
    state::{Container, End, PATIENCE, Phase, Pod, State},
};

/// After SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How long a delete waits for a container whose output nobody reads.
const STALLED: Duration = Duration::from_secs(10);

/// `/pod/start`.
pub(super) async fn start(daemon: &Arc<Daemon>, id: &str) -> Answer {
    let unknown = || Refusal::new(format!("The pod({id}) can not be found, please create it first"));
    let (incarnation, phase) = {
        let state = daemon.state();
        let pod = state.pods.get(id).ok_or_else(unknown)?;
        (pod.live.incarnation, pod.live.phase)
    };
    match phase {
        // The containers that are there by then are none.
        Phase::Creating => daemon.wait(None, |state| state.same(id, incarnation).is_none_or(|pod| pod.live.phase != Phase::Creating)).await,
        Phase::Running | Phase::Paused => start_containers(daemon, id, incarnation).await,
        Phase::Stopped => {
            let name = format!("vm-{}", create::letters());
            let nic = {
                let mut state = daemon.state();
                match state.same(id, incarnation).and_then(|pod| pod.interface.clone()) {
                    Some(asked) => asked,
                    None => state.next_nic(&daemon.options, &name)?,
                }
            };
            let booted = Machine::boot(daemon, &name, id, nic).await;
            let machine = booted.map_err(|error| {
                eprintln!("hyperd: boot of {id}: {error}");
                Refusal::new("hyperstart closed")
            })?;
            let taken = take_machine(&mut daemon.state(), id, incarnation, &machine);
            if !taken {
                machine.end().await;
            }
            start_containers(daemon, id, incarnation).await;
        }
    }
    daemon.changed();
    Ok(answer::nothing(StatusCode::OK))
}

fn take_machine(state: &mut State, id: &str, incarnation: u64, machine: &Arc<Machine>) -> bool {
    let Some(pod) = state.same(id, incarnation).filter(|pod| pod.live.phase == Phase::Stopped) else { return false };
    pod.machine = Some((machine.name.clone(), machine.nic.clone()));
    pod.live.machine = Some(machine.clone());
    pod.live.phase = Phase::Running;
    pod.live.shown_address.get_or_insert_with(|| machine.nic.cidr());
    true
}

/// Starts what doesn't run; returns when the machine has been told.
async fn start_containers(daemon: &Daemon, id: &str, incarnation: u64) {
    let ids = tell_to_start(daemon, &mut daemon.state(), id, incarnation);
    daemon.save();
    let started = |state: &mut State| !ids.iter().any(|id| state.container(id).is_some_and(|container| container.starting));
    daemon.wait(Some(PATIENCE), started).await;
}

fn tell_to_start(daemon: &Daemon, state: &mut State, id: &str, incarnation: u64) -> Vec<String> {
    let Some(pod) = state.same(id, incarnation) else { return Vec::new() };
    let (machine, ids) = (pod.live.machine.clone(), pod.containers.clone());
    for container in &ids {
        if let (Some(machine), Some(container)) = (&machine, state.containers.get_mut(container))
            && !container.running()
        {
            container.started();
            machine.tell(frames::Command::Run(Box::new(to_run(daemon, id, container))));
        }
    }
    ids
}

fn to_run(daemon: &Daemon, pod: &str, container: &Container) -> Run {
    let fixed = [("PATH", "/bin"), ("HOME", "/root"), ("USER", "root"), ("HOSTNAME", pod)];
    let mut environment: Vec<(String, String)> = fixed.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    environment.extend(container.envs.iter().cloned());
    Run {
        container: container.id.clone(),
        root: rootfs::root(&daemon.options.dir, &container.id),
        binds: rootfs::binds(&daemon.options.dir, container),
        workdir: container.workdir.clone(),
        command: container.command.clone(),
        environment,
    }
}

/// Ends a pod's containers, with a grace period.
async fn end_containers(daemon: &Daemon, machine: &Machine, containers: &[String]) {
    machine.tell(frames::Command::Unpause);
    for (signal, within) in [(Signal::SIGTERM, daemon.options.scaled(GRACE)), (Signal::SIGKILL, PATIENCE)] {
        let running: Vec<String> = {
            let mut state = daemon.state();
            containers.iter().filter(|id| state.container(id).is_some_and(|container| container.running())).cloned().collect()
        };
        for container in &running {
            machine.tell(frames::Command::Signal { container: container.clone(), signal: signal as i32 });
        }
        let ended = |state: &mut State| !running.iter().any(|id| state.container(id).is_some_and(|container| container.running()));
        daemon.wait(Some(within), ended).await;
    }
}

/// `/pod/stop`.
pub(super) async fn stop(daemon: &Arc<Daemon>, id: &str) -> Answer {
    let (machine, containers) = {
        let mut state = daemon.state();
        let pod = state.pods.get_mut(id).ok_or_else(|| not_found(id))?;
        (pod.live.machine.clone(), pod.containers.clone())
    };
    if let Some(machine) = machine {
        end_containers(daemon, &machine, &containers).await;
        if let Some(pod) = daemon.state().pods.get_mut(id) {
            (pod.live.machine, pod.machine, pod.live.phase) = (None, None, Phase::Stopped);
        }
        machine.end().await;
        daemon.save();
        daemon.changed();
    }
    Ok(answer::done(StatusCode::OK, id))
}

fn not_found(id: &str) -> Refusal {
    Refusal::new(format!("Can not find that Pod({id})"))
}

/// `DELETE /pod`.
pub(super) async fn delete(daemon: &Arc<Daemon>, id: &str) -> Answer {
    let (incarnation, machine, containers) = leave(&mut daemon.state(), id).ok_or_else(|| not_found(id))?;
    daemon.changed();
    // A pod that is being created: its machine is ended by whoever creates it.
    daemon.wait(None, |state| !state.booting.contains(&incarnation)).await;
    if containers
        .iter()
        .any(|id| daemon.state().container(id).is_some_and(|container| container.log.as_ref().is_some_and(|log| log.is_none())))
    {
        eprintln!("panic: runtime error: invalid memory address or nil pointer dereference");
        std::process::abort();
    }
    if let Some(machine) = machine {
        if containers.iter().any(|id| daemon.state().container(id).is_some_and(|container| container.stalled)) {
            tokio::time::sleep(daemon.options.scaled(STALLED)).await;
            if daemon.faults.delete_of_stalled_crashes() {
                eprintln!("panic: send on closed channel");
                machine.kill().await;
                std::process::abort();
            }
        }
        end_containers(daemon, &machine, &containers).await;
        machine.end().await;
    }
    let mut state = daemon.state();
    state.leaving.retain(|pod| pod.live.incarnation != incarnation);
    for container in containers {
        if let Some(container) = state.leaving_containers.remove(&container) {
            container.log.iter().for_each(|log| log.ended());
            rootfs::remove(&daemon.options.dir, &container.id);
        }
    }
    drop(state);
    daemon.save();
    daemon.changed();
    Ok(answer::done(StatusCode::OK, id))
}

type Left = (u64, Option<Arc<Machine>>, Vec<String>);

/// Takes a pod off the list; its names are free.
fn leave(state: &mut State, id: &str) -> Option<Left> {
    let mut pod = state.pods.remove(id)?;
    for container in &pod.containers {
        if let Some(container) = state.containers.remove(container) {
            state.leaving_containers.insert(container.id.clone(), container);
        }
    }
    let left = (pod.live.incarnation, pod.live.machine.take(), pod.containers.clone());
    if pod.live.phase != Phase::Creating {
        state.leaving.push(pod);
    }
    Some(left)
}

/// `/pod/pause` and `/pod/unpause`.
pub(super) fn pause(daemon: &Daemon, id: &str, paused: bool) -> Answer {
    let mut state = daemon.state();
    let pod = state.pods.get_mut(id).ok_or_else(|| not_found(id))?;
    let (from, to, command) = if paused {
        (Phase::Running, Phase::Paused, frames::Command::Pause)
    } else {
        (Phase::Paused, Phase::Running, frames::Command::Unpause)
    };
    let not_running = || Refusal::new(format!("pod {id} is not running")).status(StatusCode::PRECONDITION_FAILED);
    let machine = pod.live.machine.clone().filter(|_| pod.live.phase == from).ok_or_else(not_running)?;
    pod.live.phase = to;
    machine.tell(command);
    Ok(answer::bare(StatusCode::NO_CONTENT, answer::chunks(futures::stream::empty())))
}

/// `/container/kill`.
pub(super) fn kill(daemon: &Daemon, container: &str, signal: &str) -> Answer {
    let state = daemon.state();
    let (pod, container) = state.find_container(container).ok_or_else(|| Refusal::new(format!("cannot find container {container}")))?;
    let signal = signal.parse().unwrap_or(Signal::SIGKILL as i32);
    if let Some(machine) = &pod.live.machine {
        machine.tell(frames::Command::Signal { container: container.id.clone(), signal });
    }
    Ok(answer::nothing(StatusCode::CREATED))
}

/// What becomes of a pod whose machine has gone without being asked to.
pub(super) fn lose_machine(pod: &mut Pod, containers: &mut BTreeMap<String, Container>) {
    (pod.live.machine, pod.machine, pod.live.phase) = (None, None, Phase::Stopped);
    lose_containers(pod, containers);
}

/// What becomes of its containers.
pub(super) fn lose_containers(pod: &Pod, containers: &mut BTreeMap<String, Container>) {
    for container in &pod.containers {
        if let Some(container) = containers.get_mut(container) {
            container.ended(End::Code(255));
        }
    }
}
