//! The main loop of a virtual machine's shim: output, exits, pings, SIGTERM.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

use codiusd_guest_protocol::{FromGuest, ToGuest, output};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};

use super::{
    super::{allowance::Allowance, now_ms, serve::signals},
    machine::Machine,
};
use crate::{
    LogStream,
    embedded::{
        logs::{self, Splitter, Writer},
        shim_protocol::{LOGS_DIR, ShimRequest, VmRequest},
    },
};

/// Bytes per read of the output port.
const READ_BYTES: usize = 16 * 1024;
/// Upper bound of the reads that empty the output port after the guest's end, from the socket's buffer.
const LAST_READS_MAX: usize = 64;
/// Pings within the time a guest may be silent.
const PINGS_PER_SILENCE: u32 = 3;
/// Pings between two corrections of the guest's clock.
const PINGS_PER_CLOCK: u32 = 30;
/// How long the guest may take beyond its containers' grace period to power off.
const POWER_OFF: Duration = Duration::from_secs(1);

/// The output port, split into the containers' logs.
pub(super) struct Output {
    stream: UnixStream,
    decoder: output::Decoder,
    logs: Vec<Log>,
    is_open: bool,
}

struct Log {
    writer: Writer,
    /// Of stdout and stderr.
    splitters: [Splitter; 2],
}

impl Output {
    /// The shim's end, and the end for QEMU.
    pub(super) fn pair(dir: &Path, order: &ShimRequest) -> io::Result<(Self, OwnedFd)> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let bounds = order.bounds.log;
        let log = |container: &String| -> io::Result<Log> {
            let writer = Writer::create(logs::path(&dir.join(LOGS_DIR), container), bounds.file_bytes)?;
            Ok(Log { writer, splitters: [LogStream::Stdout, LogStream::Stderr].map(|stream| Splitter::new(stream, bounds)) })
        };
        let logs = order.pod.containers.iter().map(log).collect::<io::Result<Vec<_>>>()?;
        let count = u16::try_from(logs.len()).map_err(io::Error::other)?;
        Ok((Self { stream, decoder: output::Decoder::new(count), logs, is_open: true }, theirs.into()))
    }

    /// Reads what has arrived; returns what it costs of the pod's allowance, none when nothing arrived: what was logged, or what was read if
    /// that is more, because a guest can send pieces without content. A full disk loses log lines but doesn't end the pod.
    fn read(&mut self) -> io::Result<Option<u64>> {
        let mut bytes = [0; READ_BYTES];
        let length = match self.stream.read(&mut bytes) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            read => read?,
        };
        if length == 0 {
            self.is_open = false;
            return Ok(None);
        }
        let total = |logs: &[Log]| logs.iter().map(|log| log.writer.total()).sum::<u64>();
        let (before, logs) = (total(&self.logs), &mut self.logs);
        let fed = self.decoder.feed(&bytes[..length], |container, stream, content| {
            let Some(log) = logs.get_mut(usize::from(container)) else { return };
            let splitter = &mut log.splitters[usize::from(stream == output::Stream::Stderr)];
            splitter.feed(now_ms(), content, &mut log.writer).ok();
        });
        fed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let read = u64::try_from(length).unwrap_or(u64::MAX);
        Ok(Some((total(&self.logs) - before).max(read)))
    }

    /// Reads the rest.
    fn finish(&mut self) {
        for _ in 0..LAST_READS_MAX {
            if !matches!(self.read(), Ok(Some(_))) {
                break;
            }
        }
        for log in &mut self.logs {
            log.splitters.iter_mut().for_each(|splitter| drop(splitter.finish(now_ms(), &mut log.writer)));
        }
    }
}

/// When what is due.
struct Timers {
    /// How long a guest may take to answer a ping.
    silence: Duration,
    ping: Instant,
    pings: u32,
    /// When the outstanding ping must have been answered.
    pong: Option<Instant>,
    kill: Option<Instant>,
}

