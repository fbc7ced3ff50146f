//! One container, seen from the machine's first process: its creation and its start.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::fchown,
    },
};

use codiusd_container_rootfs::{Prepared, Wanted};
use codiusd_guest_protocol::{Container as Ordered, Order};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    sys::stat::{Mode, fchmod},
    unistd::{Pid, pipe2},
};

use crate::{
    failure::{Failure, Step},
    groups,
    inside::Inside,
    report::{Failed, Reporter, Reports, Stage},
    storage,
    sys::{self, Filter},
    verify,
};

const PREPARING: &str = "preparing the container";
/// Writable by all, readable by its owner.
const OUTPUT_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IWGRP).union(Mode::S_IWOTH);

/// A container that has been created.
pub(crate) struct Container {
    pub(crate) index: u16,
    /// None after its exit.
    pub(crate) pid: Option<Pid>,
    /// Read ends of its outputs, until they are taken.
    pub(crate) outputs: Option<[OwnedFd; 2]>,
    prepared: Prepared,
    reports: Reports,
    /// A byte written here starts the program.
    go: File,
    filtered: bool,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("index", &self.index).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Container {
    /// Creates the container's environment, and its first process, which waits for [`Container::start`].
    pub(crate) fn create(
        index: u16,
        order: &Order,
        container: &Ordered,
        files: &[(&str, String)],
        filters: &[Filter],
    ) -> Result<Self, Failure> {
        let rootfs = storage::mount_root(index, container.image).step("mounting the image")?;
        let wanted = Wanted {
            argv: &container.argv,
            env: &container.env,
            cwd: &container.cwd,
            user: &container.user,
            volumes: &container.volumes,
            hostname: &order.hostname,
            probe: false,
        };
        let prepared = Prepared::make(wanted, rootfs, 0)?;
        let names = storage::write_names(index, files).step("preparing what the container sees of itself")?;
        let group = groups::create_container(index, &order.bounds).step("setting a container's limits")?;
        let (stdout, stdout_end) = output(prepared.who.uid).step(PREPARING)?;
        let (stderr, stderr_end) = output(prepared.who.uid).step(PREPARING)?;
        let (reports, reporter) = pipe2(OFlag::O_CLOEXEC).step(PREPARING)?;
        let (waits, go) = pipe2(OFlag::O_CLOEXEC).step(PREPARING)?;
        let namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        let Some(pid) = sys::clone_into(group.as_fd(), namespaces).step("creating the container")? else {
            drop((reports, go));
            let outputs = [stdout_end, stderr_end];
            Inside { order, prepared: &prepared, argv: &container.argv, names: &names, filters }.run(
                Reporter(reporter.into()),
                waits.into(),
                &outputs,
            );
        };
        drop((reporter, waits, stdout_end, stderr_end)); // their ends must be those of the process
        let mut created = Self {
            index,
            pid: Some(pid),
            outputs: Some([stdout, stderr]),
            prepared,
            reports: Reports(reports.into()),
            go: go.into(),
            filtered: !filters.is_empty(),
        };
        created.reports.ready().map_err(|failed| created.explain(failed))?;
        Ok(created)
    }

    /// Lets the process continue to the image's program, and verifies that it is confined as required.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        self.started().map_err(|failure| failure.of(self.index))
    }

    fn started(&mut self) -> Result<(), Failure> {
        self.go.write_all(b"+").step("starting the container")?;
        self.reports.executed().map_err(|failed| self.explain(failed))?;
        let Some(pid) = self.pid else { return Ok(()) };
        verify::check(pid, self.prepared.who.uid, self.filtered).step("checking that the container is confined")
    }

    fn explain(&self, failed: Failed) -> Failure {
        match failed.stage {
            Stage::Enter => self.prepared.explain_cwd(failed.error).into(),
            Stage::Execute => self.prepared.explain_program(failed.error).into(),
            Stage::Prepare | Stage::Confine => Failure::new(&failed.step, &failed.error),
        }
    }
}

/// A pipe for an output; its write end belongs to the container's user, who may then reopen `/dev/stdout`. So may other users of the
/// container: servers that start as root often open their logs as another user.
fn output(owner: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fchown(&write, Some(owner), Some(owner))?;
    fchmod(&write, OUTPUT_MODE)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}
