//! One container, seen from within: the steps of its first process before its program replaces it.

use std::{
    convert::Infallible,
    env,
    ffi::CString,
    fs::{self, File},
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    panic,
    path::Path,
};

use codiusd_container_rootfs::Prepared;
use codiusd_guest_protocol::Order;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout, execve, setsid},
};

use crate::{
    confine, mounts,
    report::{At, Failed, Reporter, Stage},
    sys::{self, Filter},
};

const CREATING: &str = "creating the container";
const STARTING: &str = "starting the container's program";

/// What the process becomes.
#[derive(Clone, Copy)]
pub(crate) struct Inside<'a> {
    pub(crate) order: &'a Order,
    pub(crate) prepared: &'a Prepared,
    pub(crate) argv: &'a [String],
    /// The directory with its files for `/etc`.
    pub(crate) names: &'a Path,
    pub(crate) filters: &'a [Filter],
}

impl Inside<'_> {
    /// Becomes the program, or reports why not.
    pub(crate) fn run(self, mut reporter: Reporter, go: File, outputs: &[OwnedFd; 2]) -> ! {
        panic::set_hook(Box::new(|_| sys::exit_child(1))); // the parent's would switch the machine off
        let Err(failed) = self.become_program(&mut reporter, go, outputs);
        reporter.failed(&failed);
        sys::exit_child(1)
    }

    fn become_program(&self, reporter: &mut Reporter, mut go: File, outputs: &[OwnedFd; 2]) -> Result<Infallible, Failed> {
        let argv = strings(self.argv).at(Stage::Execute, STARTING)?;
        let program = self.prepared.program.as_deref().unwrap_or_else(|| Path::new("/")).as_os_str().as_bytes();
        let program = CString::new(program).map_err(io::Error::other).preparing(CREATING)?;
        self.enter(outputs)?;
        reporter.ready().preparing(CREATING)?;
        if go.read(&mut [0]).preparing(CREATING)? == 0 {
            sys::exit_child(1); // nobody waits for this container any more
        }
        if let Some(cwd) = self.prepared.late_cwd() {
            fs::create_dir_all(cwd).and_then(|()| env::set_current_dir(cwd)).at(Stage::Enter, STARTING)?;
        }
        for filter in self.filters {
            filter.apply().at(Stage::Confine, STARTING)?;
        }
        // Not execvp: it would search PATH again, and run a file that isn't a program with a shell.
        let Err(errno) = execve(&program, &argv, &self.prepared.env);
        Err(errno).at(Stage::Execute, STARTING)
    }

    /// Everything up to the wait for the start.
    fn enter(&self, outputs: &[OwnedFd; 2]) -> Result<(), Failed> {
        setsid().preparing(CREATING)?;
        standard_streams(outputs).preparing("setting the container's outputs")?;
        // Only in its group: what is the root of the view depends on it.
        unshare(CloneFlags::CLONE_NEWCGROUP).preparing("making the container's namespaces")?;
        fs::write("/proc/self/oom_score_adj", "0").preparing("setting the OOM score")?; // not the machine's first process's
        mounts::enter(self.order, self.prepared, self.names)?;
        confine::limit(&self.order.bounds).preparing("setting the container's limits")?;
        let cwd = if self.prepared.late_cwd().is_some() { Path::new("/") } else { &*self.prepared.cwd };
        env::set_current_dir(cwd).preparing("entering the working directory")?;
        confine::become_user(&self.prepared.who).preparing("becoming the container's user")?;
        sys::default_signals().preparing(CREATING)
    }
}

/// Nothing to read, and the outputs.
fn standard_streams([stdout, stderr]: &[OwnedFd; 2]) -> io::Result<()> {
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(stdout)?;
    Ok(dup2_stderr(stderr)?)
}

fn strings(texts: &[String]) -> io::Result<Vec<CString>> {
    texts.iter().map(|text| CString::new(text.as_bytes()).map_err(|_| nix::errno::Errno::EINVAL.into())).collect()
}
