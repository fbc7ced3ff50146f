//! The socket of a connection. It is closed only when its client has ended, or after [`Limits::linger`](crate::Limits::linger): what a
//! client still sends (it acknowledges what it takes) would be answered with a reset, which overtakes the last answers. Writes fail when
//! the client takes too little.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::context::conn::Conn;
use crate::downstream::http2::flow::Flow;
use crate::downstream::pace::Pace;

/// Bytes that are read at once of what isn't listened to any more.
const DISCARDED: usize = 4 * 1024;

/// A client's socket.
#[derive(Debug)]
pub(crate) struct Lingering<S> {
    socket: S,
    conn: Arc<Conn>,
    flow: Arc<Flow>,
    pace: Pace,
    farewell: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    pub(crate) fn new(socket: S, conn: &Arc<Conn>, flow: &Arc<Flow>) -> Self {
        Self { socket, conn: Arc::clone(conn), flow: Arc::clone(flow), pace: Pace::default(), farewell: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.flow.wrote();
        let polled = Pin::new(&mut this.socket).poll_write(cx, buf);
        this.pace.judge(polled, cx, &this.conn)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.socket).poll_flush(cx);
        if polled.is_ready() {
            this.flow.flushed();
        }
        this.pace.judge(polled, cx, &this.conn)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.farewell.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
        }
        let linger = this.conn.edge.limits.linger;
        let farewell = this.farewell.get_or_insert_with(|| Box::pin(sleep(linger)));
        let mut discarded = [0; DISCARDED];
        while farewell.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.flow.wrote();
        let polled = Pin::new(&mut this.socket).poll_write_vectored(cx, bufs);
        this.pace.judge(polled, cx, &this.conn)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
