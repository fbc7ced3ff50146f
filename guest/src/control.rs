//! Messages to and from the shim. Nothing blocks but the wait for the order and the last flush.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use codiusd_guest_protocol::{FROM_GUEST_BYTES_MAX, FromGuest, Order, TO_GUEST_BYTES_MAX, ToGuest, frame};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wait;

/// Bytes per read.
const READ_BYTES: usize = 32 << 10;
/// Nothing more is read while more than this waits to be sent, in bytes: a host that asks and never listens.
const UNSENT_MAX: usize = 64 << 10;
/// How long the host may take to accept the last message.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

/// The control port.
#[derive(Debug)]
pub(crate) struct Control {
    port: File,
    decoder: frame::Decoder,
    /// Encoded messages that the port hasn't accepted yet.
    unsent: Vec<u8>,
}

impl Control {
    /// Over a port in non-blocking mode.
    pub(crate) fn new(port: OwnedFd) -> Self {
        Self { port: port.into(), decoder: frame::Decoder::new(TO_GUEST_BYTES_MAX), unsent: Vec::new() }
    }

    /// What to poll the port for.
    pub(crate) fn events(&self) -> PollFlags {
        let read = if self.unsent.len() < UNSENT_MAX { PollFlags::POLLIN } else { PollFlags::empty() };
        if self.unsent.is_empty() { read } else { read | PollFlags::POLLOUT }
    }

    /// Sends a message as soon as the port accepts it.
    pub(crate) fn send(&mut self, message: &FromGuest) -> io::Result<()> {
        self.unsent.extend(frame::encode(message, FROM_GUEST_BYTES_MAX)?);
        self.write()
    }

    /// Sends what the port accepts now.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.port.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends everything, or fails.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + FLUSH_WAIT;
        while !self.unsent.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            wait::ready("the host's reading of the last message", self.port.as_fd(), PollFlags::POLLOUT, left)?;
            self.write()?;
        }
        Ok(())
    }

    /// Reads what is there; false at the end of the stream. Then call [`Control::message`] until it returns none.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        match self.port.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.decoder.feed(&buffer[..length]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The next complete message.
    pub(crate) fn message(&mut self) -> io::Result<Option<ToGuest>> {
        self.decoder.message().map_err(io::Error::other)
    }

    /// Waits for the order, however long that takes; none if the host goes away, or wants nothing run.
    pub(crate) fn order(&mut self) -> io::Result<Option<Box<Order>>> {
        loop {
            match self.message()? {
                Some(ToGuest::Order(order)) => return Ok(Some(order)),
                Some(ToGuest::Ping) => self.send(&FromGuest::Pong)?,
                Some(ToGuest::Stop { .. }) => {
                    self.send(&FromGuest::Done)?;
                    return self.flush().map(|()| None);
                }
                Some(ToGuest::Go | ToGuest::Clock { .. }) => return Err(io::Error::other("a message before the order")),
                None => {
                    poll(&mut [PollFd::new(self.port.as_fd(), self.events())], PollTimeout::NONE)?;
                    self.write()?;
                    if !self.read()? {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn connected() -> (UnixStream, Control) {
        let (host, guest) = UnixStream::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        (host, Control::new(guest.into()))
    }

    fn received(host: &mut UnixStream) -> Vec<FromGuest> {
        let (mut decoder, mut bytes) = (frame::Decoder::new(FROM_GUEST_BYTES_MAX), Vec::new());
        host.read_to_end(&mut bytes).unwrap();
        decoder.feed(&bytes);
        std::iter::from_fn(|| decoder.message().unwrap()).collect()
    }

    #[test]
    fn before_the_order_a_ping_is_answered_and_a_stop_is_the_end() {
        let (mut host, mut control) = connected();
        for message in [ToGuest::Ping, ToGuest::Stop { grace_ms: 1 }] {
            host.write_all(&frame::encode(&message, TO_GUEST_BYTES_MAX).unwrap()).unwrap();
        }
        assert!(control.order().unwrap().is_none());
        drop(control);
        assert_eq!(received(&mut host), [FromGuest::Pong, FromGuest::Done]);
    }

    #[test]
    fn a_host_that_is_gone_or_speaks_out_of_turn_is_no_order() {
        let (host, mut control) = connected();
        drop(host);
        assert!(control.order().unwrap().is_none());
        let (mut host, mut control) = connected();
        host.write_all(&frame::encode(&ToGuest::Go, TO_GUEST_BYTES_MAX).unwrap()).unwrap();
        assert!(control.order().is_err());
    }

    #[test]
    fn a_host_that_does_not_listen_is_not_read_either() {
        let (mut host, mut control) = connected();
        let mut sent = 0;
        while control.events().contains(PollFlags::POLLIN) {
            control.send(&FromGuest::Pong).unwrap();
            sent += 1;
            assert!(sent < 1 << 20, "it would go on for ever");
        }
        assert!(control.unsent.len() < UNSENT_MAX + 64);
        host.set_nonblocking(true).unwrap();
        let mut read = 0;
        while !control.unsent.is_empty() {
            read += host.read(&mut [0; READ_BYTES]).unwrap();
            control.write().unwrap();
        }
        assert!(read > 0 && control.events() == PollFlags::POLLIN);
    }
}
