//! Creating pods: names first, then a machine, then a look at the images.

use std::sync::Arc;

use http::StatusCode;
use rand::RngExt;

use super::{
    answer::{self, Answer, Refusal},
    clock,
    daemon::Daemon,
    logs::{Bounds, Log},
    machine::Machine,
    net::{self, Nic},
    rootfs,
    spec::{ContainerSpec, PodSpec},
    state::{Container, Live, Phase, Pod, State, Status},
};

/// `/pod/create`.
pub(super) async fn create(daemon: &Arc<Daemon>, body: &[u8]) -> Answer {
    let mut spec = PodSpec::parse(body)?;
    if spec.id.is_empty() {
        spec.id = format!("pod-{}", letters());
    }
    let name = format!("vm-{}", letters());
    let incarnation = reserve(&mut daemon.state(), &spec, &name)?;
    let bounds = {
        let mut state = daemon.state();
        if let Some(bounds) = spec.bounds.clone() {
            state.bounds = bounds;
        }
        state.bounds.clone()
    };
    let nic = match &spec.interface {
        Some(asked) => Ok(Nic { link: if asked.link.is_empty() { net::link(&name) } else { asked.link.clone() }, ..asked.clone() }),
        None => daemon.state().next_nic(&daemon.options, &name),
    };
    let handed_out = nic.as_ref().ok().map(|nic| nic.address);
    let booted = match nic {
        Ok(nic) => boot(daemon, &spec, &name, nic).await,
        Err(refusal) => Err(refusal),
    };
    let made = {
        let mut state = daemon.state();
        state.booting.remove(&incarnation);
        match &booted {
            Ok(machine) => make_containers(daemon, &mut state, &spec, incarnation, &bounds)
                .map(|ids| finish(&mut state, &spec, incarnation, machine, ids)),
            Err(refusal) => Err(refusal.clone()),
        }
    };
    if made.is_err() {
        let mut state = daemon.state();
        if state.same(&spec.id, incarnation).is_some() {
            state.pods.remove(&spec.id);
        }
    }
    daemon.save();
    daemon.changed();
    if let (Err(_), Ok(machine)) = (&made, &booted) {
        machine.end().await;
    }
    if let (Err(_), None, Some(handed_out)) = (&made, &spec.interface, handed_out) {
        daemon.state().give_back(handed_out);
    }
    made.map(|()| answer::done(StatusCode::CREATED, &spec.id))
}

/// Ten of them.
pub(super) fn letters() -> String {
    let letter = |number: u8| char::from(if number < 26 { b'a' + number } else { b'A' + number - 26 });
    let mut random = rand::rng();
    (0..10).map(|_| letter(random.random_range(0..52))).collect()
}

fn reserve(state: &mut State, spec: &PodSpec, machine: &str) -> Result<u64, Refusal> {
    if state.pods.contains_key(&spec.id) {
        return Err(Refusal::new(format!("pod name {} has already in use", spec.id)));
    }
    let names: Vec<String> = spec.containers.iter().map(|container| container.name.clone()).collect();
    for name in &names {
        if let Some(pod) = state.pods.values().find(|pod| pod.names.contains(name)) {
            return Err(Refusal::new(format!("container name {name} has already taken by pod {}", pod.id)));
        }
    }
    state.next_incarnation += 1;
    let incarnation = state.next_incarnation;
    state.booting.insert(incarnation);
    let live = Live { phase: Phase::Creating, incarnation, shown_machine: Some(machine.to_owned()), ..Live::default() };
    let pod = Pod {
        id: spec.id.clone(),
        vcpu: spec.vcpu,
        memory: spec.memory,
        created_at: clock::seconds(),
        names,
        containers: Vec::new(),
        interface: spec.interface.clone(),
        machine: None,
        live,
    };
    state.pods.insert(spec.id.clone(), pod);
    Ok(incarnation)
}

