//! One container: from an order to a process that waits for its start, and the last steps inside that process.

use std::{
    collections::HashMap,
    convert::Infallible,
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

use codiusd_container_rootfs::{Prepared, Wanted};
use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    oci_spec::runtime::Spec,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, fchmod},
    },
    unistd::{Pid, pipe2},
};
use seccompiler::BpfProgram;

use super::{BENCH, Failure, Step, mounts, spec, sys, verify};
use crate::embedded::shim_protocol::{ContainerRequest, ShimRequest};

/// Maximum size of a failed exec's report, in bytes.
const REPORT_BYTES_MAX: u64 = 64;

/// Writable by all, readable by its owner.
const OUTPUT_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IWGRP).union(Mode::S_IWOTH);

/// A container that has been created.
pub(super) struct Created {
    pub(super) name: String,
    pub(super) pid: Pid,
    /// The program, and the user it runs as.
    prepared: Prepared,
    /// Read ends of its outputs.
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    handle: Container,
    /// Closed by a successful exec; otherwise carries the step that failed and its error.
    exec_error: File,
}

/// Looks up in the container's root file system what is to run in it.
pub(super) fn prepare(order: &ShimRequest, container: &ContainerRequest, rootfs: PathBuf) -> Result<Prepared, Failure> {
    let wanted = Wanted {
        argv: &container.argv,
        env: &container.env,
        cwd: &container.cwd,
        user: &container.user,
        volumes: &container.volumes,
        hostname: order.pod.id.as_str(),
        probe: order.probe,
    };
    Ok(Prepared::make(wanted, rootfs, order.uid_base)?)
}

/// Creates the container: its environment, and its first process waiting for [`Created::start`].
pub(super) fn create(
    order: &ShimRequest,
    container: &ContainerRequest,
    prepared: Prepared,
    filters: &[BpfProgram],
) -> Result<Created, Failure> {
    let bundle = Path::new(BENCH).join("bundle").join(&container.name);
    let state = Path::new(BENCH).join("state");
    mounts::dir(&bundle).step("preparing the container")?;
    mounts::dir(&state).step("preparing the container")?;
    let config = write_config(order, container, &prepared, &bundle).step("preparing the container")?;

    let owner = order.uid_base + prepared.who.uid;
    let (stdout, stdout_end) = output(owner).step("preparing the container")?;
    let (stderr, stderr_end) = output(owner).step("preparing the container")?;
    let (exec_error, exec_error_end) = pipe2(OFlag::O_CLOEXEC).step("preparing the container")?;
    let executor = Exec::new(&prepared, filters, exec_error_end.as_raw_fd()).step("reading the command")?;
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
    // libcontainer lowers the caller's own OOM score to the container's, and doesn't restore it.
    super::protect_from_oom();
    fs::remove_file(config).step("removing the container's configuration")?; // its arguments may be private
    let handle = handle?;
    let pid = handle.pid().ok_or_else(|| io::Error::other("it has no process")).step("creating the container")?;
    let pid = Pid::from_raw(pid.as_raw());
    Ok(Created { name: container.name.clone(), pid, prepared, stdout, stderr, handle, exec_error: exec_error.into() })
}

impl Created {
    /// Lets the process continue to the image's program, and verifies that it is confined as required.
    pub(super) fn start(&mut self, order: &ShimRequest) -> Result<(), Failure> {
        self.handle.start().step("starting the container")?;
        let mut report = Vec::new();
        (&mut self.exec_error).take(REPORT_BYTES_MAX).read_to_end(&mut report).step("starting the container")?;
        if let Some(failed) = Failed::read(&report) {
            return Err(self.explain(failed).of(&self.name));
        }
        verify::check(self.pid, self.prepared.who.uid, order).step("checking that the container is confined")
    }

    fn explain(&self, failed: Failed) -> Failure {
        let error = io::Error::from(failed.errno);
        match failed.stage {
            Stage::Enter => self.prepared.explain_cwd(error).into(),
            Stage::Execute => self.prepared.explain_program(error).into(),
            Stage::Confine => Failure::from_io("starting the container's program", error),
        }
    }
}

fn write_config(order: &ShimRequest, container: &ContainerRequest, prepared: &Prepared, bundle: &Path) -> io::Result<PathBuf> {
    let path = bundle.join("config.json");
    let config = spec::config(order, container, prepared);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    serde_json::to_writer(file, &config)?;
    Ok(path)
}

