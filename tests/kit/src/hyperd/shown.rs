//! What hyperd shows of pods and containers. Its maps have no order, so neither have these lists.

use http::StatusCode;
use rand::seq::SliceRandom;
use serde_json::{Map, Value, json};

use super::{
    answer::{self, Answer, Refusal},
    daemon::Daemon,
    state::{Container, End, Phase, Pod, State, Status},
};

/// `/pod/info`.
pub(super) fn pod_info(daemon: &Daemon, id: &str) -> Answer {
    let state = daemon.state();
    let pod = state.pods.get(id).ok_or_else(|| Refusal::new(format!("Can not get Pod info with pod ID({id})")))?;
    let containers = || shuffled(pod.containers.iter().filter_map(|id| state.containers.get(id)).collect());
    let mut info = Map::new();
    let mut put = |key: &str, value: Value| info.insert(key.to_owned(), value);
    put("podID", json!(id));
    put("kind", json!("Pod"));
    put("apiVersion", json!("1.17"));
    if let Some(machine) = &pod.live.shown_machine {
        put("vm", json!(machine));
    }
    put("createdAt", json!(pod.created_at));
    put("spec", spec(pod, containers().into_iter().map(container_spec).collect()));
    let mut status = json!({ "phase": phase(pod, &state), "hostIP": daemon.host.address });
    if let Some(address) = &pod.live.shown_address {
        status["podIP"] = json!([address]);
    }
    let statuses: Vec<Value> = containers().into_iter().map(container_status).collect();
    if !statuses.is_empty() {
        status["containerStatus"] = json!(statuses);
    }
    put("status", status);
    put("podName", json!(id));
    Ok(answer::json_value(StatusCode::OK, &Value::Object(info)))
}

fn shuffled<T>(mut list: Vec<T>) -> Vec<T> {
    list.shuffle(&mut rand::rng());
    list
}

fn spec(pod: &Pod, containers: Vec<Value>) -> Value {
    let mut spec = json!({});
    if !containers.is_empty() {
        let source = format!("/var/lib/hyper/hosts/{}/hosts", pod.id);
        spec["volumes"] = json!([{ "name": "etchosts-volume", "source": source, "driver": "vfs" }]);
        spec["containers"] = json!(containers);
    }
    for (key, value) in [("vcpu", pod.vcpu), ("memory", pod.memory)] {
        if value > 0 {
            spec[key] = json!(value);
        }
    }
    spec
}

fn phase(pod: &Pod, state: &State) -> &'static str {
    let failed = |id: &String| {
        let status = state.containers.get(id).map(|container| &container.status);
        matches!(status, Some(Status::Ended { end, .. }) if *end != End::Code(0))
    };
    match pod.live.phase {
        Phase::Creating => "Pending",
        Phase::Running => "Running",
        Phase::Paused => "Paused",
        Phase::Stopped if pod.containers.iter().any(failed) => "Failed",
        Phase::Stopped => "Succeeded",
    }
}

fn container_spec(container: &Container) -> Value {
    let mut shown = json!({
        "name": format!("/{}", container.name),
        "containerID": container.id,
        "image": container.image,
        "imageID": container.image_id,
        "workingDir": container.workdir,
    });
    if !container.asked_command.is_empty() {
        shown["commands"] = json!(container.asked_command);
    }
    if let Some((_, arguments @ [_, ..])) = container.command.split_first() {
        shown["args"] = json!(arguments);
    }
    let mut envs = vec![json!({ "env": "PATH", "value": "/bin" })];
    envs.extend(container.envs.iter().map(|(name, value)| {
        let mut env = json!({ "env": name });
        if !value.is_empty() {
            env["value"] = json!(value);
        }
        env
    }));
    shown["env"] = json!(shuffled(envs));
    if !container.adopted {
        shown["volumeMounts"] = json!([{ "name": "etchosts-volume", "mountPath": "/etc/hosts" }]);
    }
    shown
}

