//! The office's pods become the front door's routes.

use std::{net::SocketAddr, sync::Arc};

use codiusd_control::pods::Routes;
use codiusd_proxy::{PodKey, RouteTable, Upstream};
use codiusd_runtime::PodId;

/// Writes what the office says into the table the front door reads.
#[derive(Debug)]
pub(crate) struct Bridge(pub(crate) Arc<RouteTable>);

impl Routes for Bridge {
    fn publish(&self, pod: &PodId, address: SocketAddr, incarnation: u64) {
        match key(pod) {
            Some(key) => self.0.publish(key, Upstream { address, incarnation }),
            None => tracing::error!(%pod, "a pod whose name is no hash can't be routed"),
        }
    }

    fn withdraw(&self, pod: &PodId) {
        if let Some(key) = key(pod) {
            self.0.withdraw(&key);
        }
    }

    fn is_quiet(&self, pod: &PodId) -> bool {
        key(pod).is_none_or(|key| self.0.is_quiet(&key))
    }
}

fn key(pod: &PodId) -> Option<PodKey> {
    pod.as_str().parse().ok()
}
