//! The shim's end of the control port: messages to and from the guest, without blocking.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use codiusd_guest_protocol::{
    FROM_GUEST_BYTES_MAX, FromGuest, TO_GUEST_BYTES_MAX, ToGuest,
    frame::{self, Decoder},
};
use nix::poll::PollFlags;

/// Bytes per read.
const READ_BYTES: usize = 4096;
/// Messages that wait for the guest to read: an order, and a few short ones.
const WAITING_BYTES_MAX: usize = TO_GUEST_BYTES_MAX + 4096;

/// The control port.
pub(super) struct Control {
    stream: UnixStream,
    decoder: Decoder,
    /// Not sent yet.
    waiting: Vec<u8>,
    is_open: bool,
}

impl Control {
    /// The shim's end, and the end for QEMU.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (stream, guest) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        Ok((Self { stream, decoder: Decoder::new(FROM_GUEST_BYTES_MAX), waiting: Vec::new(), is_open: true }, guest.into()))
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let write = if self.waiting.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        (self.stream.as_fd(), PollFlags::POLLIN | write)
    }

    /// Whether the other end exists.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Sends a message, as soon as the guest takes it.
    pub(super) fn send(&mut self, message: &ToGuest) -> io::Result<()> {
        let bytes = frame::encode(message, TO_GUEST_BYTES_MAX)?;
        if self.waiting.len() + bytes.len() > WAITING_BYTES_MAX {
            return Err(io::Error::other("the virtual machine reads no messages"));
        }
        self.waiting.extend(bytes);
        self.flush()
    }

    /// Sends what the guest takes now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.is_open && !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => self.is_open = false,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message that has arrived. An error means that the guest violates the protocol.
    pub(super) fn receive(&mut self) -> io::Result<Option<FromGuest>> {
        loop {
            let message = self.decoder.message().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if message.is_some() || !self.is_open {
                return Ok(message);
            }
            let mut bytes = [0; READ_BYTES];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.is_open = false,
                Ok(length) => self.decoder.feed(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.is_open = false,
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_longer_than_the_socket_takes_arrives_in_the_end() {
        let (mut control, guest) = Control::pair().unwrap();
        let mut guest = UnixStream::from(guest);
        let grace = ToGuest::Stop { grace_ms: 1 };
        let each = frame::encode(&grace, TO_GUEST_BYTES_MAX).unwrap().len();
        let mut count = 0;
        while control.interest().1 == PollFlags::POLLIN {
            control.send(&grace).unwrap();
            count += 1;
        }
        let mut received = vec![0; each * count];
        let mut read = 0;
        while read < received.len() {
            read += guest.read(&mut received[read..]).unwrap();
            control.flush().unwrap();
        }
        assert_eq!(control.interest().1, PollFlags::POLLIN, "nothing waits");
    }

    #[test]
    fn the_end_of_the_guest_is_seen_after_its_last_message() {
        let (mut control, guest) = Control::pair().unwrap();
        let mut guest = UnixStream::from(guest);
        guest.write_all(&frame::encode(&FromGuest::Done, FROM_GUEST_BYTES_MAX).unwrap()).unwrap();
        drop(guest);
        assert_eq!(control.receive().unwrap(), Some(FromGuest::Done));
        assert!(control.receive().unwrap().is_none() && !control.is_open());
    }

    #[test]
    fn a_guest_that_reads_nothing_is_not_waited_for_without_limit() {
        let (mut control, _guest) = Control::pair().unwrap();
        let sent = (0..1_000_000).map(|_| control.send(&ToGuest::Ping)).find(Result::is_err);
        assert!(sent.is_some_and(|sent| sent.is_err()));
    }
}