async fn boot(daemon: &Arc<Daemon>, spec: &PodSpec, name: &str, nic: Nic) -> Result<Arc<Machine>, Refusal> {
    if spec.vcpu > daemon.host.cores || spec.memory > daemon.host.memory_kib / 1024 {
        return Err(Refusal::new("hyperstart closed"));
    }
    Machine::boot(daemon, name, &spec.id, nic).await.map_err(|error| {
        eprintln!("hyperd: boot of {}: {error}", spec.id);
        Refusal::new("hyperstart closed")
    })
}

/// Makes one container after the other. Those made before one that can't be made are left behind.
fn make_containers(daemon: &Daemon, state: &mut State, spec: &PodSpec, incarnation: u64, bounds: &Bounds) -> Result<Vec<String>, Refusal> {
    let mut ids = Vec::new();
    for container in &spec.containers {
        ids.push(make_container(daemon, state, container, (&spec.id, bounds))?);
        if state.same(&spec.id, incarnation).is_none() {
            break;
        }
    }
    if state.same(&spec.id, incarnation).is_none() {
        let text = format!("cannot complete the operation, because the pod {} is not alive", spec.id);
        return Err(Refusal::new(text).status(StatusCode::PRECONDITION_FAILED));
    }
    Ok(ids)
}

fn make_container(daemon: &Daemon, state: &mut State, spec: &ContainerSpec, (pod, bounds): (&str, &Bounds)) -> Result<String, Refusal> {
    if let Some(container) = state.containers.get_mut(&spec.id).filter(|container| container.name == spec.name) {
        container.adopted = true;
        return Ok(spec.id.clone());
    }
    if spec.image.is_empty() && spec.command.is_empty() {
        return Err(Refusal::new("No command specified"));
    }
    let image = state.images.find(&spec.image)?;
    let command = if spec.command.is_empty() { image.command } else { spec.command.clone() };
    if command.is_empty() {
        return Err(Refusal::new("No command specified"));
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !spec.name.chars().all(fine) || !spec.name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(Refusal::new(format!("Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", spec.name)));
    }
    if let Some(other) = state.containers.values().find(|container| container.name == spec.name) {
        let text = format!(
            "Conflict. The name \"/{}\" is already in use by container {}. You have to remove (or rename) that container to be able to \
             reuse that name.",
            spec.name, other.id
        );
        return Err(Refusal::new(text).status(StatusCode::CONFLICT));
    }
    let id = hex::encode(rand::random::<[u8; 32]>());
    rootfs::make(&daemon.options.dir, &id).map_err(|error| Refusal::new(format!("make the root of {}: {error}", spec.name)))?;
    let container = Container {
        id: id.clone(),
        name: spec.name.clone(),
        image: spec.image.clone(),
        image_id: image.id,
        workdir: if spec.workdir.is_empty() { "/".to_owned() } else { spec.workdir.clone() },
        asked_command: spec.command.clone(),
        command,
        envs: spec.envs.clone(),
        pod: pod.to_owned(),
        bounds: bounds.clone(),
        adopted: false,
        program: image.program,
        created_at: clock::seconds(),
        status: Status::Pending,
        starting: false,
        stalled: false,
        log: Some(Log::open(&daemon.options.dir, pod, &id, bounds.clone())),
    };
    state.containers.insert(id.clone(), container);
    if image.ends_guest {
        return Err(Refusal::new(format!("finished with errors: map[{}: Create new container failed: hyperstart closed]", spec.name)));
    }
    Ok(id)
}

fn finish(state: &mut State, spec: &PodSpec, incarnation: u64, machine: &Arc<Machine>, containers: Vec<String>) {
    // A pod of this name that went with its machine makes way.
    state.unlisted.retain(|pod| pod.id != spec.id);
    if let Some(pod) = state.same(&spec.id, incarnation) {
        pod.containers = containers;
        pod.machine = Some((machine.name.clone(), machine.nic.clone()));
        pod.created_at = clock::seconds();
        pod.live.phase = Phase::Running;
        pod.live.shown_address = Some(machine.nic.cidr());
        pod.live.machine = Some(machine.clone());
    }
}
