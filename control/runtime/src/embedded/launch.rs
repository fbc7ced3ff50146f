//! Starting a pod: from its description to an order, a shim, and the shim's answer.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{
    EmbeddedConfig, SHIM_ARGUMENT,
    adopt::Held,
    shim_protocol::{
        Bounds, ContainerRequest, LogBounds, POD_FILE, PodRecord, SHIM_LOG, Scratch, ShimReply, ShimRequest, VERSION, write_json,
    },
    subnet_lock,
    veth::Veth,
    vm::{VmPlan, engine::IMAGES_MAX},
};
use crate::{
    ContainerSpec, PodId, PodSpec, RuntimeError,
    error::Fault,
    image::{Image, ImageStore, LayerUse, MergedImage, process_of},
};

/// Longest container name: it becomes part of file names.
const NAME_LENGTH_MAX: usize = 64;
/// When memory is short, pods are killed before any process of the host.
const OOM_SCORE_ADJ: i32 = 500;
/// How long a shim may take to exit after reporting a failure.
const FAILED_EXIT: Duration = Duration::from_secs(1);
/// Longest answer of a shim, in bytes.
pub(crate) const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Prepares the images and builds the shim's order.
pub(crate) async fn order(
    setup: &Setup<'_>,
    images: &ImageStore,
    spec: &PodSpec,
    slot: u32,
) -> Result<(ShimRequest, Vec<LayerUse>), RuntimeError> {
    check_names(spec)?;
    let (mut containers, mut files, mut uses) = (Vec::new(), Vec::new(), Vec::new());
    for container in &spec.containers {
        let image = images.ensure(&container.image).await?;
        let index = match setup.vm {
            Some(_) => {
                let MergedImage { path, used } = images.merged(&image).await?;
                uses.push(used);
                Some(index_of(path, &mut files))
            }
            None => None,
        };
        containers.push(container_order(&image, container, index)?);
        uses.extend(image.uses);
    }
    if files.len() > IMAGES_MAX {
        let step = format!("a virtual machine has at most {IMAGES_MAX} images, and the pod {}", files.len());
        return Err(RuntimeError::Start { id: spec.id.clone(), step, source: None });
    }
    let mut order = describe(setup, spec, slot, containers)?;
    if let Some(vm) = &mut order.vm {
        vm.images = files;
    }
    Ok((order, uses))
}

/// The index of an image file: containers of one image share a device.
fn index_of(path: PathBuf, files: &mut Vec<PathBuf>) -> u16 {
    let index = files.iter().position(|known| *known == path).unwrap_or_else(|| {
        files.push(path);
        files.len() - 1
    });
    u16::try_from(index).unwrap_or(u16::MAX)
}

/// Host settings a shim needs.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) config: &'a EmbeddedConfig,
    /// The file system template for pods' disks; none: pods' writes are kept in memory.
    pub(crate) template: Option<&'a Path>,
    /// None: pods are containers on the host's kernel.
    pub(crate) vm: Option<&'a VmPlan>,
}

pub(crate) fn describe(
    setup: &Setup<'_>,
    spec: &PodSpec,
    slot: u32,
    containers: Vec<ContainerRequest>,
) -> Result<ShimRequest, RuntimeError> {
    let Setup { config, template, vm } = *setup;
    let limits = &config.limits;
    let vm = vm.map(|plan| plan.request(spec.machine, limits));
    let incarnation: u64 = rand::random();
    let half = spec.machine.memory_bytes / 2;
    let pod = PodRecord {
        version: VERSION,
        id: spec.id.clone(),
        incarnation,
        slot,
        address: config.address(slot),
        link: config.link(slot),
        cgroup: config.cgroup().join(PodRecord::directory(&spec.id, incarnation)),
        memory_bytes: vm.as_ref().map_or(spec.machine.memory_bytes, |vm| vm.host_memory_bytes),
        containers: spec.containers.iter().map(|container| container.name.clone()).collect(),
        vm: setup.vm.map(VmPlan::fingerprint),
    };
    // The limit can't exceed our own.
    let (_, open_files) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| RuntimeError::of_io("reading own limits", errno.into()))?;
    Ok(ShimRequest {
        pod,
        machine: spec.machine,
        claim: subnet_lock::path(config.subnet),
        wire: Veth { gateway: config.gateway(), address: config.address(slot), bytes_per_second: config.network.bytes_per_second },
        uid_base: config.uids(slot),
        resolv_conf: config.resolv_conf(),
        read_only: config.read_only,
        probe: false,
        without: config.without,
        bounds: Bounds {
            pids: limits.pids_max,
            scratch: template.map_or(Scratch::Memory { bytes: half }, |template| Scratch::Disk { template: template.to_owned() }),
            scratch_inodes: limits.scratch_inodes_max,
            shm_bytes: limits.shm_bytes_max.min(half),
            open_files: limits.open_files_max.min(open_files),
            stop_grace_ms: u64::try_from(limits.stop_grace.as_millis()).unwrap_or(u64::MAX),
            oom_score_adj: own_oom_score().max(OOM_SCORE_ADJ),
            log: LogBounds {
                line_bytes: limits.log_line_bytes_max,
                file_bytes: limits.log_file_bytes_max,
                bytes_per_second: limits.log_bytes_per_second_max,
            },
        },
        containers,
        vm,
    })
}