fn container_status(container: &Container) -> Value {
    let (mut phase, mut waiting, mut running, mut terminated) = ("pending", json!({}), json!({}), json!({}));
    match &container.status {
        Status::Pending => waiting = json!({ "reason": "Pending" }),
        Status::Running { started } => {
            phase = "running";
            running = json!({ "startedAt": started });
        }
        Status::Ended { started, finished, end } => {
            let (small, reason) = if *end == End::Code(0) { ("succeeded", "Succeeded") } else { ("failed", "Failed") };
            phase = small;
            if let End::Code(code @ (..=-1 | 1..)) = end {
                terminated["exitCode"] = json!(code);
            }
            terminated["reason"] = json!(reason);
            terminated["startedAt"] = json!(started);
            terminated["finishedAt"] = json!(finished);
        }
    }
    json!({
        "name": container.name,
        "containerID": container.id,
        "phase": phase,
        "waiting": waiting,
        "running": running,
        "terminated": terminated,
    })
}

/// `/container/info`.
pub(super) fn container_info(daemon: &Daemon, name: &str) -> Answer {
    let state = daemon.state();
    let (pod, container) = state.find_container(name).ok_or_else(|| Refusal::new(format!("Can not find container by name({name})")))?;
    let shown = json!({
        "container": container_spec(container),
        "createdAt": container.created_at,
        "podID": pod.id,
        "status": container_status(container),
    });
    Ok(answer::json_value(StatusCode::OK, &shown))
}

/// `/list`.
pub(super) fn list(daemon: &Daemon, item: &str, wanted: Option<&str>) -> Answer {
    let state = daemon.state();
    let pods: Vec<&Pod> = shuffled(state.pods.values().filter(|pod| wanted.is_none_or(|wanted| pod.id == wanted)).collect());
    let list = match item {
        "pod" => json!({ "item": item, "podData": pods.iter().map(|pod| pod_line(pod)).collect::<Vec<_>>() }),
        "container" => {
            let lines = |pod: &&Pod| {
                let pod = *pod;
                let line = |container: &Container| format!("{}:{}:{}:{}", container.id, container.name, pod.id, listed_as(container));
                pod.containers.iter().filter_map(|id| state.containers.get(id)).map(line).collect::<Vec<_>>()
            };
            json!({ "cData": shuffled(pods.iter().flat_map(lines).collect()), "item": item })
        }
        "vm" => json!({ "item": item, "vmData": pods.iter().filter_map(|pod| machine_line(pod)).collect::<Vec<_>>() }),
        _ => return Err(Refusal::new(format!("Can not support {item} list!"))),
    };
    Ok(answer::json_value(StatusCode::CREATED, &list))
}

/// The machine that a pod has now; during creation, the one that it will have.
fn machine(pod: &Pod) -> Option<&str> {
    match pod.live.phase {
        Phase::Creating => pod.live.shown_machine.as_deref(),
        _ => pod.live.machine.as_ref().map(|machine| machine.name.as_str()),
    }
}

fn pod_line(pod: &Pod) -> String {
    let status = match pod.live.phase {
        Phase::Creating => "pending",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Stopped => "failed",
    };
    format!("{0}:{0}:{1}:{status}", pod.id, machine(pod).unwrap_or_default())
}

fn machine_line(pod: &Pod) -> Option<String> {
    let status = if pod.live.phase == Phase::Paused { "paused" } else { "associated" };
    Some(format!("{}:{}:{status}", machine(pod)?, pod.id))
}

/// Here a container that was killed has succeeded.
fn listed_as(container: &Container) -> &'static str {
    match &container.status {
        Status::Pending => "pending",
        Status::Running { .. } => "running",
        Status::Ended { end: End::Code(0) | End::Signal(_), .. } => "succeeded",
        Status::Ended { .. } => "failed",
    }
}
