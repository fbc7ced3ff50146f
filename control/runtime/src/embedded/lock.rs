//! Who supervises a pod: the process that holds the lock on the pod's `lock` file.
//!
//! Uses POSIX record locks, because the kernel reports the holder, forked children don't inherit them, and they end with the holder in
//! every case.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::shim_protocol::LOCK_FILE;

/// Takes the lock of the pod in `dir`; it is held until the file is closed.
pub(crate) fn hold(dir: &Path) -> io::Result<File> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK_FILE))?;
    fcntl(file.as_raw_fd(), FcntlArg::F_SETLK(&whole_file()))?;
    Ok(file)
}

/// A live shim, identified safely even if its process id is reused.
#[derive(Debug)]
pub(crate) struct Shim {
    pidfd: OwnedFd,
}

/// The shim of the pod in `dir`, if it is alive.
pub(crate) fn shim_of(dir: &Path) -> io::Result<Option<Shim>> {
    let Some(pid) = holder(dir)? else { return Ok(None) };
    // SAFETY: plain numbers; the kernel checks them.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
    // The lock has the same holder, so the opened process is the holder seen before.
    Ok((holder(dir)? == Some(pid)).then_some(Shim { pidfd }))
}

/// Whether the pod in `dir` has a live shim.
pub(crate) fn is_held(dir: &Path) -> io::Result<bool> {
    Ok(holder(dir)?.is_some())
}

impl Shim {
    /// Sends a signal; succeeds if the shim has exited.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: plain numbers and no siginfo; the kernel checks them.
        let sent =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
        if sent < 0 && Errno::last() != Errno::ESRCH { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for the shim's exit; returns whether it exited in time.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], left) {
                Err(Errno::EINTR) => {}
                done => return Ok(done? > 0),
            }
        }
    }
}

/// Process id of the holder, if any.
fn holder(dir: &Path) -> io::Result<Option<i32>> {
    let file = match fs::OpenOptions::new().write(true).open(dir.join(LOCK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut lock = whole_file();
    fcntl(file.as_raw_fd(), FcntlArg::F_GETLK(&mut lock))?;
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid))
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
