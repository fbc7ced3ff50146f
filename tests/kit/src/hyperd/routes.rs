//! Which call does what.

use std::{fs, sync::Arc, time::Duration};

use http::{StatusCode, header};
use serde_json::json;

use super::{
    answer::{self, Answer, Refusal},
    create,
    daemon::Daemon,
    logs::Wish,
    pods,
    server::Call,
    shown,
    state::{State, Status},
};

/// How long a log is followed after its container has ended.
const LINGER: Duration = Duration::from_secs(3);

impl Call {
    fn get(&self, key: &str) -> &str {
        self.query.get(key).map(String::as_str).unwrap_or_default()
    }

    fn is(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1" | "yes")
    }
}

/// Does what is asked.
pub(super) async fn answer(daemon: &Arc<Daemon>, call: Call) -> Answer {
    match (call.method.as_str(), call.path.as_str()) {
        ("GET", "/_ping") => Ok(answer::text(StatusCode::OK, "OK")),
        ("GET", "/info") => Ok(info(daemon)),
        ("GET", "/version") => Ok(answer::json_value(StatusCode::OK, &json!({ "ID": std::process::id(), "Version": "1.1.0" }))),
        ("GET", "/list") => shown::list(daemon, call.get("item"), call.query.get("pod").map(String::as_str)),
        ("GET", "/pod/info") => shown::pod_info(daemon, call.get("podName")),
        ("GET", "/pod/stats") => Err(Refusal::new(format!("Stats for pod {} is nil", call.get("podId")))),
        ("POST", "/pod/create") => {
            json_only(&call)?;
            create::create(daemon, &call.body).await
        }
        ("POST", "/pod/start") => pods::start(daemon, call.get("podId")).await,
        ("POST", "/pod/stop") => pods::stop(daemon, call.get("podId")).await,
        ("POST", "/pod/pause") => pods::pause(daemon, call.get("podId"), true),
        ("POST", "/pod/unpause") => pods::pause(daemon, call.get("podId"), false),
        ("DELETE", "/pod") => pods::delete(daemon, call.get("podId")).await,
        ("GET", "/container/info") => shown::container_info(daemon, call.get("container")),
        ("GET", "/container/logs") => logs(daemon, &call),
        ("POST", "/container/kill") => pods::kill(daemon, call.get("container"), call.get("signal")),
        ("POST", "/container/remove") => Err(Refusal::new(format!("cannot find container {}", call.get("container")))),
        ("GET", "/exitcode") => exit_code(daemon, call.get("container")).await,
        ("GET", "/images/get") => Ok(daemon.state().images.list()),
        ("POST", "/image/create") => pull(daemon, &call),
        ("POST", "/image/load") => {
            let loaded = daemon.state().images.load(&call.body);
            daemon.save();
            loaded
        }
        ("DELETE", "/image") => delete_image(daemon, call.get("imageId")),
        _ => {
            // Not hyperd's own answer, so it doesn't say its name.
            let mut response = Refusal::new("404 page not found").status(StatusCode::NOT_FOUND).into_response();
            response.headers_mut().remove(header::SERVER);
            Ok(response)
        }
    }
}

fn json_only(call: &Call) -> Result<(), Refusal> {
    let kind = call.content_type.split(';').next().unwrap_or_default().trim();
    let wrong = || Refusal::new(format!("Content-Type specified ({}) must be 'application/json'", call.content_type));
    if kind == "application/json" { Ok(()) } else { Err(wrong()) }
}

fn info(daemon: &Daemon) -> http::Response<answer::Body> {
    let state = daemon.state();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let containers: usize = state.pods.values().map(|pod| pod.containers.len()).sum();
    let info = json!({
        "Containers": containers,
        "DockerRootDir": "/var/lib/hyper",
        "Driver": "overlay",
        "DriverStatus": [["Backing Filesystem", "extfs"]],
        "ExecutionDriver": "qemu",
        "ID": std::process::id(),
        "Images": state.images.count(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "MemTotal": daemon.host.memory_kib,
        "Name": name.trim(),
        "Operating System": system,
        "Pods": state.pods.len(),
    });
    answer::json_value(StatusCode::OK, &info)
}

fn logs(daemon: &Daemon, call: &Call) -> Answer {
    let tail = call.get("tail").parse().ok();
    let (stdout, stderr) = (call.is("stdout"), call.is("stderr"));
    let wish = Wish { stdout, stderr, follow: call.is("follow"), tail, timestamps: call.is("timestamps") };
    if !wish.stdout && !wish.stderr {
        return Err(Refusal::new("Bad parameters: you must choose at least one stream").status(StatusCode::BAD_REQUEST));
    }
    let name = call.get("container");
    let log = daemon.state().find_container(name).and_then(|(_, container)| container.log.clone());
    let body = match log {
        Some(log) => answer::chunks(log.read(wish, daemon.options.scaled(LINGER))),
        None => {
            let text = format!("Error running logs job: cannot find container {name}\n");
            answer::chunks(futures::stream::once(async { text.into() }))
        }
    };
    Ok(answer::bare(StatusCode::OK, body))
}

/// Waits for the end of a container that runs.
async fn exit_code(daemon: &Daemon, name: &str) -> Answer {
    let unknown = || Refusal::new(format!("cannot find container {name}"));
    let id = daemon.state().find_container(name).map(|(_, container)| container.id.clone()).ok_or_else(unknown)?;
    let ended = |state: &mut State| state.container(&id).is_none_or(|container| !container.running());
    daemon.wait(None, ended).await;
    let code = daemon.state().container(&id).and_then(|container| match container.status {
        Status::Ended { end, .. } => Some(end.code()),
        Status::Pending | Status::Running { .. } => None,
    });
    Ok(answer::json_value(StatusCode::OK, &json!(code.unwrap_or_default())))
}

fn pull(daemon: &Daemon, call: &Call) -> Answer {
    let (name, tag) = (call.get("imageName"), call.get("tag"));
    let whole = if tag.is_empty() { name.to_owned() } else { format!("{name}:{tag}") };
    let pulled = daemon.state().images.pull(&whole);
    daemon.save();
    pulled
}

fn delete_image(daemon: &Daemon, name: &str) -> Answer {
    let mut guard = daemon.state();
    let State { images, containers, .. } = &mut *guard;
    let deleted = images.delete(name, |id| containers.values().any(|container| container.image_id == id));
    drop(guard);
    daemon.save();
    deleted
}
