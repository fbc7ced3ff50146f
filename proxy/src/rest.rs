//! What is left of a connection while its client has nothing to ask: the stream. What hyper holds for one, two buffers and the last
//! request's fields, is more than all the rest of it, and most connections wait most of the time.
//!
//! hyper doesn't give a stream back that may be upgraded. So it gets one that goes back by itself when it is dropped ([`Lent`]).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot::{self, Receiver, Sender};
use std::future::poll_fn;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use crate::idle::{LazyTimer, Moment};

/// Bytes that are taken from a client that begins to speak before there is a buffer of hyper's for them.
const FIRST: usize = 2048;

/// A stream that returns to its lender when whoever has it drops it.
#[derive(Debug)]
pub(crate) struct Lent<S> {
    /// There until it is dropped.
    stream: Option<S>,
    /// What was read from the stream before it was lent.
    first: Bytes,
    back: Option<Sender<S>>,
}

impl<S> Lent<S> {
    /// The stream, from which `first` was read already, and where it comes back.
    pub(crate) fn new(stream: S, first: Bytes) -> (Lent<S>, Receiver<S>) {
        let (back, returned) = oneshot::channel();
        (Lent { stream: Some(stream), first, back: Some(back) }, returned)
    }

    fn stream(&mut self) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        if let Some((stream, back)) = self.stream.take().zip(self.back.take()) {
            // Nobody takes it back: it is closed.
            drop(back.send(stream));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return self.stream()?.poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

/// The first bytes of the client's next request; none: it has none, or says nothing until `deadline`.
pub(crate) async fn next<S: AsyncRead + Unpin>(stream: &mut S, deadline: Moment) -> Option<Bytes> {
    let mut timer = LazyTimer::default();
    poll_fn(|cx| {
        // Not a part of the future: it would be held all the time.
        let mut room = [0; FIRST];
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => Poll::Ready(Some(Bytes::copy_from_slice(buf.filled()))),
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => timer.poll(deadline, cx).map(|()| None),
        }
    })
    .await
}

/// Ends what is sent to the client, and takes what it sends until it ends, too; at most for `patience`. Closed while there is something
/// to read, its last bytes could be lost in a reset.
pub(crate) async fn part<S: AsyncRead + AsyncWrite + Unpin>(stream: Option<S>, patience: Duration) {
    let Some(mut stream) = stream else { return };
    let parting = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut discarded = [0; FIRST];
        while stream.read(&mut discarded).await.is_ok_and(|count| count > 0) {}
    };
    // Whoever doesn't take it is gone.
    drop(timeout(patience, Box::pin(parting)).await);
}

/// Says goodbye, at most for `patience`.
pub(crate) async fn close<S: AsyncWrite + Unpin>(mut stream: S, patience: Duration) {
    // Whoever doesn't take it is gone.
    drop(timeout(patience, stream.shutdown()).await);
}