/// Container names become file names: rejects any that the manifest wouldn't allow.
fn check_names(spec: &PodSpec) -> Result<(), RuntimeError> {
    let refuse = |why: &str| Err(RuntimeError::Failed { operation: format!("checking the names of containers: {why}"), source: None });
    let good = |name: &str| {
        name.len() <= NAME_LENGTH_MAX
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    let names: Vec<&str> = spec.containers.iter().map(|container| &*container.name).collect();
    match () {
        () if names.is_empty() => refuse("it has no containers"),
        () if !names.iter().all(|name| good(name)) => {
            refuse("a container name is 1 to 64 of a-z, A-Z, 0-9, _, . and -, a letter or digit first")
        }
        () if names.iter().enumerate().any(|(index, name)| names[..index].contains(name)) => refuse("two containers have the same name"),
        () => Ok(()),
    }
}

/// Lowering the score below our own needs a privilege this daemon may lack.
fn own_oom_score() -> i32 {
    fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|score| score.trim().parse().ok()).unwrap_or_default()
}

fn container_order(image: &Image, container: &ContainerSpec, device: Option<u16>) -> Result<ContainerRequest, RuntimeError> {
    let process = process_of(&image.settings, container)?;
    Ok(ContainerRequest {
        name: container.name.clone(),
        layers: if device.is_some() { Vec::new() } else { image.layers.clone() },
        image: device.unwrap_or_default(),
        argv: process.args,
        env: process.env,
        cwd: process.cwd,
        user: process.user,
        volumes: process.volumes,
    })
}

/// Runs a shim for the order; on an error, the caller undoes what is in the pod's directory.
pub(crate) async fn launch(config: &EmbeddedConfig, dir: &Path, order: ShimRequest) -> Result<Held, RuntimeError> {
    let mut shim = spawn(config, dir, &order).map_err(|error| RuntimeError::of_io("starting the pod's supervisor", error))?;
    let answered = converse(&mut shim, &order, config.limits.start_timeout).await;
    if matches!(answered, Ok(ShimReply::Failed { .. })) {
        // The shim has undone everything. It has exited by the time the caller gets the error.
        timeout(FAILED_EXIT, shim.wait()).await.ok();
    }
    // The shim is the daemon's child, so it must be reaped whenever it exits.
    tokio::spawn(async move { shim.wait().await });
    let answer = answered.map_err(|error| RuntimeError::of_io("talking to the pod's supervisor", error))?;
    match answer {
        ShimReply::Started { started_at_ms } => Ok(Held { dir: dir.to_owned(), record: order.pod, started_at_ms }),
        ShimReply::Failed { fault, step, cause } => Err(failure(order.pod.id, fault, step, cause)),
    }
}

fn failure(id: PodId, fault: Fault, step: String, cause: String) -> RuntimeError {
    let source: Option<Box<dyn std::error::Error + Send + Sync>> = if cause.is_empty() { None } else { Some(cause.into()) };
    match fault {
        Fault::Image | Fault::Request => RuntimeError::Start { id, step, source },
        Fault::Capacity => RuntimeError::NoRoom { what: step, source },
        Fault::Unavailable => RuntimeError::Unavailable { operation: step, source },
        Fault::Host => RuntimeError::Failed { operation: step, source },
    }
}

/// Creates the pod's directory; returns the file for the shim's own log.
pub(crate) fn prepare(dir: &Path, order: &ShimRequest) -> io::Result<fs::File> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    write_json(&dir.join(POD_FILE), &order.pod)?;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(SHIM_LOG))
}

fn spawn(config: &EmbeddedConfig, dir: &Path, order: &ShimRequest) -> io::Result<Child> {
    let log = prepare(dir, order)?;
    Command::from(shim_command(config, dir, log)).spawn()
}

/// A shim for the pod in `dir`, which reads its order from standard input and answers on standard output.
pub(crate) fn shim_command(config: &EmbeddedConfig, dir: &Path, log: fs::File) -> std::process::Command {
    let mut shim = std::process::Command::new(&config.shim_exe);
    shim.arg(SHIM_ARGUMENT).arg(dir).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    shim
}

async fn converse(shim: &mut Child, order: &ShimRequest, limit: Duration) -> io::Result<ShimReply> {
    let (Some(mut stdin), Some(stdout)) = (shim.stdin.take(), shim.stdout.take()) else {
        return Err(io::Error::other("it has no pipes"));
    };
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    let mut answer = String::new();
    let exchange = async {
        stdin.write_all(&line).await?;
        BufReader::new(stdout.take(ANSWER_BYTES_MAX)).read_line(&mut answer).await
    };
    // The shim's stdin stays open throughout: end of file would mean that this daemon has died.
    timeout(limit, exchange).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))??;
    Ok(serde_json::from_str(&answer)?)
}

pub(crate) fn unavailable(operation: &str, error: io::Error) -> RuntimeError {
    RuntimeError::Unavailable { operation: operation.to_owned(), source: Some(Box::new(error)) }
}
