//! Which hosts are known, which are only candidates, and when each is verified. Pure: `(set, event, now) -> effects`.
//!
//! ```text
//!  heard of -> candidate -------- verified ----------> known -- verified, about daily ---+
//!     ^            |                                   |  ^ ^                            |
//!     |            | failed                     failed |  | +----------------------------+
//!     |            v                                   v  |
//!     +---- refused for a while <--- several times --- in doubt (verified again soon, then later)
//! ```
//!
//! Only known hosts are announced to others, asked, and stored. Every candidate named by a stranger costs us a verification, so these are
//! rationed per source and in total; names beyond the ration are dropped, and a host that exists will be named again.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use jiff::Timestamp;

use super::uri::PeerUri;

/// Limits and intervals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Known hosts.
    pub(super) known_max: usize,
    /// Candidates: heard of, not verified yet.
    pub(super) candidates_max: usize,
    /// Known hosts at one address: a host's name costs nothing.
    pub(super) at_one_address_max: usize,
    /// Verifications in progress.
    pub(super) looks_at_once: usize,
    /// Candidates accepted from one submitter per minute.
    pub(super) of_submitter_max: u32,
    /// Candidates accepted from all submitters per minute.
    pub(super) of_submitters_max: u32,
    /// Candidates accepted from one peer's answers per minute.
    pub(super) of_peer_max: u32,
    /// Candidates accepted from all peers' answers per minute.
    pub(super) of_peers_max: u32,
    /// Interval between verifications of a known host.
    pub(super) look_every: Duration,
    /// Delay after a failed verification; doubled each time.
    pub(super) retry_after: Duration,
    /// Consecutive failures after which a host is no longer a peer.
    pub(super) failures_max: u32,
    /// How long a refused host isn't verified, whatever the source.
    pub(super) refused_for: Duration,
}

/// Longest time between two verifications of a host the operator named.
const OPERATORS_RETRY_MAX: Duration = Duration::from_secs(3600);
/// Period of the rations.
const RATION_TIME: Duration = Duration::from_secs(60);

/// Who named the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The operator, in the settings.
    Operator,
    /// A peer that we asked.
    Peer(PeerUri),
    /// A client that announced them, from this address.
    Submitter(IpAddr),
}

/// Input of the set.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A source named hosts.
    Heard(Source, Vec<PeerUri>),
    /// A host was verified (with its address), or verification failed.
    Looked(PeerUri, Option<IpAddr>),
    /// A peer didn't answer when asked.
    Silent(PeerUri),
    /// Time has passed.
    Tick,
}

/// Output of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Verify this host.
    Look(PeerUri),
    /// Store this host.
    Keep(PeerUri),
    /// Remove this host from the database.
    Forget(PeerUri),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerState {
    Candidate,
    /// Its last address; none for a stored host until it is verified again.
    Known(Option<IpAddr>),
}

#[derive(Debug)]
struct Peer {
    state: PeerState,
    named_by_operator: bool,
    failures: u32,
    next_look: Timestamp,
    looking: bool,
}

/// Candidates accepted from strangers in the current period.
#[derive(Debug)]
struct Rations {
    since: Timestamp,
    of_submitter: HashMap<IpAddr, u32>,
    of_submitters: u32,
    of_peer: HashMap<PeerUri, u32>,
    of_peers: u32,
}

impl Rations {
    fn new(since: Timestamp) -> Self {
        Self { since, of_submitter: HashMap::new(), of_submitters: 0, of_peer: HashMap::new(), of_peers: 0 }
    }
}

/// All hosts.
#[derive(Debug)]
pub(super) struct PeerSet {
    own: Option<PeerUri>,
    peers: BTreeMap<PeerUri, Peer>,
    refused: BTreeMap<PeerUri, Timestamp>,
    rations: Rations,
    limits: Limits,
}

impl PeerSet {
    /// Starts with the stored hosts. `own` is never added.
    pub(super) fn new(own: Option<PeerUri>, kept: Vec<PeerUri>, limits: Limits, now: Timestamp) -> Self {
        let rations = Rations::new(now);
        let mut set = Self { own, peers: BTreeMap::new(), refused: BTreeMap::new(), rations, limits };
        for peer in kept.into_iter().take(limits.known_max) {
            set.add(peer, PeerState::Known(None), false, now);
        }
        set
    }

