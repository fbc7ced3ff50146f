//! What an upgraded connection becomes: two byte streams joined until both sides have ended, the drain's deadline has come, or the
//! pod's withdrawal grace is over. Neither side's first bytes are lost: hyper hands over what it read behind the 101.

use std::sync::Arc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::body::Lease;
use crate::conn::Conn;
use crate::metrics::Counted;
use crate::upstream::TunnelPlace;

/// Joins the two sides once both have upgraded; a half that ends is passed on as a half-close.
pub(crate) fn open(client: OnUpgrade, upstream: OnUpgrade, lease: Lease, place: TunnelPlace, conn: Arc<Conn>) {
    let cut = lease.route.cut_after(conn.edge.limits.withdrawn_grace);
    let tracker = conn.edge.tasks.clone();
    tracker.spawn(async move {
        let _open = Counted::new(&conn.edge.metrics.tunnels);
        let _upgrading = (lease, place);
        tokio::select! {
            ended = join(client, upstream) => {
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

async fn join(client: OnUpgrade, upstream: OnUpgrade) -> Result<(), TunnelError> {
    let (client, upstream): (Upgraded, Upgraded) = futures::future::try_join(client, upstream).await.map_err(TunnelError::Upgrade)?;
    copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(upstream)).await.map_err(TunnelError::Copy)?;
    Ok(())
}
