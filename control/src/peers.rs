//! Other hosts: found by asking those we know, looked at before they are believed, and again about daily.
//!
//! | room | what is in it |
//! |---|---|
//! | `uri` | what a stranger calls a host, made into an origin (pure) |
//! | `set` | which hosts are known, and when each is looked at (pure) |
//! | `address` | where a stranger may make us connect to |
//! | `ask` | asking a host who it is, and whom it knows |

mod address;
mod ask;
mod set;
#[cfg(test)]
mod tests;
mod uri;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use codiusd_supervisor::{StateGuard, StateLock, isolated};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{task::JoinSet, time};

use crate::{
    clock::Clock,
    store::{Store, StoreFailed, Write},
};
use ask::Asker;
use set::{Effect, Event, Limits, PeerSet, Source};
pub use uri::{PeerUri, Reach};

/// Hosts that are asked in one round.
const ASKED_AT_ONCE: usize = 5;
/// Hosts a host that we ask is told of, beside ourselves: it looks at each it doesn't know.
const TOLD_MAX: usize = 20;
/// How long a host may take to answer, with finding its name and connecting.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often it is seen whether a host is to be looked at.
const TICK: Duration = Duration::from_millis(200);

/// How often others are asked and looked at.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// From one round of questions to the next; up to twice that, at random.
    pub ask_every: Duration,
    /// From one look at a host to the next, about.
    pub look_every: Duration,
    /// From a failed look at a host to the next; doubled with each.
    pub retry_after: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { ask_every: Duration::from_secs(5), look_every: Duration::from_secs(24 * 3600), retry_after: Duration::from_secs(60) }
    }
}

impl Rhythm {
    /// For a few hosts on one machine, and somebody who is watching them.
    pub const DEVELOPMENT: Self =
        Self { ask_every: Duration::from_millis(500), look_every: Duration::from_secs(60), retry_after: Duration::from_millis(250) };
}

/// What peers are found with.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Where visitors reach this host.
    pub public_uri: String,
    /// Hosts to begin with.
    pub bootstrap: Vec<PeerUri>,
    /// Which hosts may be spoken to.
    pub reach: Reach,
    /// Hosts that are known, at most.
    pub known_max: usize,
    /// How often others are asked and looked at.
    pub rhythm: Rhythm,
}

impl PeersConfig {
    fn limits(&self) -> Limits {
        let Rhythm { look_every, retry_after, .. } = self.rhythm;
        Limits {
            known_max: self.known_max,
            candidates_max: 200,
            // Hosts in development share one.
            at_one_address_max: if self.reach == Reach::Public { 8 } else { self.known_max },
            looks_at_once: 8,
            of_submitter_max: 4,
            of_submitters_max: 12,
            of_peer_max: 12,
            of_peers_max: 30,
            look_every,
            retry_after,
            failures_max: 4,
            refused_for: retry_after.saturating_mul(10),
        }
    }
}

#[derive(Debug)]
struct Inner {
    set: StateLock<PeerSet>,
    asker: Asker,
    own: Option<PeerUri>,
    reach: Reach,
    rhythm: Rhythm,
    store: Store,
    clock: Arc<dyn Clock>,
}

/// The hosts we know; cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Inner>);

impl Peers {
    /// Begins with the hosts that were known before, as the store has them, and those of the settings.
    pub fn new(config: PeersConfig, kept: &[String], store: Store, clock: Arc<dyn Clock>) -> reqwest::Result<Self> {
        let reach = config.reach;
        let own = PeerUri::parse(&config.public_uri, reach);
        if own.is_none() && !config.bootstrap.is_empty() {
            tracing::warn!(uri = config.public_uri, "other hosts can't be told of this one: it is no https:// origin (CODIUS_PUBLIC_URI)");
        }
        let kept = kept.iter().filter_map(|kept| PeerUri::parse(kept, reach)).collect();
        let now = clock.now();
        let mut set = PeerSet::new(own.clone(), kept, config.limits(), now);
        if config.known_max > 0 {
            set.step(Event::Heard(Source::Operator, config.bootstrap), now, &mut below);
        }
        let asker = Asker::new(reach, ANSWER_WITHIN)?;
        let set = StateLock::new("peers", store.supervisor(), set);
        Ok(Self(Arc::new(Inner { set, asker, own, reach, rhythm: config.rhythm, store, clock })))
    }

    /// Finds hosts and looks at them, until the store fails; run it in a task of its own.
    pub async fn run(&self) {
        tokio::select! {
            _ = self.look_at_all() => {}
            _ = self.ask_around() => {}
        }
    }

