//! Which pod is where. Written by whoever runs pods, read by every request.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use jiff::Timestamp;

use crate::pod_key::PodKey;
use crate::routing::tombstones::{Departed, WithdrawReason};
use crate::telemetry::traffic::PodTraffic;
use crate::upstream::route::{Address, Route};

/// Where one incarnation of a pod listens. A connection made to one incarnation never carries a request for another, even when the
/// address is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upstream {
    /// The pod's address and port.
    pub address: SocketAddr,
    /// Differs between any two starts of any pods.
    pub incarnation: u64,
}

/// The routable pods. Reads take one shard lock for the length of a lookup, never across an await.
#[derive(Debug, Default)]
pub struct RouteTable {
    pods: DashMap<PodKey, (Upstream, Arc<Route>), ahash::RandomState>,
    departed: RwLock<Departed>,
}

impl RouteTable {
    /// An empty table.
    pub fn new() -> RouteTable {
        RouteTable::default()
    }

    /// Makes the pod reachable at `upstream` from the next request on. Publishing what is already there changes nothing; another
    /// upstream replaces the old one as [`withdraw`](Self::withdraw) would.
    pub fn publish(&self, key: PodKey, upstream: Upstream) {
        let entry = self.pods.entry(key);
        if let dashmap::Entry::Occupied(present) = &entry
            && present.get().0 == upstream
        {
            return;
        }
        let route = Arc::new(Route::new(Address::Tcp(upstream.address)));
        let replaced = match entry {
            dashmap::Entry::Occupied(mut present) => Some(present.insert((upstream, route))),
            dashmap::Entry::Vacant(vacant) => {
                vacant.insert((upstream, route));
                None
            }
        };
        if let Some((_, old)) = replaced {
            old.withdraw();
        }
        self.departed.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Makes the pod unroutable for every request not yet routed, closes its idle connections, and gives requests and tunnels in
    /// flight [`Limits::withdrawn_grace`](crate::Limits::withdrawn_grace). Visitors aren't told why. False when it was not there.
    pub fn withdraw(&self, key: &PodKey) -> bool {
        self.departed.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.remove(key)
    }

    /// The same, and has visitors told why, until it is back or said anew.
    pub fn withdraw_because(&self, key: &PodKey, why: WithdrawReason) -> bool {
        self.departed.write().unwrap_or_else(PoisonError::into_inner).add(*key, why);
        self.remove(key)
    }

    fn remove(&self, key: &PodKey) -> bool {
        let removed = self.pods.remove(key);
        match removed {
            Some((_, (_, route))) => {
                route.withdraw();
                true
            }
            None => false,
        }
    }

    /// What is known at `now` of a pod that has no route.
    pub(crate) fn why_not(&self, key: &PodKey, now: Timestamp) -> Option<WithdrawReason> {
        self.departed.read().unwrap_or_else(PoisonError::into_inner).find(key, now)
    }

    /// The pods with the most requests since their routes were published, the busiest first. Looks at all.
    pub fn busiest(&self, count: usize) -> Vec<PodTraffic> {
        let mut pods: Vec<PodTraffic> = self.pods.iter().map(|entry| entry.value().1.traffic().of(*entry.key())).collect();
        pods.sort_unstable_by_key(|traffic| Reverse(traffic.requests));
        pods.truncate(count);
        pods
    }

    /// Where the pod is now.
    pub fn get(&self, key: &PodKey) -> Option<Upstream> {
        self.pods.get(key).map(|entry| entry.value().0)
    }

    /// Whether no request or tunnel is under way to the pod: each holds its route.
    pub fn is_quiet(&self, key: &PodKey) -> bool {
        self.pods.get(key).is_none_or(|entry| Arc::strong_count(&entry.value().1) == 1)
    }

    /// How many pods are routable.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether no pod is routable.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    pub(crate) fn route(&self, key: &PodKey) -> Option<Arc<Route>> {
        self.pods.get(key).map(|entry| entry.value().1.clone())
    }

    pub(crate) fn for_each_route(&self, mut visit: impl FnMut(&Route)) {
        for entry in &self.pods {
            visit(&entry.value().1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_incarnation_replaces_the_route_and_the_same_one_keeps_it() {
        let table = RouteTable::new();
        let key = PodKey::from_digest([1; 32]);
        let first = Upstream { address: "127.0.0.1:80".parse().unwrap(), incarnation: 1 };
        table.publish(key, first);
        let route = table.route(&key).unwrap();
        table.publish(key, first);
        assert!(Arc::ptr_eq(&route, &table.route(&key).unwrap()));
        table.publish(key, Upstream { incarnation: 2, ..first });
        assert!(!Arc::ptr_eq(&route, &table.route(&key).unwrap()));
        assert!(route.is_withdrawn());
        assert!(table.withdraw(&key));
        assert!(!table.withdraw(&key));
        assert_eq!(table.get(&key), None);
    }

    #[test]
    fn why_a_pod_has_gone_is_known_until_it_is_back() {
        let table = RouteTable::new();
        let (key, at) = (PodKey::from_digest([1; 32]), Timestamp::UNIX_EPOCH);
        assert_eq!(table.why_not(&key, at), None);
        let upstream = Upstream { address: "127.0.0.1:80".parse().unwrap(), incarnation: 1 };
        table.publish(key, upstream);
        assert!(table.withdraw_because(&key, WithdrawReason::Restarting(at)));
        assert_eq!(table.why_not(&key, at), Some(WithdrawReason::Restarting(at)));
        assert!(!table.withdraw_because(&key, WithdrawReason::Expired(at)));
        assert_eq!(table.why_not(&key, at), Some(WithdrawReason::Expired(at)));
        table.withdraw(&key);
        assert_eq!(table.why_not(&key, at), None, "said anew");
        table.withdraw_because(&key, WithdrawReason::Restarting(at));
        table.publish(key, upstream);
        table.withdraw(&key);
        assert_eq!(table.why_not(&key, at), None);
    }
}
