//! Which hosts we know, which we have only heard of, and when each is looked at. Pure: `(set, event, now) -> what is to be done`.
//!
//! ```text
//!  heard of -> candidate --- says it is who it is ---> known --- says so, about daily ---+
//!     ^            |                                   |  ^ ^                            |
//!     |            | doesn't                   doesn't |  | +----------------------------+
//!     |            v                                   v  |
//!     +---- refused for a while <--- several times --- in doubt (looked at again soon, then later)
//! ```
//!
//! Only known hosts are told to others, asked, and kept. Whoever is heard of by strangers costs us a look, so looks are rationed by
//! who told us of them and in all; what is over the ration is dropped, and heard of again if it is there.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use jiff::Timestamp;

use super::uri::PeerUri;

/// How many, and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Hosts that are known.
    pub(super) known_max: usize,
    /// Hosts that have been heard of, and not been looked at.
    pub(super) candidates_max: usize,
    /// Hosts that are known at one address: a host's name costs nothing.
    pub(super) at_one_address_max: usize,
    /// Looks under way.
    pub(super) looks_at_once: usize,
    /// Hosts one submitter may make us look at in a minute.
    pub(super) of_submitter_max: u32,
    /// Hosts all submitters may.
    pub(super) of_submitters_max: u32,
    /// Hosts one peer's answers may.
    pub(super) of_peer_max: u32,
    /// Hosts all peers' answers may.
    pub(super) of_peers_max: u32,
    /// How long a host that has shown who it is is left alone.
    pub(super) look_every: Duration,
    /// How long after a failed look the next one is; doubled with each.
    pub(super) retry_after: Duration,
    /// Failed looks in a row after which a host is no peer any more.
    pub(super) failures_max: u32,
    /// How long a host that was refused isn't looked at, whoever names it.
    pub(super) refused_for: Duration,
}

/// The longest time between two looks at a host the operator named.
const OPERATORS_RETRY_MAX: Duration = Duration::from_secs(3600);
/// Looks are rationed by this time.
const RATION_TIME: Duration = Duration::from_secs(60);

/// Who told us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The operator, in the settings.
    Operator,
    /// This peer, which we asked.
    Peer(PeerUri),
    /// Somebody who came to us, from there.
    Submitter(IpAddr),
}

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Somebody names hosts.
    Heard(Source, Vec<PeerUri>),
    /// A host was looked at: where it is if it is who it says it is.
    Looked(PeerUri, Option<IpAddr>),
    /// A peer was asked and didn't answer.
    Silent(PeerUri),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ask it who it is.
    Look(PeerUri),
    /// Remember it over restarts.
    Keep(PeerUri),
    /// Don't.
    Forget(PeerUri),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Candidate,
    /// Where it was last; not said of those from before the start until they are looked at.
    Known(Option<IpAddr>),
}

#[derive(Debug)]
struct Peer {
    standing: Standing,
    named_by_operator: bool,
    failures: u32,
    next_look: Timestamp,
    looking: bool,
}

