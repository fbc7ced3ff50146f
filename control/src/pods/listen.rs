//! A pod's first moment: its containers run, and its page doesn't answer yet.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time};

/// How long a start waits for the pod to listen. One that takes longer, or never does, runs all the same.
const WITHIN: Duration = Duration::from_secs(2);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(5);

/// Returns when somebody listens at `address`, so that whoever is told of the pod finds it; or after a moment.
pub(super) async fn awaited(address: SocketAddr) {
    let listening = async {
        while TcpStream::connect(address).await.is_err() {
            time::sleep(TRY_EVERY).await;
        }
    };
    // Too late is no failure.
    let _ = time::timeout(WITHIN, listening).await;
}