    /// How many hosts are known.
    pub fn count(&self) -> usize {
        self.0.set().count()
    }

    /// So many of the known hosts, at random.
    pub fn sample(&self, count: usize) -> Vec<PeerUri> {
        self.0.set().sample(count, &mut below)
    }

    /// Takes note of hosts that somebody at `submitter` names. Nothing is asked at once; what is over the submitter's ration is dropped.
    pub fn submit<'a>(&self, submitter: Option<IpAddr>, names: impl Iterator<Item = &'a str>) {
        let peers = names.filter_map(|name| PeerUri::parse(name, self.0.reach)).collect();
        let source = Source::Submitter(submitter.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), network_of));
        let now = self.0.clock.now();
        self.0.set().step(Event::Heard(source, peers), now, &mut below);
    }

    async fn look_at_all(&self) -> Result<(), StoreFailed> {
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        // Bounded by the set; ends with this.
        let mut looks = JoinSet::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    for effect in self.0.step(Event::Tick).await? {
                        if let Effect::Look(peer) = effect {
                            let inner = self.0.clone();
                            looks.spawn(async move { inner.look(peer).await });
                        }
                    }
                }
                Some(looked) = looks.join_next() => {
                    if let Ok(event) = looked {
                        self.0.step(event).await?;
                    }
                }
            }
        }
    }

    async fn ask_around(&self) -> Result<(), StoreFailed> {
        loop {
            let jitter = below(u64::try_from(self.0.rhythm.ask_every.as_millis()).unwrap_or(u64::MAX).max(1));
            time::sleep(self.0.rhythm.ask_every + Duration::from_millis(jitter)).await;
            let asked = self.0.set().to_ask(ASKED_AT_ONCE, &mut below);
            // One that is slow doesn't keep the others' answers.
            let mut answers: FuturesUnordered<_> = asked.into_iter().map(|peer| self.0.ask(peer)).collect();
            while let Some(event) = answers.next().await {
                self.0.step(event).await?;
            }
        }
    }
}

impl Inner {
    fn set(&self) -> StateGuard<'_, PeerSet> {
        self.set.lock()
    }

    /// One step of the set, and what of it has to survive.
    async fn step(&self, event: Event) -> Result<Vec<Effect>, StoreFailed> {
        let permit = self.store.reserve().await?;
        let now = self.clock.now();
        let mut set = self.set();
        let effects = set.step(event, now, &mut below);
        let writes: Vec<Write> = effects.iter().filter_map(write_of).collect();
        if !writes.is_empty() {
            // Sent in the set's order; nobody waits for it: a peer that is lost is found again.
            drop(permit.send(writes));
        }
        Ok(effects)
    }

    /// A panic on what a stranger answers is a failed look, or every so many of them would end the looks for good.
    async fn look(&self, peer: PeerUri) -> Event {
        match isolated(self.asker.look(&peer)).await {
            Ok(Ok(address)) => return Event::Looked(peer, Some(network_of(address))),
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "host isn't who it says it is, or doesn't answer");
            }
            Err(panicked) => tracing::error!(%peer, error = %panicked, "look at a host"),
        }
        Event::Looked(peer, None)
    }

    async fn ask(&self, peer: PeerUri) -> Event {
        let mut ours: Vec<PeerUri> = self.own.iter().cloned().collect();
        ours.extend(self.set().sample(TOLD_MAX, &mut below));
        ours.retain(|told| *told != peer);
        match isolated(self.asker.exchange(&peer, &ours)).await {
            Ok(Ok(theirs)) => return Event::Heard(Source::Peer(peer), theirs),
            Ok(Err(error)) => tracing::debug!(%peer, error = &error as &dyn std::error::Error, "peer can't say whom it knows"),
            Err(panicked) => tracing::error!(%peer, error = %panicked, "question to a peer"),
        }
        Event::Silent(peer)
    }
}

fn write_of(effect: &Effect) -> Option<Write> {
    match effect {
        Effect::Forget(peer) => Some(Write::ForgetPeer(peer.to_string())),
        Effect::Keep(peer) => Some(Write::Peer(peer.to_string())),
        Effect::Look(_) => None,
    }
}

/// Who is one stranger: an address, or a network of IPv6 as one customer has it.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

/// A number below `limit`, at random.
fn below(limit: u64) -> u64 {
    if limit == 0 { 0 } else { rand::random_range(0..limit) }
}