/// Looks that were granted to strangers, since when.
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
    /// With the hosts that were known before. `own` is never one of them.
    pub(super) fn new(own: Option<PeerUri>, kept: Vec<PeerUri>, limits: Limits, now: Timestamp) -> Self {
        let rations = Rations::new(now);
        let mut set = Self { own, peers: BTreeMap::new(), refused: BTreeMap::new(), rations, limits };
        for peer in kept.into_iter().take(limits.known_max) {
            set.add(peer, Standing::Known(None), false, now);
        }
        set
    }

    /// What is to be done about `event`. `below` picks a number below another, at random.
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

    /// How many hosts are known.
    pub(super) fn count(&self) -> usize {
        self.known().count()
    }

    /// So many of the known hosts, at random.
    pub(super) fn sample(&self, count: usize, below: &mut dyn FnMut(u64) -> u64) -> Vec<PeerUri> {
        pick(self.known().map(|(uri, _)| uri).collect(), count, below)
    }

    /// So many of those to ask, at random: known, and in no doubt.
    pub(super) fn to_ask(&self, count: usize, below: &mut dyn FnMut(u64) -> u64) -> Vec<PeerUri> {
        pick(self.known().filter(|(_, peer)| peer.failures == 0).map(|(uri, _)| uri).collect(), count, below)
    }

    fn known(&self) -> impl Iterator<Item = (&PeerUri, &Peer)> {
        self.peers.iter().filter(|(_, peer)| matches!(peer.standing, Standing::Known(_)))
    }

    fn add(&mut self, uri: PeerUri, standing: Standing, named_by_operator: bool, next_look: Timestamp) {
        if self.own.as_ref() != Some(&uri) {
            self.peers.entry(uri).or_insert(Peer { standing, named_by_operator, failures: 0, next_look, looking: false });
        }
    }

    /// `known` are as many as there are: nobody becomes known by being heard of.
    fn hear(&mut self, source: &Source, uri: PeerUri, known: usize, now: Timestamp) {
        if *source == Source::Operator {
            match self.peers.get_mut(&uri) {
                Some(peer) => peer.named_by_operator = true,
                None => self.add(uri, Standing::Candidate, true, now),
            }
            return;
        }
        let refused = self.refused.get(&uri).is_some_and(|until| *until > now);
        let full = known >= self.limits.known_max || self.peers.len() - known >= self.limits.candidates_max;
        if !self.peers.contains_key(&uri) && self.own.as_ref() != Some(&uri) && !refused && !full && self.ration(source, now) {
            self.add(uri, Standing::Candidate, false, now);
        }
    }

    /// Grants a look, or doesn't.
    fn ration(&mut self, source: &Source, now: Timestamp) -> bool {
        let (rations, limits) = (&mut self.rations, &self.limits);
        if rations.since.duration_until(now).unsigned_abs() >= RATION_TIME {
            *rations = Rations::new(now);
        }
        // When all is taken nobody is remembered anew: there are no more entries than looks.
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

    /// It is who it says it is.
    fn showed(&mut self, uri: &PeerUri, address: IpAddr, now: Timestamp, below: &mut dyn FnMut(u64) -> u64) -> Vec<Effect> {
        let full = self.count() >= self.limits.known_max;
        let neighbours = self.known().filter(|(other, peer)| *other != uri && peer.standing == Standing::Known(Some(address))).count();
        let limits = self.limits;
        let Some(peer) = self.peers.get_mut(uri) else { return Vec::new() };
        let is_new = peer.standing == Standing::Candidate;
        if (is_new && full) || (neighbours >= limits.at_one_address_max && !peer.named_by_operator) {
            return self.failed_for_good(uri, now);
        }
        // A little earlier or later each time, so that hosts that were met together don't stay together.
        let quarter = u64::try_from(limits.look_every.as_millis() / 4).unwrap_or(u64::MAX);
        let wait = limits.look_every.saturating_sub(Duration::from_millis(below(quarter.max(1))));
        *peer = Peer { standing: Standing::Known(Some(address)), failures: 0, next_look: after(now, wait), looking: false, ..*peer };
        if is_new { vec![Effect::Keep(uri.clone())] } else { Vec::new() }
    }

    /// It isn't, or doesn't answer.
    fn failed(&mut self, uri: &PeerUri, now: Timestamp) -> Vec<Effect> {
        let limits = self.limits;
        let Some(peer) = self.peers.get_mut(uri) else { return Vec::new() };
        peer.looking = false;
        peer.failures = peer.failures.saturating_add(1);
        let doublings = 1_u32.checked_shl(peer.failures - 1).unwrap_or(u32::MAX);
        let wait = limits.retry_after.saturating_mul(doublings).min(OPERATORS_RETRY_MAX);
        peer.next_look = after(now, wait);
        let given_up = peer.standing == Standing::Candidate || peer.failures >= limits.failures_max;
        if given_up { self.failed_for_good(uri, now) } else { Vec::new() }
    }

    /// It is no peer (any more). One the operator named stays a candidate.
    fn failed_for_good(&mut self, uri: &PeerUri, now: Timestamp) -> Vec<Effect> {
        let Some(peer) = self.peers.get_mut(uri) else { return Vec::new() };
        let was_known = peer.standing != Standing::Candidate;
        if peer.named_by_operator {
            (peer.standing, peer.looking) = (Standing::Candidate, false);
            peer.next_look = peer.next_look.max(after(now, self.limits.retry_after));
        } else {
            self.peers.remove(uri);
            // There are no more of them than looks in that time: all of those are rationed, or were at known hosts.
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

/// The first `count` of a shuffle.
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