/// Returns when the virtual machine has ended: by itself, by SIGTERM, or because it violated the protocol.
pub(super) fn until_ended(order: &ShimRequest, vm: &VmRequest, machine: &mut Machine, output: &mut Output) -> io::Result<()> {
    let signals = signals()?;
    let mut allowance = Allowance::new(order.bounds.log.bytes_per_second);
    let mut timers = Timers { silence: Duration::from_millis(vm.silence_ms), ping: Instant::now(), pings: 0, pong: None, kill: None };
    let mut running: Vec<bool> = vec![true; order.pod.containers.len()];
    while !machine.has_ended()? {
        let served = step(machine, output, &mut allowance, &timers, signals.as_fd())
            .and_then(|()| receive(machine, &mut timers, &mut running))
            .and_then(|()| on_time(machine, &mut timers));
        if let Err(error) = served {
            let text = super::printable(&error.to_string());
            writeln!(io::stderr(), "virtual machine ended: {text}").ok(); // a full disk must not keep it
            return machine.end();
        }
        while let Some(signal) = signals.read_signal()? {
            if i32::try_from(signal.ssi_signo).is_ok_and(|number| number == Signal::SIGTERM as i32) && timers.kill.is_none() {
                let grace_ms = order.bounds.stop_grace_ms;
                timers.kill = Some(Instant::now() + Duration::from_millis(grace_ms) + POWER_OFF);
                machine.control.send(&ToGuest::Stop { grace_ms }).ok(); // it is killed in the end
            }
        }
    }
    output.finish();
    Ok(())
}

/// Waits for an event, and passes on output.
fn step(
    machine: &mut Machine,
    output: &mut Output,
    allowance: &mut Allowance,
    timers: &Timers,
    signals: std::os::fd::BorrowedFd<'_>,
) -> io::Result<()> {
    let now = Instant::now();
    let paused = allowance.wait(now);
    let due =
        [Some(timers.ping), timers.pong, timers.kill, machine.overdue()].into_iter().flatten().map(|at| at.saturating_duration_since(now));
    let next = due.chain(paused).min().unwrap_or_default() + Duration::from_millis(1);
    let timeout = PollTimeout::try_from(next).unwrap_or(PollTimeout::MAX);
    // A pod over its rate limit isn't read: the port fills up, and its containers' writes block.
    let reads_output = output.is_open && paused.is_none();
    let mut polled = vec![PollFd::new(signals, PollFlags::POLLIN)];
    if machine.control.is_open() {
        let (control, interest) = machine.control.interest();
        polled.push(PollFd::new(control, interest));
    }
    let output_at = polled.len();
    if reads_output {
        polled.push(PollFd::new(output.stream.as_fd(), PollFlags::POLLIN));
    }
    let errors_at = polled.len();
    polled.extend(machine.errors.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    match poll(&mut polled, timeout) {
        Err(Errno::EINTR) => return Ok(()),
        done => done?,
    };
    let ready = |at: usize| polled.get(at).is_some_and(|fd| fd.any().unwrap_or(true));
    let (output_ready, errors_ready) = (reads_output && ready(output_at), ready(errors_at));
    if errors_ready {
        machine.errors.read();
    }
    if output_ready && let Some(cost) = output.read()? {
        allowance.spend(cost);
    }
    machine.control.flush()
}

/// Handles the guest's messages. One out of turn is an error, so the number of messages a guest can have handled is bounded.
fn receive(machine: &mut Machine, timers: &mut Timers, running: &mut [bool]) -> io::Result<()> {
    while let Some(message) = machine.control.receive()? {
        match message {
            FromGuest::Pong if timers.pong.is_some() => timers.pong = None,
            FromGuest::Exited { container, .. } if running.get(usize::from(container)) == Some(&true) => {
                running[usize::from(container)] = false;
            }
            FromGuest::Done if !running.contains(&true) && !machine.is_done() => machine.done(),
            other => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{other:?} is out of turn"))),
        }
    }
    Ok(())
}

/// Does what is due.
fn on_time(machine: &mut Machine, timers: &mut Timers) -> io::Result<()> {
    let now = Instant::now();
    let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
    if due(timers.kill) || due(machine.overdue()) {
        timers.kill = None;
        return machine.kill();
    }
    if due(timers.pong) {
        return Err(io::Error::other(format!("no answer to a ping within {:?}", timers.silence)));
    }
    if due(Some(timers.ping)) {
        timers.ping = now + timers.silence / PINGS_PER_SILENCE;
        if timers.pong.is_none() && machine.control.is_open() && !machine.is_done() {
            timers.pong = Some(now + timers.silence);
            timers.pings += 1;
            machine.control.send(&ToGuest::Ping)?;
            if timers.pings.is_multiple_of(PINGS_PER_CLOCK) {
                machine.control.send(&ToGuest::Clock { unix_ns: super::unix_ns() })?;
            }
        }
    }
    Ok(())
}
