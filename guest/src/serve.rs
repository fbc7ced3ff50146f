//! The main loop: messages, exits, output.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use codiusd_guest_protocol::{Exit, FromGuest, ToGuest};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    control::Control,
    failure::{Failure, Step},
    groups,
    output::Outputs,
    pod::Pod,
    settings, wait,
};

/// How far the pod has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The containers wait for their start.
    Created,
    Started,
    /// The host has ordered the end, or has gone away.
    Stopping,
}

struct Loop<'a> {
    control: &'a mut Control,
    outputs: Outputs,
    pod: Pod,
    progress: Progress,
    /// When every container that is left is killed.
    kill_at: Option<Instant>,
    host_is_there: bool,
}

/// What happened while the loop waited.
#[derive(Clone, Copy, Debug, Default)]
struct Events {
    control: bool,
    output: bool,
    output_lost: bool,
}

/// Returns when all containers have exited and the host has everything they wrote, or when the host has gone away.
pub(crate) fn until_done(control: &mut Control, outputs: Outputs, pod: Pod) -> Result<(), Failure> {
    let mut all = Loop { control, outputs, pod, progress: Progress::Created, kill_at: None, host_is_there: true };
    for container in &mut all.pod.containers {
        if let Some(outputs) = container.outputs.take() {
            all.outputs.add(container.index, outputs);
        }
    }
    all.obey()?; // what arrived together with the order
    while all.host_is_there && !all.is_done() {
        let done = all.turn();
        done.map_err(|failure| if all.progress == Progress::Created { failure } else { failure.late() })?;
    }
    if all.host_is_there {
        all.control.send(&FromGuest::Done).and_then(|()| all.control.flush()).step("telling the end").map_err(Failure::late)?;
    }
    Ok(())
}

impl Loop<'_> {
    fn is_done(&self) -> bool {
        let exited = self.pod.containers.iter().all(|container| container.pid.is_none());
        self.progress != Progress::Created && exited && self.outputs.are_done()
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            self.signal(Signal::SIGKILL); // ends all of their namespaces
        }
        let events = self.wait(now).step("waiting for events")?;
        while self.pod.exits.read_signal().step("reading signals")?.is_some() {}
        self.reap().step("reaping")?;
        if events.control {
            self.control.write().step("writing to the control port")?;
            self.listen()?;
        }
        if events.output_lost {
            self.host_is_there = false;
        } else if events.output {
            self.outputs.forward().step("forwarding output")?;
        }
        Ok(())
    }

    /// Waits for messages, exits, output, or the deadline.
    fn wait(&self, now: Instant) -> io::Result<Events> {
        let port = self.outputs.waits_for();
        let mut polled =
            vec![PollFd::new(self.control.as_fd(), self.control.events()), PollFd::new(self.pod.exits.as_fd(), PollFlags::POLLIN)];
        polled.extend(port.map(|port| PollFd::new(port, PollFlags::POLLOUT)));
        polled.extend(self.outputs.readable().map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)));
        match poll(&mut polled, wait::timeout(self.kill_at.map(|at| at.saturating_duration_since(now)))) {
            Err(Errno::EINTR) => return Ok(Events::default()),
            done => done?,
        };
        let happened = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let lost = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR));
        Ok(Events {
            control: happened(&polled[0]),
            output: polled[2..].iter().any(happened),
            output_lost: port.is_some() && lost(&polled[2]),
        })
    }

    fn listen(&mut self) -> Result<(), Failure> {
        if !self.control.read().step("reading the control port")? {
            self.host_is_there = false;
            return Ok(());
        }
        self.obey()
    }

    /// Does what has been received.
    fn obey(&mut self) -> Result<(), Failure> {
        while let Some(message) = self.control.message().step("reading a message")? {
            match message {
                ToGuest::Go => self.go()?,
                ToGuest::Stop { grace_ms } => self.stop(grace_ms),
                ToGuest::Ping => self.tell(&FromGuest::Pong)?,
                ToGuest::Clock { unix_ns } => settings::set_clock(unix_ns).step("setting the clock")?,
                ToGuest::Order(_) => return Err(Failure::new("reading a message", &"a second order")),
            }
        }
        Ok(())
    }

    fn go(&mut self) -> Result<(), Failure> {
        match self.progress {
            Progress::Created => {
                self.pod.start()?;
                self.progress = Progress::Started;
                // Without containers it was a check, and the end follows.
                if self.pod.containers.is_empty() { Ok(()) } else { self.tell(&FromGuest::Started) }
            }
            Progress::Started => Err(Failure::new("reading a message", &"a second start")),
            Progress::Stopping => Ok(()), // sent before the host had decided otherwise
        }
    }

    fn stop(&mut self, grace_ms: u64) {
        let grace = if self.progress == Progress::Created { 0 } else { grace_ms }; // no program runs that would need it
        self.progress = Progress::Stopping;
        self.signal(Signal::SIGTERM);
        let at = Instant::now().checked_add(Duration::from_millis(grace));
        self.kill_at = self.kill_at.or(at);
    }

    /// Sends a signal to every container's first process.
    fn signal(&self, signal: Signal) {
        for pid in self.pod.containers.iter().filter_map(|container| container.pid) {
            kill(pid, signal).ok(); // not reaped yet, so the process id is still valid
        }
    }

    fn tell(&mut self, message: &FromGuest) -> Result<(), Failure> {
        self.control.send(message).step("writing to the control port")
    }

    /// Reaps every exited child, and tells of those that were containers.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            let (pid, exit) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code.to_le_bytes()[0])),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal((signal as i32).to_le_bytes()[0])),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if let Some(container) = self.pod.containers.iter_mut().find(|container| container.pid == Some(pid)) {
                container.pid = None;
                let (container, out_of_memory) = (container.index, groups::was_out_of_memory(container.index)?);
                self.control.send(&FromGuest::Exited { container, exit, out_of_memory })?;
            }
        }
    }
}
