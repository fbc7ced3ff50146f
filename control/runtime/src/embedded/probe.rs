//! The start-up self-check: creates an empty container like any other, inspects it, and removes it.
//!
//! Kernels and security modules may silently leave out a restriction. So before any pod runs, the shim creates a container whose first
//! process stops where it would execute the image's program, and reads back from the kernel that it is confined as required
//! (`shim/verify.rs`, `cgroup::verify`). The same check runs for every later container.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    OpenError, adopt,
    launch::{self, Setup, unavailable},
    shim_protocol::{ContainerRequest, DISK_FULL_STEP, DISK_STEP, PodRecord, ShimReply, ShimRequest},
    vm::Accelerator,
};
use crate::{Machine, PodId, PodSpec};

/// Not the hash of any real manifest.
const ID: &str = "probeaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Enough for an idle process.
const MACHINE: Machine = Machine { vcpus: 1, memory_bytes: 32 << 20, disk_bytes: Machine::DISK_DEFAULT };
/// How long a virtual machine may take to boot under KVM, where it takes a fraction of a second: a machine that needs longer only pretends
/// to have KVM.
const BOOT_MS: u64 = 10_000;
/// How long the shim may take from its answer to its exit.
const EXIT: Duration = Duration::from_secs(5);

/// The result of the check.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Containers are confined.
    Confined,
    /// Containers can't have a disk of their own here.
    NoDisk(String),
    /// They could, but the host's disk is full.
    DiskFull(String),
}

/// The pod that is checked.
pub(crate) fn id() -> Result<PodId, OpenError> {
    ID.parse().map_err(|error| unavailable("naming the self-check's pod", io::Error::other::<crate::pod::BadPodId>(error)).into())
}

/// Creates the container in `slot`, and removes everything of it. Blocks.
pub(crate) fn check(setup: &Setup<'_>, pods_dir: &Path, slot: u32) -> Result<Outcome, OpenError> {
    let spec = PodSpec { id: id()?, machine: MACHINE, containers: Vec::new() };
    let container = ContainerRequest {
        name: "probe".to_owned(),
        layers: Vec::new(),
        image: 0,
        argv: vec!["probe".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: String::new(),
        volumes: Vec::new(),
    };
    let mut order = ShimRequest { probe: true, ..launch::describe(setup, &spec, slot, vec![container])? };
    if let Some(vm) = order.vm.as_mut().filter(|vm| vm.accelerator == Accelerator::Kvm) {
        vm.start_timeout_ms = BOOT_MS;
    }
    let dir = pods_dir.join(PodRecord::directory(&order.pod.id, order.pod.incarnation));
    let answer = run(setup, &dir, &order);
    adopt::undo(&dir, &setup.config.cgroup()).map_err(|error| unavailable("clearing up after the self-check", error))?;
    match answer.map_err(|error| unavailable("running the self-check", error))? {
        ShimReply::Started { .. } => Ok(Outcome::Confined),
        ShimReply::Failed { step, cause, .. } if step == DISK_STEP => Ok(Outcome::NoDisk(cause)),
        ShimReply::Failed { step, cause, .. } if step == DISK_FULL_STEP => Ok(Outcome::DiskFull(cause)),
        ShimReply::Failed { step, cause, .. } => Err(OpenError::SelfCheck { step, cause }),
    }
}

fn run(setup: &Setup<'_>, dir: &Path, order: &ShimRequest) -> io::Result<ShimReply> {
    let log = launch::prepare(dir, order)?;
    let mut shim = launch::shim_command(setup.config, dir, log).spawn()?;
    let answer = converse(&mut shim, order, Instant::now() + setup.config.limits.start_timeout);
    let until = Instant::now() + if answer.is_ok() { EXIT } else { Duration::ZERO };
    end(&mut shim, until)?;
    answer
}

fn converse(shim: &mut Child, order: &ShimRequest, deadline: Instant) -> io::Result<ShimReply> {
    let (Some(mut stdin), Some(mut stdout)) = (shim.stdin.take(), shim.stdout.take()) else {
        return Err(io::Error::other("it has no pipes"));
    };
    stdin.write_all(&[serde_json::to_vec(order)?.as_slice(), b"\n"].concat())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        let left = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], left)? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        let mut piece = [0; 1024];
        let length = stdout.read(&mut piece)?;
        if length == 0 || answer.len() as u64 > launch::ANSWER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no answer"));
        }
        answer.extend(&piece[..length]);
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// Waits for the shim's exit, and kills it at the deadline.
fn end(shim: &mut Child, deadline: Instant) -> io::Result<()> {
    while shim.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            shim.kill()?;
            return shim.wait().map(drop);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The template pods' file systems are copied from, if pods can have disks here.
pub(crate) fn template(setup: &super::EmbeddedConfig) -> Option<std::path::PathBuf> {
    if setup.limits.scratch == super::ScratchLimit::Memory {
        return None;
    }
    let made = super::disk::forget_templates(&setup.root)
        .and_then(|()| super::disk::template(&setup.root, MACHINE.disk_bytes, setup.limits.scratch_inodes_max));
    made.inspect_err(|error| warn_of_memory(&error.to_string())).ok()
}

pub(crate) fn warn_of_memory(cause: &str) {
    tracing::warn!(cause, "pods get no disks of their own: they write to their memory, half of it at most (pods.disk, CODIUS_POD_DISK)");
}
