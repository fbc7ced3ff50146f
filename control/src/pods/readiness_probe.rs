//! Waits for the web server of a pod that has just started: its containers run before its page answers.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time};

/// How long a start waits for the pod to listen. A slower pod, or one that never listens, runs all the same.
const WITHIN: Duration = Duration::from_secs(2);
/// Interval between connection attempts.
const TRY_EVERY: Duration = Duration::from_millis(5);

/// Returns when the pod listens at `address`, so that the URL works once the client gets it; or when the wait times out.
pub(super) async fn awaited(address: SocketAddr) {
    let listening = async {
        while TcpStream::connect(address).await.is_err() {
            time::sleep(TRY_EVERY).await;
        }
    };
    // A timeout is no failure.
    let _ = time::timeout(WITHIN, listening).await;
}
