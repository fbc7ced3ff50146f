//! What one pod's visitors have asked and got since its route was published. Gone with the route; shown only when somebody asks for
//! the busiest pods, never in the scrape, where thousands of them would be a series each.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

use crate::pod_key::PodKey;

/// The counters. Each request adds to them once, when it is over; so does a tunnel.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    requests: AtomicU64,
    errors: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// Counts a request with this answer, or with none because its client left.
    pub(crate) fn count(&self, status: Option<StatusCode>, received: u64, sent: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if status.is_some_and(|status| status.is_server_error()) {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        if received > 0 {
            self.received.fetch_add(received, Ordering::Relaxed);
        }
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }

    pub(crate) fn of(&self, pod: PodKey) -> PodTraffic {
        PodTraffic {
            pod,
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

/// What a pod's visitors have asked and got since its route was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodTraffic {
    /// The pod.
    pub pod: PodKey,
    /// Requests and tunnels that are over.
    pub requests: u64,
    /// Those with an answer of 500 and above, from the pod or because of it.
    pub errors: u64,
    /// Bytes of bodies, and of tunnels, from its visitors.
    pub received: u64,
    /// The same to its visitors.
    pub sent: u64,
}
