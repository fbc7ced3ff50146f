//! The start-up self-check: a container of nothing, made like any other, looked at, and removed.
//!
//! What a kernel or a security module doesn't do, it often doesn't do silently. So before anybody's pod runs, the shim makes
//! a container whose first process stops where it would execute the image's program, and reads back from the kernel that it
//! is as confined as it should be (`shim/confined.rs`, `cgroup::verify`); as it does of every container later.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    OpenError, keep,
    launch::{self, Setup, unavailable},
    record::{Answer, ContainerOrder, DISK_FULL_STEP, DISK_STEP, Order, PodRecord},
};
use crate::{Machine, PodId, PodSpec};

/// Not the hash of any manifest that will be seen.
const ID: &str = "probeaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Room enough for a process that does nothing.
const MACHINE: Machine = Machine { vcpus: 1, memory_bytes: 32 << 20, disk_bytes: Machine::DISK_DEFAULT };
/// From its answer to the end of a shim that has nothing left to do.
const EXIT: Duration = Duration::from_secs(5);

/// How the check went.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// As it should.
    Confined,
    /// Containers can't have a disk of their own here.
    NoDisk(String),
    /// They could if there was room.
    DiskFull(String),
}

/// The pod that is looked at.
pub(crate) fn id() -> Result<PodId, OpenError> {
    ID.parse().map_err(|error| unavailable("naming the self-check's pod", io::Error::other::<crate::pod::BadPodId>(error)).into())
}

/// Makes the container in `slot`, and leaves nothing of it. Blocks.
pub(crate) fn check(setup: &Setup<'_>, pods_dir: &Path, slot: u32) -> Result<Outcome, OpenError> {
    let spec = PodSpec { id: id()?, machine: MACHINE, containers: Vec::new() };
    let container = ContainerOrder {
        name: "probe".to_owned(),
        layers: Vec::new(),
        argv: vec!["probe".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: String::new(),
        volumes: Vec::new(),
    };
    let order = Order { probe: true, ..launch::describe(setup, &spec, slot, vec![container])? };
    let dir = pods_dir.join(PodRecord::directory(&order.pod.id, order.pod.incarnation));
    let answer = run(setup, &dir, &order);
    keep::undo(&dir, &setup.config.cgroup()).map_err(|error| unavailable("clearing up after the self-check", error))?;
    match answer.map_err(|error| unavailable("running the self-check", error))? {
        Answer::Started { .. } => Ok(Outcome::Confined),
        Answer::Failed { step, cause, .. } if step == DISK_STEP => Ok(Outcome::NoDisk(cause)),
        Answer::Failed { step, cause, .. } if step == DISK_FULL_STEP => Ok(Outcome::DiskFull(cause)),
        Answer::Failed { step, cause, .. } => Err(OpenError::SelfCheck { step, cause }),
    }
}

fn run(setup: &Setup<'_>, dir: &Path, order: &Order) -> io::Result<Answer> {
    let log = launch::prepare(dir, order)?;
    let mut shim = launch::shim_command(setup.config, dir, log).spawn()?;
    let answer = converse(&mut shim, order, Instant::now() + setup.config.limits.start_timeout);
    let until = Instant::now() + if answer.is_ok() { EXIT } else { Duration::ZERO };
    end(&mut shim, until)?;
    answer
}

fn converse(shim: &mut Child, order: &Order, deadline: Instant) -> io::Result<Answer> {
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

/// Sees it out, and ends it if it stays.
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

/// What the file system of pods is copied from, if pods can have disks here.
pub(crate) fn template(setup: &super::EmbeddedConfig) -> Option<std::path::PathBuf> {
    if setup.limits.scratch == super::ScratchLimit::Memory {
        return None;
    }
    let made = super::disk::forget_templates(&setup.root)
        .and_then(|()| super::disk::template(&setup.root, MACHINE.disk_bytes, setup.limits.scratch_inodes_max));
    made.inspect_err(|error| warn_of_memory(&error.to_string())).ok()
}

pub(crate) fn warn_of_memory(cause: &str) {
    tracing::warn!(
        cause,
        "pods can't have disks of their own: what they write is kept in their memory, half of it at most (CODIUS_POD_DISK)"
    );
}