/// A pipe for an output; its write end belongs to the container's user, who may then reopen `/dev/stdout`. So may other users of the
/// container: servers that start as root often open their logs as another user.
fn output(owner: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fchown(&write, Some(owner), Some(owner))?;
    fchmod(write.as_raw_fd(), OUTPUT_MODE)?;
    nix::fcntl::fcntl(read.as_raw_fd(), nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// The step a container's first process has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Entering the working directory.
    Enter,
    /// Applying the system call filters.
    Confine,
    /// Executing the program.
    Execute,
}

/// Why the process stopped there: five bytes, because it must barely allocate at this point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failed {
    stage: Stage,
    errno: Errno,
}

impl Failed {
    fn at(stage: Stage) -> impl FnOnce(Errno) -> Self {
        move |errno| Self { stage, errno }
    }

    fn written(self) -> [u8; 5] {
        let stage = match self.stage {
            Stage::Enter => b'c',
            Stage::Confine => b'f',
            Stage::Execute => b'x',
        };
        let [a, b, c, d] = (self.errno as i32).to_le_bytes();
        [stage, a, b, c, d]
    }

    fn read(report: &[u8]) -> Option<Self> {
        let [stage, errno @ ..] = report else { return None };
        let stage = match stage {
            b'c' => Stage::Enter,
            b'x' => Stage::Execute,
            _ => Stage::Confine,
        };
        Some(Self { stage, errno: Errno::from_raw(i32::from_le_bytes(errno.try_into().unwrap_or_default())) })
    }
}

/// The last steps of the container's first process.
#[derive(Clone)]
struct Exec {
    /// None: the process waits unchanged until it is killed.
    program: Option<CString>,
    /// Created and entered by the container's user itself.
    cwd: Option<PathBuf>,
    env: Vec<CString>,
    filters: Vec<BpfProgram>,
    /// Where a failure is reported: a file descriptor inherited by number.
    report: RawFd,
}

impl Executor for Exec {
    /// Called before the wait for the start; credentials, a change of which would undo the first step, don't change after this.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        let error = |error: io::Error| ExecutorValidationError::ArgValidationError(error.to_string());
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| error(errno.into()))?; // only the shim reaps and logs it
        sys::default_signals().map_err(error)
    }

    /// The program gets its variables from `execve`; this process doesn't need them.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Err(failed) = self.become_program(spec);
        sys::write_inherited(self.report, &failed.written());
        Err(ExecutorError::Other(failed.errno.desc().to_owned()))
    }
}

impl Exec {
    fn new(prepared: &Prepared, filters: &[BpfProgram], report: RawFd) -> io::Result<Self> {
        let program = prepared.program.as_ref().map(|program| CString::new(program.as_os_str().as_bytes())).transpose()?;
        let cwd = prepared.late_cwd().map(Path::to_owned);
        Ok(Self { program, cwd, env: prepared.env.clone(), filters: filters.to_vec(), report })
    }

    fn become_program(&self, spec: &Spec) -> Result<Infallible, Failed> {
        if let Some(cwd) = &self.cwd {
            let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            fs::create_dir_all(cwd).and_then(|()| std::env::set_current_dir(cwd)).map_err(errno).map_err(Failed::at(Stage::Enter))?;
        }
        let args = spec.process().as_ref().and_then(|process| process.args().as_ref());
        let argv = args.into_iter().flatten().map(|arg| CString::new(arg.as_bytes())).collect::<Result<Vec<_>, _>>();
        let argv = argv.map_err(|_| Errno::EINVAL).map_err(Failed::at(Stage::Execute))?;
        for filter in &self.filters {
            seccompiler::apply_filter(filter).map_err(|_| Errno::last()).map_err(Failed::at(Stage::Confine))?;
        }
        let Some(program) = &self.program else { sys::wait_closing(self.report) };
        // Not execvp: it would search PATH again, and run a file that isn't a program with a shell.
        let Err(errno) = nix::unistd::execve(program, &argv, &self.env);
        Err(Failed { stage: Stage::Execute, errno })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        for stage in [Stage::Enter, Stage::Confine, Stage::Execute] {
            let failed = Failed { stage, errno: Errno::ENOEXEC };
            assert_eq!(Failed::read(&failed.written()), Some(failed));
        }
        assert_eq!(Failed::read(b""), None, "a successful exec says nothing");
    }
}
