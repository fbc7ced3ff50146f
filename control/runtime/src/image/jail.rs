//! Where `mkfs.erofs` reads a stranger's files: a process that reaches nothing but them and the file it writes.
//!
//! A thread of this program gets namespaces of its own, builds a root file system in them, starts the program as a child, and ends with it:
//! namespaces, mounts and open files go with the two. The rest of this program notices nothing, because the kernel keeps namespaces, root
//! and working directory per thread.
//!
//! ```text
//! /             tmpfs, read-only
//! /usr          the host's, read-only (the program's libraries)
//! /mkfs.erofs   the program
//! /tree         overlay of the layers, read-only, nosuid, nodev, noexec
//! /out          the file to write
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `root` | the namespaces and the root file system |
//! | `confine` | the child between fork and exec: user, capabilities, limits |
//! | `calls` | the system calls it may make |

mod calls;
mod confine;
mod root;

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    process::{Pid, PidfdFlags, getpid, pidfd_open},
};

use confine::Bounds;
pub(super) use confine::UID;

/// The erofs's own identifier: always the same, so that the same layers give the same bytes.
const UUID: &str = "c0d105ed-0000-4000-8000-000000000001";
/// Length of the program's complaints that is kept, in bytes.
const TOLD_BYTES_MAX: usize = 2048;

/// What the jailed program is to do.
pub(super) struct Errand<'a> {
    /// An empty directory, on which the new root is mounted; visible to the jail alone.
    pub(super) mount_point: &'a Path,
    /// Directories of layers, lowest first.
    pub(super) layers: &'a [PathBuf],
    /// `mkfs.erofs`.
    pub(super) program: &'a Path,
    /// The file to write, which belongs to [`UID`].
    pub(super) output: &'a Path,
    /// Maximum size of that file.
    pub(super) bytes_max: u64,
    /// The program is killed then.
    pub(super) deadline: Instant,
}

/// Runs the program to its end; fails if it does. Blocks.
pub(super) fn run(errand: &Errand<'_>) -> io::Result<()> {
    thread::scope(|scope| {
        let jail = thread::Builder::new().name("erofs-jail".to_owned()).spawn_scoped(scope, || inside(errand))?;
        jail.join().unwrap_or_else(|_| Err(io::Error::other("the jail's thread panicked")))
    })
}

/// The life of the jail's thread, which can't return to what the rest of the program sees.
fn inside(errand: &Errand<'_>) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let processes = rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let daemon = pidfd_open(getpid(), PidfdFlags::empty())?;
    let filter = calls::filter().map_err(io::Error::other)?;
    root::enter(errand)?;
    let mut command = Command::new(root::PROGRAM);
    command.args(["-T0", "-d0", "-U", UUID, root::OUTPUT, root::TREE]).env_clear();
    command.stdin(null.try_clone()?).stdout(null).stderr(Stdio::piped());
    let bounds = Bounds { bytes_max: errand.bytes_max, seconds_max: left(errand.deadline).as_secs() + 1 };
    // SAFETY: between fork and exec, `confine` makes system calls only: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || confine::confine(&bounds, &filter, daemon.as_fd())) };
    let child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("starting mkfs.erofs: {error}")))?;
    let mut child = Running(child);
    sacrifice(&processes, child.0.id());
    let (status, told) = child.until(errand.deadline)?;
    if status.success() { Ok(()) } else { Err(failure(status, &told)) }
}

/// Has the kernel kill the program first when memory is short: it is of use to one start only.
fn sacrifice(processes: &OwnedFd, pid: u32) {
    let path = format!("{pid}/oom_score_adj");
    let opened = rustix::fs::openat(processes, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    // Without it, the kernel chooses by size, which is right most of the time.
    opened.and_then(|score| rustix::io::write(score, b"1000")).ok();
}

/// What the program's end says.
fn failure(status: ExitStatus, told: &[u8]) -> io::Error {
    let told = String::from_utf8_lossy(told);
    // The C locale's word for ENOSPC; there is no other way to tell.
    let kind = if told.contains("No space left on device") { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
    io::Error::new(kind, format!("mkfs.erofs: {status}: {}", told.trim()))
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// The program, which doesn't outlive this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has been waited for, which is as well.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Running {
    /// Waits for the program's end, and returns the beginning of its complaints.
    fn until(&mut self, deadline: Instant) -> io::Result<(ExitStatus, Vec<u8>)> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        let mut complaints = self.0.stderr.take();
        let mut told = Vec::new();
        // All processes of the jail end with the program, the first of its namespace: the pipe ends by then, too.
        while let Some(pipe) = &mut complaints {
            wait(pipe, deadline, "what mkfs.erofs says")?;
            let mut buffer = [0; 512];
            let count = pipe.read(&mut buffer)?;
            let room = TOLD_BYTES_MAX.saturating_sub(told.len());
            told.extend_from_slice(buffer.get(..count.min(room)).unwrap_or_default());
            if count == 0 {
                complaints = None;
            }
        }
        wait(&ended, deadline, "the end of mkfs.erofs")?;
        Ok((self.0.wait()?, told))
    }
}

/// Waits until there is something to read.
fn wait(source: &impl AsFd, deadline: Instant, what: &str) -> io::Result<()> {
    loop {
        let mut polled = [PollFd::new(source, PollFlags::IN)];
        let time = Timespec::try_from(left(deadline)).map_err(io::Error::other)?;
        match poll(&mut polled, Some(&time)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("waiting for {what}: it took too long"))),
            Err(rustix::io::Errno::INTR) => {}
            done => return done.map(drop).map_err(io::Error::from),
        }
    }
}
