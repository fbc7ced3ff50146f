//! One container: from an order to a process that waits for its start, and the last steps inside that process.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{
            ffi::OsStrExt,
            fs::{OpenOptionsExt, fchown},
        },
    },
    path::{Path, PathBuf},
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    oci_spec::runtime::Spec,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorValidationError},
};
use nix::{
    fcntl::OFlag,
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, fchmod},
    },
    unistd::{Pid, pipe2},
};
use seccompiler::BpfProgram;

use super::{BENCH, Failure, Step, confined, mounts, spec, sys};
use crate::embedded::record::{ContainerOrder, Order};

/// Most that a failed exec says, in bytes.
const EXEC_ERROR_BYTES_MAX: u64 = 1024;

/// All write, its owner alone reads.
const OUTPUT_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IWGRP).union(Mode::S_IWOTH);

/// A container that has been created.
pub(super) struct Created {
    pub(super) name: String,
    pub(super) pid: Pid,
    /// Its user in the pod.
    uid: u32,
    /// Read ends of its outputs.
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    handle: Container,
    /// Closed by a successful exec; has text after a failed one.
    exec_error: File,
}

/// Creates the container: all of its surroundings, and its first process waiting for [`Created::start`].
pub(super) fn create(order: &Order, container: &ContainerOrder, rootfs: &Path, mut executor: Exec) -> Result<Created, Failure> {
    let bundle = Path::new(BENCH).join("bundle").join(&container.name);
    let state = Path::new(BENCH).join("state");
    mounts::dir(&bundle).step("preparing the container")?;
    mounts::dir(&state).step("preparing the container")?;
    let config = write_config(order, container, rootfs, &bundle).step("preparing the container")?;

    let owner = order.uid_base + container.uid;
    let (stdout, stdout_end) = output(owner).step("preparing the container")?;
    let (stderr, stderr_end) = output(owner).step("preparing the container")?;
    let (exec_error, exec_error_end) = pipe2(OFlag::O_CLOEXEC).step("preparing the container")?;
    executor.report = exec_error_end.as_raw_fd();
    let handle = ContainerBuilder::new(container.name.clone(), SyscallType::default())
        .with_root_path(&state)
        .step("creating the container")?
        .with_executor(executor)
        .with_stdin(File::open("/dev/null").step("preparing the container")?)
        .with_stdout(stdout_end)
        .with_stderr(stderr_end)
        .as_init(&bundle)
        .with_systemd(false)
        .build()
        .step("creating the container");
    // libcontainer lowers the caller's own standing to the container's, and leaves it there.
    super::protect_from_oom();
    fs::remove_file(config).step("removing the container's configuration")?; // it holds private values
    let handle = handle?;
    let pid = handle.pid().ok_or_else(|| io::Error::other("it has no process")).step("creating the container")?;
    let pid = Pid::from_raw(pid.as_raw());
    Ok(Created { name: container.name.clone(), pid, uid: container.uid, stdout, stderr, handle, exec_error: exec_error.into() })
}

impl Created {
    /// Lets the process go on to the image's program, and makes sure that it got there as locked up as it should be.
    pub(super) fn start(&mut self, order: &Order) -> Result<(), Failure> {
        self.handle.start().step("starting the container")?;
        let mut error = String::new();
        (&mut self.exec_error).take(EXEC_ERROR_BYTES_MAX).read_to_string(&mut error).step("starting the container")?;
        if !error.is_empty() {
            return Err(Failure::uploader(format!("container {}: {error}", self.name)));
        }
        confined::check(self.pid, self.uid, order).step("checking that the container is confined")
    }
}

fn write_config(order: &Order, container: &ContainerOrder, rootfs: &Path, bundle: &Path) -> io::Result<PathBuf> {
    let path = bundle.join("config.json");
    let config = spec::config(order, container, &rootfs.to_string_lossy());
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    serde_json::to_writer(file, &config)?;
    Ok(path)
}

/// A pipe for an output; its write end belongs to the container's user, who may then open `/dev/stdout` again. So may other
/// users of the container: servers that begin as root often open their logs as somebody else.
fn output(owner: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fchown(&write, Some(owner), Some(owner))?;
    fchmod(write.as_raw_fd(), OUTPUT_MODE)?;
    nix::fcntl::fcntl(read.as_raw_fd(), nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// What the container's first process does last.
#[derive(Clone)]
pub(super) struct Exec {
    /// None: it waits, as it is, for its end.
    program: Option<CString>,
    filters: Vec<BpfProgram>,
    /// Where a failure is reported: a descriptor inherited by number.
    report: RawFd,
}

impl Executor for Exec {
    /// Called before the wait for the start; from here on credentials don't change, which would undo the first step.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        let error = |error: io::Error| ExecutorValidationError::ArgValidationError(error.to_string());
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| error(errno.into()))?; // without its shim nobody would reap or log it
        sys::default_signals().map_err(error)
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Err(error) = self.become_program(spec);
        let text = error.to_string();
        sys::write_inherited(self.report, text.as_bytes());
        Err(ExecutorError::Other(text))
    }
}

impl Exec {
    /// Will execute `program` under `filters`.
    pub(super) fn new(program: Option<&Path>, filters: &[BpfProgram]) -> Result<Self, Failure> {
        let program = program.map(|program| CString::new(program.as_os_str().as_bytes())).transpose().step("reading the command")?;
        Ok(Self { program, filters: filters.to_vec(), report: -1 })
    }

    fn become_program(&self, spec: &Spec) -> io::Result<std::convert::Infallible> {
        let args = spec.process().as_ref().and_then(|process| process.args().as_ref());
        let argv =
            args.into_iter().flatten().map(|arg| CString::new(arg.as_bytes()).map_err(io::Error::from)).collect::<io::Result<Vec<_>>>()?;
        for filter in &self.filters {
            seccompiler::apply_filter(filter).map_err(io::Error::other)?;
        }
        let Some(program) = &self.program else { sys::wait_closing(self.report) };
        // Not execvp: it would look the program up again, and hand what isn't one to a shell.
        let Err(errno) = nix::unistd::execv(program, &argv);
        Err(io::Error::other(format!("{} can't be executed: {}", program.to_string_lossy(), io::Error::from(errno))))
    }
}
