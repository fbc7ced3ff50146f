//! What QEMU writes to its standard error: kept in the shim's log up to a limit, because a guest can cause messages.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// Bytes of messages that reach the shim's log.
const LOGGED_BYTES_MAX: usize = 64 << 10;
/// Bytes of the last messages that become the cause of a failed start.
const TAIL_BYTES_MAX: usize = 1024;
/// Bytes per read.
const READ_BYTES: usize = 1024;

/// The read end of QEMU's standard error.
pub(super) struct Errors {
    stream: UnixStream,
    logged: usize,
    tail: Vec<u8>,
    is_open: bool,
}

impl Errors {
    /// The shim's end, and the end for QEMU.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        Ok((Self { stream, logged: 0, tail: Vec::new(), is_open: true }, theirs.into()))
    }

    /// What to poll for reading.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.is_open.then(|| self.stream.as_fd())
    }

    /// Takes what there is; one read, so that a flood delays nothing else.
    pub(super) fn read(&mut self) {
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(length) if length > 0 => self.take(&bytes[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => self.is_open = false,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let logged = bytes.len().min(LOGGED_BYTES_MAX - self.logged);
        io::stderr().write_all(&bytes[..logged]).ok(); // a full disk must not end the pod
        self.logged += logged;
        if self.logged >= LOGGED_BYTES_MAX {
            // Reading on would cost processor time that isn't the pod's.
            self.stream.shutdown(std::net::Shutdown::Both).ok();
            self.is_open = false;
        }
        self.tail.extend_from_slice(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES_MAX);
        self.tail.drain(..surplus);
    }

    /// The last messages, on one line.
    pub(super) fn tail(&mut self) -> String {
        self.read();
        let text = String::from_utf8_lossy(&self.tail);
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
    }
}
