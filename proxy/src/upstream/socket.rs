//! Connections to upstreams: opened, used by one request at a time, and kept on their route's shelf in between.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime;
use tokio_util::io::poll_read_buf;

use crate::time::timers::{LazyTimer, WhenWoken};
use crate::upstream::shelf::Fit;

/// A connection to an upstream.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The same with what ends it besides its upstream.
pub(crate) struct Socket {
    pub(crate) stream: Stream,
    /// Ready when the grace after its route's withdrawal is over.
    pub(crate) cut: WhenWoken<BoxFuture<'static, ()>>,
    /// For the waits of whatever request uses it.
    pub(crate) timer: LazyTimer,
    /// Whose reactor it is registered with.
    home: runtime::Id,
}

impl Socket {
    pub(crate) fn new(stream: Stream, cut: BoxFuture<'static, ()>) -> Self {
        Self { stream, cut: WhenWoken::new(cut), timer: LazyTimer::default(), home: runtime::Handle::current().id() }
    }

    /// Whether its upstream neither has closed it nor says anything unasked. It isn't asked for when the reactor knows of nothing.
    pub(crate) fn fit(&mut self) -> Fit {
        if self.home != runtime::Handle::current().id() {
            return Fit::Elsewhere;
        }
        let mut one = [0];
        let mut buf = ReadBuf::new(&mut one);
        let polled = Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
        if polled.is_pending() { Fit::Usable } else { Fit::Closed }
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Stream {
    /// Its TCP socket, if it is one.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(stream) => Some(stream),
            Stream::Unix(_) => None,
        }
    }

    /// Appends what there is to read, for which there is room of about that size only then; 0: it has ended.
    pub(crate) fn poll_read_into(&mut self, buf: &mut BytesMut, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(match self {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
        })?;
        if buf.is_empty() {
            // Used again or replaced, but not grown: what is read at once should leave at once, and a little more would be a write of its
            // own.
            if !buf.try_reclaim(room) {
                *buf = BytesMut::with_capacity(room);
            }
        } else if buf.capacity() - buf.len() < room / 4 {
            buf.reserve(room);
        }
        // Not `try_read_buf`, which doesn't notice that a read of less than there was room for has taken all: the next one would ask the
        // kernel in vain.
        poll_read_buf(Pin::new(self), cx, buf)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
