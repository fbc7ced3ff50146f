//! Which pod is where. Written by whoever runs pods, read by every request.

use std::cmp::Reverse;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use jiff::Timestamp;

use crate::gone::{Departed, Gone};
use crate::rescue::Fault;
use crate::traffic::PodTraffic;
use crate::upstream::{Address, Route};

/// Characters of a pod's host label.
pub(crate) const LABEL_LEN: usize = 52;

/// The SHA-256 of a pod's manifest; its text form is the pod's host label: 52 characters of base32 (RFC 4648, no padding).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PodKey([u8; 32]);

/// The text is not 52 base32 characters whose 4 spare bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pod's label is 52 base32 characters that encode 32 bytes")]
pub struct ParsePodKeyError;

impl PodKey {
    /// The key of the manifest with this SHA-256.
    pub fn from_digest(digest: [u8; 32]) -> PodKey {
        PodKey(digest)
    }

    /// Whether these 52 bytes are all in the base32 alphabet, in either case.
    pub(crate) fn has_shape(label: &[u8]) -> bool {
        label.iter().all(|byte| value(*byte).is_some())
    }

    /// `None` unless the label is the one spelling (case aside) of 32 bytes: 52 characters carry 260 bits, and the 4 spare ones must
    /// be zero, or two names would mean one pod.
    pub(crate) fn decode(label: &[u8]) -> Option<PodKey> {
        if label.len() != LABEL_LEN {
            return None;
        }
        let mut key = [0u8; 32];
        let (groups, rest) = label.as_chunks::<8>();
        for (group, bytes) in groups.iter().zip(key.chunks_exact_mut(5)) {
            let [_, _, _, decoded @ ..] = bits(group)?.to_be_bytes();
            bytes.copy_from_slice(&decoded);
        }
        let last = bits(rest)?;
        let [.., high, low] = &mut key;
        [*high, *low] = u16::try_from(last >> 4).ok()?.to_be_bytes();
        (last & 0xf == 0).then_some(PodKey(key))
    }
}

/// The bits of up to 12 characters, the last one's lowest.
fn bits(characters: &[u8]) -> Option<u64> {
    characters.iter().try_fold(0, |bits, character| Some((bits << 5) | u64::from(value(*character)?)))
}

/// What is no character of a label, in [`VALUES`].
const NONE: u8 = u8::MAX;
/// What each byte is worth in a label.
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < 32 {
        let character = b"abcdefghijklmnopqrstuvwxyz234567"[value as usize];
        values[character as usize] = value;
        values[character.to_ascii_uppercase() as usize] = value;
        value += 1;
    }
    values
};

fn value(byte: u8) -> Option<u8> {
    VALUES.get(usize::from(byte)).copied().filter(|value| *value != NONE)
}

impl FromStr for PodKey {
    type Err = ParsePodKeyError;

    fn from_str(label: &str) -> Result<Self, Self::Err> {
        PodKey::decode(label.as_bytes()).ok_or(ParsePodKeyError)
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(base32::Alphabet::Rfc4648Lower { padding: false }, &self.0))
    }
}

impl fmt::Debug for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodKey({self})")
    }
}

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
    pods: DashMap<PodKey, (Upstream, Arc<Route>)>,
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
    pub fn withdraw_because(&self, key: &PodKey, why: Gone) -> bool {
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

    /// What is wrong with a request at `now` for a pod that has no route.
    pub(crate) fn why_not(&self, key: &PodKey, now: Timestamp) -> Fault {
        let departed = self.departed.read().unwrap_or_else(PoisonError::into_inner);
        departed.find(key, now).map_or(Fault::NoSuchPod, Gone::fault)
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
    fn a_key_has_one_spelling() {
        let key = PodKey::from_digest(std::array::from_fn(|index| u8::try_from(index).unwrap() * 7));
        let text = key.to_string();
        assert_eq!(text.len(), LABEL_LEN);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.to_uppercase().parse(), Ok(key));
        let last = value(text.as_bytes()[51]).unwrap();
        for spare in 1..16u8 {
            let twin = char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(last | spare)]);
            assert_eq!(format!("{}{twin}", &text[..51]).parse::<PodKey>(), Err(ParsePodKeyError));
        }
        for bad in ["", &text[1..], &format!("{text}a"), &format!("{}1", &text[..51]), &format!("{}é", &text[..50])] {
            assert_eq!(bad.parse::<PodKey>(), Err(ParsePodKeyError), "{bad}");
        }
    }

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
        assert_eq!(table.why_not(&key, at), Fault::NoSuchPod);
        let upstream = Upstream { address: "127.0.0.1:80".parse().unwrap(), incarnation: 1 };
        table.publish(key, upstream);
        assert!(table.withdraw_because(&key, Gone::Restarting(at)));
        assert_eq!(table.why_not(&key, at), Fault::PodRestarting);
        assert!(!table.withdraw_because(&key, Gone::Expired(at)));
        assert_eq!(table.why_not(&key, at), Fault::PodExpired(at));
        table.withdraw(&key);
        assert_eq!(table.why_not(&key, at), Fault::NoSuchPod, "said anew");
        table.withdraw_because(&key, Gone::Restarting(at));
        table.publish(key, upstream);
        table.withdraw(&key);
        assert_eq!(table.why_not(&key, at), Fault::NoSuchPod);
    }
}
