//! Turns the control plane's pods into routes of the edge.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use codiusd_control::pods::{Routes, WithdrawReason};
use codiusd_proxy::{PodKey, RouteTable, Upstream};
use codiusd_runtime::PodId;

/// Writes the control plane's routes into the table that the edge reads.
#[derive(Debug)]
pub(crate) struct EdgeRoutes(pub(crate) Arc<RouteTable>);

#[async_trait]
impl Routes for EdgeRoutes {
    fn publish(&self, pod: &PodId, address: SocketAddr, incarnation: u64) {
        match key(pod) {
            Some(key) => self.0.publish(key, Upstream { address, incarnation }),
            None => tracing::error!(%pod, "pod name is no manifest hash; not routed"),
        }
    }

    async fn withdraw(&self, pod: &PodId, why: WithdrawReason) {
        let Some(key) = key(pod) else { return };
        match why {
            WithdrawReason::Expired(at) => self.0.withdraw_because(&key, codiusd_proxy::WithdrawReason::Expired(at)),
            WithdrawReason::Exited(at) => self.0.withdraw_because(&key, codiusd_proxy::WithdrawReason::Exited(at)),
            WithdrawReason::Restarting(at) => self.0.withdraw_because(&key, codiusd_proxy::WithdrawReason::Restarting(at)),
            WithdrawReason::Stopped => self.0.withdraw(&key),
        };
    }

    fn is_quiet(&self, pod: &PodId) -> bool {
        key(pod).is_none_or(|key| self.0.is_quiet(&key))
    }
}

fn key(pod: &PodId) -> Option<PodKey> {
    pod.as_str().parse().ok()
}
