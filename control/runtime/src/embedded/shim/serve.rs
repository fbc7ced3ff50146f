//! The shim's main loop: logs, exits, SIGTERM.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{self, Pid},
};

use super::{allowance::Allowance, container::Created, now_ms};
use crate::{
    LogStream,
    embedded::{
        cgroup, disk,
        logs::{self, Splitter, Writer},
        shim_protocol::{LOGS_DIR, ShimRequest},
    },
};

/// Bytes per read of a pipe.
const READ_BYTES: usize = 16 * 1024;
/// Upper bound of the reads that empty a pipe after its container's exit, from the pipe's capacity.
const LAST_READS_MAX: usize = 64;

/// One container while it runs.
pub(super) struct Supervised {
    pid: Pid,
    running: bool,
    writer: Writer,
    outputs: [Output; 2],
}

/// One output of a container.
struct Output {
    pipe: Option<OwnedFd>,
    splitter: Splitter,
}

/// Opens the logs of started containers.
pub(super) fn supervise(dir: &Path, order: &ShimRequest, containers: Vec<Created>) -> io::Result<Vec<Supervised>> {
    containers.into_iter().map(|created| supervised(dir, order, created)).collect()
}

/// Returns when no container runs any more, after their own exit or SIGTERM.
pub(super) fn until_all_exited(order: &ShimRequest, mut pod: Vec<Supervised>, disk: Option<File>) -> io::Result<()> {
    let signals = signals()?;
    let grace = Duration::from_millis(order.bounds.stop_grace_ms);
    if let Some(device) = disk {
        disk::bypass_cache(&device).ok(); // on failure, written data is cached twice
    }
    let mut allowance = Allowance::new(order.bounds.log.bytes_per_second);
    let mut kill_at: Option<Instant> = None;
    reap(&mut pod)?; // some may have exited before the shim watched for SIGCHLD
    while pod.iter().any(|container| container.running) {
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            cgroup::kill_everything(&order.pod.cgroup)?;
            kill_at = None;
        }
        wait(&signals, &mut pod, &mut allowance, kill_at)?;
        while let Some(signal) = signals.read_signal()? {
            if i32::try_from(signal.ssi_signo).is_ok_and(|number| number == Signal::SIGTERM as i32) {
                terminate(&pod);
                kill_at.get_or_insert_with(|| Instant::now() + grace);
            }
        }
        reap(&mut pod)?;
    }
    pod.iter_mut().try_for_each(Supervised::finish)
}

/// SIGCHLD and SIGTERM as readable events.
pub(super) fn signals() -> io::Result<SignalFd> {
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    watched.add(Signal::SIGTERM);
    // Only now: the containers' first processes must not inherit the mask.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&watched), None)?;
    Ok(SignalFd::with_flags(&watched, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

fn supervised(dir: &Path, order: &ShimRequest, created: Created) -> io::Result<Supervised> {
    let bounds = order.bounds.log;
    let output = |pipe, stream| Output { pipe: Some(pipe), splitter: Splitter::new(stream, bounds) };
    Ok(Supervised {
        pid: created.pid,
        running: true,
        writer: Writer::create(logs::path(&dir.join(LOGS_DIR), &created.name), bounds.file_bytes)?,
        outputs: [output(created.stdout, LogStream::Stdout), output(created.stderr, LogStream::Stderr)],
    })
}

/// Waits for a signal, for output, or for the kill deadline.
fn wait(signals: &SignalFd, pod: &mut [Supervised], allowance: &mut Allowance, kill_at: Option<Instant>) -> io::Result<()> {
    let now = Instant::now();
    let paused = allowance.wait(now);
    let next = [paused, kill_at.map(|at| at.saturating_duration_since(now))].into_iter().flatten().min();
    let timeout = next.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX));
    // A container over its rate limit isn't read: its pipe fills up, and its next write blocks.
    let pipes_open = if paused.is_some() { 0 } else { pod.len() };
    let open = || (0..pipes_open).flat_map(|container| [(container, 0), (container, 1)]);
    let open: Vec<(usize, usize)> = open().filter(|(container, output)| pod[*container].outputs[*output].pipe.is_some()).collect();
    let pipes = open.iter().filter_map(|(container, output)| pod[*container].outputs[*output].pipe.as_ref());
    let mut polled: Vec<PollFd<'_>> =
        std::iter::once(signals.as_fd()).chain(pipes.map(AsFd::as_fd)).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    match poll(&mut polled, timeout) {
        Err(Errno::EINTR) => return Ok(()),
        done => done?,
    };
    let ready: Vec<bool> = polled.iter().skip(1).map(|fd| fd.any().unwrap_or(true)).collect();
    for ((container, output), ready) in open.into_iter().zip(ready) {
        if ready {
            let before = pod[container].writer.total();
            pod[container].read(output)?;
            allowance.spend(pod[container].writer.total() - before);
        }
    }
    Ok(())
}

impl Supervised {
    /// Reads what a pipe holds now; returns whether there may be more. A full disk loses log lines but doesn't end the pod.
    fn read(&mut self, output: usize) -> io::Result<bool> {
        let output = &mut self.outputs[output];
        let Some(pipe) = &output.pipe else { return Ok(false) };
        let mut buffer = [0; READ_BYTES];
        match unistd::read(std::os::fd::AsRawFd::as_raw_fd(pipe), &mut buffer) {
            Ok(0) => {
                output.pipe = None;
                output.splitter.finish(now_ms(), &mut self.writer).ok();
                Ok(false)
            }
            Ok(length) => {
                output.splitter.feed(now_ms(), &buffer[..length], &mut self.writer).ok();
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads the rest of the outputs.
    fn finish(&mut self) -> io::Result<()> {
        for output in 0..self.outputs.len() {
            for _ in 0..LAST_READS_MAX {
                if !self.read(output)? {
                    break;
                }
            }
            self.outputs[output].splitter.finish(now_ms(), &mut self.writer).ok();
        }
        Ok(())
    }
}

fn terminate(pod: &[Supervised]) {
    for container in pod.iter().filter(|container| container.running) {
        kill(container.pid, Signal::SIGTERM).ok(); // not reaped yet, so the process id is still valid
    }
}

/// Reaps every exited child: our containers and their orphans.
fn reap(pod: &mut [Supervised]) -> io::Result<()> {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                pod.iter_mut().filter(|container| container.pid == pid).for_each(|container| container.running = false);
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