    /// Applies `event`. `below` returns a random number below its argument.
    pub(super) fn step(&mut self, event: Event, now: Timestamp, below: &mut dyn FnMut(u64) -> u64) -> Vec<Effect> {
        match event {
            Event::Heard(source, peers) => {
                let known = self.count();
                for peer in peers {
                    self.hear(&source, peer, known, now);
                }
                Vec::new()
            }
            Event::Looked(peer, Some(address)) => self.showed(&peer, address, now, below),
            Event::Looked(peer, None) => self.failed(&peer, now),
            Event::Silent(peer) => {
                if let Some(peer) = self.peers.get_mut(&peer).filter(|peer| peer.failures == 0) {
                    peer.next_look = peer.next_look.min(now);
                }
                Vec::new()
            }
            Event::Tick => self.look(now),
        }
    }

    /// Number of known hosts.
    pub(super) fn count(&self) -> usize {
        self.known().count()
    }

    /// A random sample of the known hosts.
    pub(super) fn sample(&self, count: usize, below: &mut dyn FnMut(u64) -> u64) -> Vec<PeerUri> {
        pick(self.known().map(|(uri, _)| uri).collect(), count, below)
    }

    /// A random sample of the peers to ask: known, without recent failures.
    pub(super) fn to_ask(&self, count: usize, below: &mut dyn FnMut(u64) -> u64) -> Vec<PeerUri> {
        pick(self.known().filter(|(_, peer)| peer.failures == 0).map(|(uri, _)| uri).collect(), count, below)
    }

    fn known(&self) -> impl Iterator<Item = (&PeerUri, &Peer)> {
        self.peers.iter().filter(|(_, peer)| matches!(peer.state, PeerState::Known(_)))
    }

    fn add(&mut self, uri: PeerUri, state: PeerState, named_by_operator: bool, next_look: Timestamp) {
        if self.own.as_ref() != Some(&uri) {
            self.peers.entry(uri).or_insert(Peer { state, named_by_operator, failures: 0, next_look, looking: false });
        }
    }

    /// `known` is the number of known hosts: naming hosts doesn't change it.
    fn hear(&mut self, source: &Source, uri: PeerUri, known: usize, now: Timestamp) {
        if *source == Source::Operator {
            match self.peers.get_mut(&uri) {
                Some(peer) => peer.named_by_operator = true,
                None => self.add(uri, PeerState::Candidate, true, now),
            }
            return;
        }
        let refused = self.refused.get(&uri).is_some_and(|until| *until > now);
        let full = known >= self.limits.known_max || self.peers.len() - known >= self.limits.candidates_max;
        if !self.peers.contains_key(&uri) && self.own.as_ref() != Some(&uri) && !refused && !full && self.ration(source, now) {
            self.add(uri, PeerState::Candidate, false, now);
        }
    }

    /// Takes one candidate from the source's ration; false if it is used up.
    fn ration(&mut self, source: &Source, now: Timestamp) -> bool {
        let (rations, limits) = (&mut self.rations, &self.limits);
        if rations.since.duration_until(now).unsigned_abs() >= RATION_TIME {
            *rations = Rations::new(now);
        }
        // Checked first so that an exhausted total adds no more entries: the maps never exceed the totals.
        match source {
            Source::Operator => true,
            Source::Peer(_) if rations.of_peers >= limits.of_peers_max => false,
            Source::Peer(peer) => {
                take(rations.of_peer.entry(peer.clone()).or_default(), limits.of_peer_max)
                    && take(&mut rations.of_peers, limits.of_peers_max)
            }
            Source::Submitter(_) if rations.of_submitters >= limits.of_submitters_max => false,
            Source::Submitter(address) => {
                take(rations.of_submitter.entry(*address).or_default(), limits.of_submitter_max)
                    && take(&mut rations.of_submitters, limits.of_submitters_max)
            }
        }
    }

