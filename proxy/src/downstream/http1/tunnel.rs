//! What is left when a request has switched protocols: two byte streams, joined until both have ended, the drain's deadline has come, or
//! the pod's withdrawal grace is over. What either side has said already comes first.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use crate::context::conn::Conn;
use crate::downstream::pace::Pace;
use crate::request::visit::Visit;
use crate::telemetry::metrics::Counted;
use crate::upstream::route::TunnelPlace;
use crate::upstream::socket::Socket;

/// Joins them; a half that ends is passed on as a half-close.
pub(crate) async fn join<S>(conn: &Arc<Conn>, client: (&mut S, BytesMut), upstream: (Socket, BytesMut), place: TunnelPlace, visit: Visit)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let counted = Counted::new(&conn.edge.metrics.tunnels);
    let (socket, heard) = upstream;
    let Socket { stream, cut, .. } = socket;
    let mut near = Client { side: Said { first: client.1, stream: client.0 }, visit, pace: Pace::of_tunnel(), conn };
    let mut far = Said { first: heard, stream };
    tokio::select! {
        ended = copy_bidirectional(&mut near, &mut far) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "tunnel ended");
            }
        }
        () = cut => {}
    }
    // There is room for another one when this one isn't counted any more.
    drop((near, far, place, counted));
}

/// A stream of which something was read already.
struct Said<S> {
    first: BytesMut,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Said<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        if let Some(first) = self.first.get(..count) {
            buf.put_slice(first);
        }
        self.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Said<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The client's side, whose bytes are counted, and who must take what it is sent.
struct Client<'a, S> {
    side: Said<&'a mut S>,
    visit: Visit,
    pace: Pace,
    conn: &'a Arc<Conn>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Client<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.side).poll_read(cx, buf));
        self.visit.received(buf.filled().len() - before);
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Client<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.side).poll_write(cx, buf);
        let written = ready!(this.pace.judge(polled, cx, this.conn));
        this.visit.sent(written.as_ref().map_or(0, |count| *count));
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.side).poll_flush(cx);
        this.pace.judge(polled, cx, this.conn)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_shutdown(cx)
    }
}
