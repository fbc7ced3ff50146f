//! Other hosts: discovered by asking known ones, verified before they are trusted, and verified again about daily.
//!
//! | module | what is in it |
//! |---|---|
//! | `uri` | a host's name as given by a stranger, parsed into an origin (pure) |
//! | `set` | which hosts are known, and when each is verified (pure) |
//! | `address` | which addresses a stranger may make us connect to |
//! | `ask` | asking a host for its identity and its peers |

mod address;
mod ask;
mod set;
mod tables;
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
    db::{Database, DatabaseFailed},
};
use ask::Asker;
use set::{Effect, Event, Limits, PeerSet, Source};
pub(crate) use tables::{PeerChange, load};
pub use uri::{PeerUri, Reach};

/// Peers asked per round.
const ASKED_AT_ONCE: usize = 5;
/// Hosts sent to a peer we ask, besides our own: it verifies each one it doesn't know.
const TOLD_MAX: usize = 20;
/// Timeout of a request to a host, including DNS and connecting.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often the set is checked for hosts to verify.
const TICK: Duration = Duration::from_millis(200);

/// Intervals between requests to other hosts.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Minimum between two rounds of asking; the actual interval is random, up to twice that.
    pub ask_every: Duration,
    /// Approximate interval between two verifications of a host.
    pub look_every: Duration,
    /// From a failed verification to the next attempt; doubled each time.
    pub retry_after: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { ask_every: Duration::from_secs(5), look_every: Duration::from_secs(24 * 3600), retry_after: Duration::from_secs(60) }
    }
}

impl Rhythm {
    /// For a few hosts on one machine, watched by a developer.
    pub const DEVELOPMENT: Self =
        Self { ask_every: Duration::from_millis(500), look_every: Duration::from_secs(60), retry_after: Duration::from_millis(250) };
}

/// Settings of peer discovery.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Where visitors reach this host.
    pub public_uri: String,
    /// Hosts to start with.
    pub bootstrap: Vec<PeerUri>,
    /// Which hosts may be contacted.
    pub reach: Reach,
    /// Most hosts known at a time.
    pub known_max: usize,
    /// Intervals between requests.
    pub rhythm: Rhythm,
}

impl PeersConfig {
    fn limits(&self) -> Limits {
        let Rhythm { look_every, retry_after, .. } = self.rhythm;
        Limits {
            known_max: self.known_max,
            candidates_max: 200,
            // Hosts in development share one address.
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
    database: Database,
    clock: Arc<dyn Clock>,
}

/// The known hosts; cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Inner>);

impl Peers {
    /// Starts with the hosts stored in the database and those of the settings.
    pub fn new(config: PeersConfig, kept: &[String], database: Database, clock: Arc<dyn Clock>) -> reqwest::Result<Self> {
        let reach = config.reach;
        let own = PeerUri::parse(&config.public_uri, reach);
        if own.is_none() && !config.bootstrap.is_empty() {
            tracing::warn!(
                uri = config.public_uri,
                "peers do not learn of this host: its URI is no https:// origin (public_uri, CODIUS_PUBLIC_URI)"
            );
        }
        let kept = kept.iter().filter_map(|kept| PeerUri::parse(kept, reach)).collect();
        let now = clock.now();
        let mut set = PeerSet::new(own.clone(), kept, config.limits(), now);
        if config.known_max > 0 {
            set.step(Event::Heard(Source::Operator, config.bootstrap), now, &mut below);
        }
        let asker = Asker::new(reach, ANSWER_WITHIN)?;
        let set = StateLock::new("peers", database.supervisor(), set);
        Ok(Self(Arc::new(Inner { set, asker, own, reach, rhythm: config.rhythm, database, clock })))
    }

    /// Discovers and verifies hosts until the database fails; run it in a task of its own.
    pub async fn run(&self) {
        tokio::select! {
            _ = self.look_at_all() => {}
            _ = self.ask_around() => {}
        }
    }

    /// Number of known hosts.
    pub fn count(&self) -> usize {
        self.0.set().count()
    }

    /// A random sample of the known hosts.
    pub fn sample(&self, count: usize) -> Vec<PeerUri> {
        self.0.set().sample(count, &mut below)
    }

    /// Records hosts named by `submitter`. They are verified later; hosts beyond the submitter's ration are dropped.
    pub fn submit<'a>(&self, submitter: Option<IpAddr>, names: impl Iterator<Item = &'a str>) {
        let peers = names.filter_map(|name| PeerUri::parse(name, self.0.reach)).collect();
        let source = Source::Submitter(submitter.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), network_of));
        let now = self.0.clock.now();
        self.0.set().step(Event::Heard(source, peers), now, &mut below);
    }

    async fn look_at_all(&self) -> Result<(), DatabaseFailed> {
        let mut ticks = time::interval(TICK);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        // Bounded by the set; dropping it aborts the verifications.
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

    async fn ask_around(&self) -> Result<(), DatabaseFailed> {
        loop {
            let jitter = below(u64::try_from(self.0.rhythm.ask_every.as_millis()).unwrap_or(u64::MAX).max(1));
            time::sleep(self.0.rhythm.ask_every + Duration::from_millis(jitter)).await;
            let asked = self.0.set().to_ask(ASKED_AT_ONCE, &mut below);
            // Answers are handled as they arrive, so a slow peer doesn't delay the others.
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

    /// Applies an event to the set, and queues the changes that must be stored.
    async fn step(&self, event: Event) -> Result<Vec<Effect>, DatabaseFailed> {
        let permit = self.database.reserve().await?;
        let now = self.clock.now();
        let mut set = self.set();
        let effects = set.step(event, now, &mut below);
        let writes: Vec<PeerChange> = effects.iter().filter_map(write_of).collect();
        if !writes.is_empty() {
            // Queued in the set's order, without waiting for durability: a lost peer is discovered again.
            drop(permit.send(writes));
        }
        Ok(effects)
    }

    /// A panic caused by a stranger's answer counts as a failed verification; otherwise repeated panics would end verification for good.
    async fn look(&self, peer: PeerUri) -> Event {
        match isolated(self.asker.look(&peer)).await {
            Ok(Ok(address)) => return Event::Looked(peer, Some(network_of(address))),
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "peer check failed: host does not answer or does not confirm its URI");
            }
            Err(panicked) => tracing::error!(%peer, error = %panicked, "peer check panicked"),
        }
        Event::Looked(peer, None)
    }

    async fn ask(&self, peer: PeerUri) -> Event {
        let mut ours: Vec<PeerUri> = self.own.iter().cloned().collect();
        ours.extend(self.set().sample(TOLD_MAX, &mut below));
        ours.retain(|told| *told != peer);
        match isolated(self.asker.exchange(&peer, &ours)).await {
            Ok(Ok(theirs)) => return Event::Heard(Source::Peer(peer), theirs),
            Ok(Err(error)) => tracing::debug!(%peer, error = &error as &dyn std::error::Error, "peer query failed"),
            Err(panicked) => tracing::error!(%peer, error = %panicked, "peer query panicked"),
        }
        Event::Silent(peer)
    }
}

fn write_of(effect: &Effect) -> Option<PeerChange> {
    match effect {
        Effect::Forget(peer) => Some(PeerChange::Remove(peer.to_string())),
        Effect::Keep(peer) => Some(PeerChange::Add(peer.to_string())),
        Effect::Look(_) => None,
    }
}

/// Identifies a stranger: an IPv4 address, or the IPv6 /64 network that one customer gets.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

/// A random number below `limit`.
fn below(limit: u64) -> u64 {
    if limit == 0 { 0 } else { rand::random_range(0..limit) }
}