    fn look(&mut self, now: Timestamp) -> Vec<Effect> {
        self.refused.retain(|_, until| *until > now);
        let under_way = self.peers.values().filter(|peer| peer.looking).count();
        let mut due: Vec<(&PeerUri, &mut Peer)> =
            self.peers.iter_mut().filter(|(_, peer)| !peer.looking && peer.next_look <= now).collect();
        due.sort_by_key(|(_, peer)| peer.next_look);
        let looks = due.into_iter().take(self.limits.looks_at_once.saturating_sub(under_way)).map(|(uri, peer)| {
            peer.looking = true;
            Effect::Look(uri.clone())
        });
        looks.collect()
    }

    /// The host was verified.
    fn showed(&mut self, uri: &PeerUri, address: IpAddr, now: Timestamp, below: &mut dyn FnMut(u64) -> u64) -> Vec<Effect> {
        let full = self.count() >= self.limits.known_max;
        let neighbours = self.known().filter(|(other, peer)| *other != uri && peer.state == PeerState::Known(Some(address))).count();
        let limits = self.limits;
        let Some(peer) = self.peers.get_mut(uri) else { return Vec::new() };
        let is_new = peer.state == PeerState::Candidate;
        if (is_new && full) || (neighbours >= limits.at_one_address_max && !peer.named_by_operator) {
            return self.failed_for_good(uri, now);
        }
        // Jitter, so that hosts discovered together aren't verified together forever.
        let quarter = u64::try_from(limits.look_every.as_millis() / 4).unwrap_or(u64::MAX);
        let wait = limits.look_every.saturating_sub(Duration::from_millis(below(quarter.max(1))));
        *peer = Peer { state: PeerState::Known(Some(address)), failures: 0, next_look: after(now, wait), looking: false, ..*peer };
        if is_new { vec![Effect::Keep(uri.clone())] } else { Vec::new() }
    }

    /// Verification failed.
    fn failed(&mut self, uri: &PeerUri, now: Timestamp) -> Vec<Effect> {
        let limits = self.limits;
        let Some(peer) = self.peers.get_mut(uri) else { return Vec::new() };
        peer.looking = false;
        peer.failures = peer.failures.saturating_add(1);
        let doublings = 1_u32.checked_shl(peer.failures - 1).unwrap_or(u32::MAX);
        let wait = limits.retry_after.saturating_mul(doublings).min(OPERATORS_RETRY_MAX);
        peer.next_look = after(now, wait);
        let given_up = peer.state == PeerState::Candidate || peer.failures >= limits.failures_max;
        if given_up { self.failed_for_good(uri, now) } else { Vec::new() }
    }

    /// Removes a host; one the operator named becomes a candidate again.
    fn failed_for_good(&mut self, uri: &PeerUri, now: Timestamp) -> Vec<Effect> {
        let Some(peer) = self.peers.get_mut(uri) else { return Vec::new() };
        let was_known = peer.state != PeerState::Candidate;
        if peer.named_by_operator {
            (peer.state, peer.looking) = (PeerState::Candidate, false);
            peer.next_look = peer.next_look.max(after(now, self.limits.retry_after));
        } else {
            self.peers.remove(uri);
            // Bounded by the verifications in `refused_for`: those are rationed, or of hosts that were known.
            self.refused.insert(uri.clone(), after(now, self.limits.refused_for));
        }
        if was_known { vec![Effect::Forget(uri.clone())] } else { Vec::new() }
    }
}

fn take(taken: &mut u32, max: u32) -> bool {
    let granted = *taken < max;
    *taken += u32::from(granted);
    granted
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// A random sample: the first `count` of a shuffle.
fn pick(mut from: Vec<&PeerUri>, count: usize, below: &mut dyn FnMut(u64) -> u64) -> Vec<PeerUri> {
    let count = count.min(from.len());
    for place in 0..count {
        let rest = u64::try_from(from.len() - place).unwrap_or(u64::MAX);
        let chosen = usize::try_from(below(rest)).unwrap_or_default();
        let last = from.len() - 1;
        from.swap(place, (place + chosen).min(last));
    }
    from.into_iter().take(count).cloned().collect()
}

#[cfg(test)]
mod tests;
