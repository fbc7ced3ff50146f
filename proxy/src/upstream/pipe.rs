//! Content that goes from an upstream's socket to a client's inside the kernel (splice(2)): what is long and leaves as it came needs no
//! copy of ours.
//!
//! A pipe takes two files, so there are only so many ([`Limits::pipes`](crate::Limits::pipes)). Who gets none has its content copied.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that are in a pipe at once, which is what the kernel gives it room for.
const SIZE: usize = 64 * 1024;

/// What lies between two sockets.
#[derive(Debug)]
pub(crate) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes in it.
    held: usize,
    _place: OwnedSemaphorePermit,
}

impl Pipe {
    /// None: there is no place for it, or no file.
    pub(crate) fn open(places: &Arc<Semaphore>) -> Option<Pipe> {
        let place = Arc::clone(places).try_acquire_owned().ok()?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        Some(Pipe { reader, writer, held: 0, _place: place })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes at most `count` bytes from the socket, when it is empty; 0: the socket has ended.
    pub(crate) fn poll_fill(&mut self, from: &TcpStream, count: u64, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let count = usize::try_from(count).unwrap_or(SIZE).min(SIZE);
        loop {
            ready!(from.poll_read_ready(cx))?;
            // An empty pipe takes something: it is the socket that would block.
            let filled = from.try_io(Interest::READABLE, || moved(from, &self.writer, count));
            if let Some(filled) = settled(filled) {
                return Poll::Ready(filled.inspect(|count| self.held += count));
            }
        }
    }

    /// Gives the socket what it takes of what the pipe holds.
    pub(crate) fn poll_drain(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let drained = to.try_io(Interest::WRITABLE, || moved(&self.reader, to, self.held));
            if let Some(drained) = settled(drained) {
                return Poll::Ready(drained.inspect(|count| self.held -= count));
            }
        }
    }
}

fn moved(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, count: usize) -> io::Result<usize> {
    splice(from, None, to, None, count, SpliceFFlags::SPLICE_F_NONBLOCK).map_err(Errno::into)
}

/// None: the socket wasn't ready.
fn settled(result: io::Result<usize>) -> Option<io::Result<usize>> {
    Some(result).filter(|result| !matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock))
}
