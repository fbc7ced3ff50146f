//! What an upgraded connection becomes: two byte streams joined until both sides have ended, the drain's deadline has come, or the
//! pod's withdrawal grace is over. Neither side's first bytes are lost: hyper hands over what it read behind the 101.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use crate::body::Lease;
use crate::conn::Conn;
use crate::metrics::Counted;
use crate::upstream::TunnelPlace;
use crate::visit::Visit;

/// The two ends of a tunnel, and what it holds while it is there.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) upstream: OnUpgrade,
    pub(crate) lease: Lease,
    pub(crate) place: TunnelPlace,
}

/// Joins the two sides once both have upgraded; a half that ends is passed on as a half-close.
pub(crate) fn open(tunnel: Tunnel, visit: Visit, conn: Arc<Conn>) {
    let Tunnel { client, upstream, lease, place } = tunnel;
    let cut = lease.route.cut_after(conn.edge.limits.withdrawn_grace);
    let tracker = conn.edge.tasks.clone();
    let counted = Counted::new(&conn.edge.metrics.tunnels);
    tracker.spawn(async move {
        // Dropped in this order, so that there is room for another one when this one isn't counted any more.
        let _held = (lease, place, counted);
        tokio::select! {
            ended = join(client, upstream, visit) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "tunnel ended");
                }
            }
            () = cut => {}
            () = conn.edge.cut.cancelled() => {}
        }
    });
}

#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("a side did not upgrade")]
    Upgrade(#[source] hyper::Error),
    #[error("copying failed")]
    Copy(#[source] std::io::Error),
}

async fn join(client: OnUpgrade, upstream: OnUpgrade, visit: Visit) -> Result<(), TunnelError> {
    let (client, upstream): (Upgraded, Upgraded) = futures::future::try_join(client, upstream).await.map_err(TunnelError::Upgrade)?;
    copy_bidirectional(&mut Metered { stream: TokioIo::new(client), visit }, &mut TokioIo::new(upstream))
        .await
        .map_err(TunnelError::Copy)?;
    Ok(())
}

/// The client's side, whose bytes are counted.
struct Metered {
    stream: TokioIo<Upgraded>,
    visit: Visit,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.visit.received(buf.filled().len() - before);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.visit.sent(written.as_ref().map_or(0, |count| *count));
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
