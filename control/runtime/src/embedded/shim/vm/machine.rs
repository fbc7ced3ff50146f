//! A running virtual machine: QEMU's process and its ports.

use std::{
    io,
    time::{Duration, Instant},
};

use codiusd_guest_protocol::FromGuest;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};

use super::{
    super::{Failure, Step},
    control::Control,
    errors::Errors,
};

/// How long QEMU may take to end after the guest's last message.
const END_WITHIN: Duration = Duration::from_secs(2);

/// A virtual machine.
pub(super) struct Machine {
    pid: Pid,
    pub(super) control: Control,
    pub(super) errors: Errors,
    /// How QEMU ended.
    ended: Option<WaitStatus>,
    /// When QEMU must have ended after the guest's last message.
    overdue: Option<Instant>,
}

impl Machine {
    pub(super) fn new(pid: Pid, control: Control, errors: Errors) -> Self {
        Self { pid, control, errors, ended: None, overdue: None }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether QEMU has ended; reaps it.
    pub(super) fn has_ended(&mut self) -> io::Result<bool> {
        while self.ended.is_none() {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return Ok(false),
                Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => self.ended = Some(status),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        if self.ended.is_some() { Ok(()) } else { kill(self.pid, Signal::SIGKILL).map_err(io::Error::from) }
    }

    /// Kills QEMU, and waits for its end.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.kill()?;
        while !self.has_ended()? {
            match waitid(Id::Pid(self.pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// The guest has sent its last message.
    pub(super) fn done(&mut self) {
        self.overdue = Some(Instant::now() + END_WITHIN);
    }

    pub(super) fn is_done(&self) -> bool {
        self.overdue.is_some()
    }

    /// When QEMU should have ended, after the guest's last message.
    pub(super) fn overdue(&self) -> Option<Instant> {
        self.overdue
    }

    /// Waits for the guest's next message during the start.
    pub(super) fn message(&mut self, deadline: Instant, step: &str) -> Result<FromGuest, Failure> {
        loop {
            if let Some(message) = self.control.receive().step(step)? {
                return Ok(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.control.is_open() {
                return Err(self.silent(step));
            }
            self.wait(left).step(step)?;
        }
    }

    /// Waits for an event of the control port, or for a message of QEMU.
    fn wait(&mut self, left: Duration) -> io::Result<()> {
        let (control, interest) = self.control.interest();
        let mut polled = vec![PollFd::new(control, interest)];
        polled.extend(self.errors.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => return Ok(()),
            done => done?,
        };
        if polled.get(1).is_some_and(|fd| fd.any().unwrap_or(true)) {
            self.errors.read();
        }
        self.control.flush()
    }

    /// The failure of a guest that sends no message: it is too slow, or QEMU has ended.
    fn silent(&mut self, step: &str) -> Failure {
        let said = self.errors.tail();
        let what = match self.has_ended() {
            Ok(true) => format!("QEMU ended ({:?})", self.ended),
            _ if self.control.is_open() => "no message from the virtual machine in time".to_owned(),
            _ => "the virtual machine closed its control port".to_owned(),
        };
        let cause = if said.is_empty() { what } else { format!("{what}: {said}") };
        Failure { cause: Some(cause.into()), ..Failure::host(step) }
    }
}
