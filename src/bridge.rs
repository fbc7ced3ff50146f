//! The office's pods become the front door's routes.

use std::{net::SocketAddr, sync::Arc};

use codiusd_control::pods::{Gone, Routes};
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

    fn withdraw(&self, pod: &PodId, why: Gone) {
        let Some(key) = key(pod) else { return };
        match why {
            Gone::Expired(at) => self.0.withdraw_because(&key, codiusd_proxy::Gone::Expired(at)),
            Gone::Exited(at) => self.0.withdraw_because(&key, codiusd_proxy::Gone::Exited(at)),
            Gone::Restarting(at) => self.0.withdraw_because(&key, codiusd_proxy::Gone::Restarting(at)),
            Gone::Stopped => self.0.withdraw(&key),
        };
    }

    fn is_quiet(&self, pod: &PodId) -> bool {
        key(pod).is_none_or(|key| self.0.is_quiet(&key))
    }
}

fn key(pod: &PodId) -> Option<PodKey> {
    pod.as_str().parse().ok()
}
