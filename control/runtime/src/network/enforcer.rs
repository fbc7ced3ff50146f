//! Installs a policy and keeps it in force: another program may flush all tables of this machine, as `nft flush ruleset` does.
//!
//! A thread of its own reads the number of the last change from the kernel, which costs a system call or two, and reads the table only if
//! the number has changed. Every deviation is repaired, counted, and logged.

use std::{
    collections::HashSet,
    fs, io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use codiusd_supervisor::{Running, Supervisor};
use prometheus::IntCounter;

use super::{
    addresses::Pool,
    bridge::{self, Claim},
    error::PolicyError,
    kernel::{self, Part, Rules, TableId},
    neighbours,
    policy::{Links, Policy},
    sources::Sources,
    table::Table,
};

/// How often a difference is confirmed before a table counts as changed, and the interval between.
const LOOKS: usize = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Interval between two checks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// A policy in force until this is dropped, and longer: dropping it only ends the supervision.
#[derive(Debug)]
pub struct Enforcer {
    state: Arc<State>,
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
    /// The claim to the bridge.
    _claim: Option<Claim>,
}

#[derive(Debug)]
struct State {
    policy: Policy,
    held: Mutex<Held>,
    in_force: AtomicBool,
    restored: IntCounter,
}

/// The state the kernel is kept in.
#[derive(Debug, Default)]
struct Held {
    /// The current bridge's; none if pods can't be on any.
    pool: Option<Pool>,
    policy: Option<Verified<Table>>,
    sources: Option<Verified<Sources>>,
    /// The number of the last change that was checked.
    seen: Option<Vec<u8>>,
}

/// A table that was verified when it was installed, and how the kernel listed it then.
#[derive(Debug)]
struct Verified<R> {
    rules: R,
    wanted: Vec<Part>,
}

impl<R: Rules> Verified<R> {
    fn install(rules: R) -> Result<Self, PolicyError> {
        let table = rules.id().to_string();
        let failed = |source| PolicyError::Install { table: table.clone(), source };
        kernel::install(&rules).map_err(failed)?;
        let mut wanted = Vec::new();
        let differences = lasting(|| {
            wanted = kernel::read(&rules.id()).map_err(failed)?;
            let expected = kernel::reference(&rules).map_err(|source| PolicyError::Unverified { table: table.clone(), source })?;
            Ok(kernel::differences(&expected, &wanted))
        })?;
        if differences.is_empty() { Ok(Self { rules, wanted }) } else { Err(PolicyError::Changed { table, differences }) }
    }

    /// Restores the table if it has changed; returns whether that was necessary.
    fn look(&self) -> Result<bool, PolicyError> {
        let id = self.rules.id();
        let failed = |source| PolicyError::Install { table: id.to_string(), source };
        let differences = lasting(|| Ok(kernel::differences(&self.wanted, &kernel::read(&id).map_err(failed)?)))?;
        if differences.is_empty() {
            return Ok(false);
        }
        kernel::install(&self.rules).map_err(failed)?;
        tracing::error!(table = %id, ?differences, "network policy was changed by another program; restored");
        Ok(true)
    }
}

/// The differences that persist on repeated reads: right after a set was filled, the kernel sometimes lists its elements incorrectly,
/// though no table changed.
fn lasting(mut look: impl FnMut() -> Result<Vec<String>, PolicyError>) -> Result<Vec<String>, PolicyError> {
    let mut differences = look()?;
    for _ in 1..LOOKS {
        if differences.is_empty() {
            break;
        }
        thread::sleep(LOOK_AGAIN);
        differences = look()?;
    }
    Ok(differences)
}

/// The bridge's neighbours, as the kernel knows them.
#[derive(Debug, Default)]
pub(crate) struct Seated {
    /// Names of its ports.
    pub(crate) ports: HashSet<String>,
    /// Addresses in use.
    pub(crate) taken: HashSet<Ipv4Addr>,
    /// Addresses whose holders haven't been heard of for a while.
    pub(crate) doubtful: HashSet<Ipv4Addr>,
}

impl Enforcer {
    /// [Installs](Enforcer::supervised) the policy for a process without a supervisor.
    pub fn install(policy: &Policy, restored: IntCounter) -> Result<Self, PolicyError> {
        Self::supervised(policy, restored, &Supervisor::default())
    }

    /// Installs the policy in one transaction, and starts to supervise it. Blocks.
    pub fn supervised(policy: &Policy, restored: IntCounter, supervisor: &Supervisor) -> Result<Self, PolicyError> {
        let claim = claim(&policy.links)?;
        let state = State { policy: policy.clone(), held: Mutex::default(), in_force: AtomicBool::new(true), restored };
        state.held().policy = Some(Verified::install(Table::from(policy))?);
        fs::write(IP_FORWARD, "1").map_err(|source| PolicyError::Setting { setting: IP_FORWARD, source })?;
        state.separate()?;
        let state = Arc::new(state);
        let (stop, stopped) = channel();
        let looking = Arc::clone(&state);
        let look_after = move |running: &Running| looking.look_after(&stopped, running);
        let thread = supervisor.thread("network guard", look_after);
        let thread = thread.map_err(|source| PolicyError::Install { table: state.policy_id().to_string(), source })?;
        Ok(Self { state, thread: Mutex::new(Some((stop, thread))), _claim: claim })
    }

    /// Whether it is supervised, and was in force at the last check or could be restored.
    pub fn in_force(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let looked_after = thread.as_ref().is_some_and(|(_, thread)| !thread.is_finished());
        looked_after && self.state.in_force()
    }

    /// Isolates the ports of the pods' bridge immediately: there may be a new one. Blocks.
    pub(crate) fn separate(&self) -> Result<(), PolicyError> {
        self.state.separate()
    }

    /// The bridge and the current addresses of its pods. Blocks briefly.
    pub(crate) fn bridge(&self) -> Result<(&str, Pool), PolicyError> {
        let Links::Bridge(name) = &self.state.policy.links else { return Err(no_bridge()) };
        let pool = bridge::pool(name)?;
        if self.state.held().pool != Some(pool) {
            self.state.separate()?;
        }
        Ok((name, pool))
    }

    /// The bridge's neighbours. Blocks briefly.
    pub(crate) fn seated(&self) -> Result<Seated, PolicyError> {
        let (name, pool) = self.bridge()?;
        let failed = |source| PolicyError::Bridge { bridge: name.to_owned(), source };
        let ports = bridge::port_names(name).map_err(failed)?;
        let mut seated = Seated { taken: ports.iter().filter_map(|port| pool.address_of(port)).collect(), ..Seated::default() };
        for known in neighbours::known(name).map_err(failed)?.into_iter().filter(|known| !neighbours::is_ours(pool, known)) {
            if known.is_stale() {
                seated.doubtful.insert(known.address)
            } else {
                seated.taken.insert(known.address)
            };
        }
        seated.ports = ports.into_iter().collect();
        Ok(seated)
    }

    /// Whether a link exists, but not at the pods' bridge. Blocks briefly.
    pub(crate) fn is_elsewhere(&self, link: &str, seated: &Seated) -> bool {
        !seated.ports.contains(link) && bridge::is_link(link)
    }

    /// Ends the supervision. The policy stays.
    pub(crate) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = thread {
            drop(stop);
            let _ = thread.join();
        }
    }

    /// Removes the policy if the pods' bridge has no ports; with links of other kinds it stays, because only their creator knows whether
    /// they are used.
    pub(crate) fn remove_unless_used(&self) -> io::Result<()> {
        match &self.state.policy.links {
            Links::Bridge(name) if bridge::look(name)?.ports == 0 => self.remove(),
            Links::Bridge(_) | Links::Prefix(_) => Ok(()),
        }
    }

    /// Removes the policy: safe as long as no pods run.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.stop();
        remove(&self.state.policy)
    }
}

/// Removes a policy, no matter which process installed it; succeeds if there is none. A bridge keeps its hardware address, which nothing
/// else assigns.
pub(super) fn remove(policy: &Policy) -> io::Result<()> {
    kernel::remove(&policy_id(policy))?;
    let Links::Bridge(name) = &policy.links else { return Ok(()) };
    kernel::remove(&sources_id(policy))?;
    bridge::pool(name).map_or(Ok(()), |pool| neighbours::unsettle(name, pool))
}

pub(super) fn policy_id(policy: &Policy) -> TableId {
    TableId { family: kernel::FAMILY_INET, name: policy.table.clone() }
}

pub(super) fn sources_id(policy: &Policy) -> TableId {
    TableId { family: kernel::FAMILY_BRIDGE, name: policy.table.clone() }
}

fn no_bridge() -> PolicyError {
    PolicyError::NoBridge { bridge: "none".to_owned(), why: "isn't named" }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn claim(links: &Links) -> Result<Option<Claim>, PolicyError> {
    let Links::Bridge(bridge) = links else { return Ok(None) };
    let failed = |source| PolicyError::Bridge { bridge: bridge.clone(), source };
    bridge::claim(bridge).map_err(failed)?.map(Some).ok_or_else(|| PolicyError::BridgeInUse { bridge: bridge.clone() })
}

impl State {
    fn look_after(&self, stopped: &Receiver<()>, running: &Running) {
        while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            running.fault_point();
            let looked = self.look().and_then(|()| self.separate());
            if let Err(error) = &looked
                && self.in_force()
            {
                tracing::error!(error = error as &dyn std::error::Error, "network policy not in force; no pod is started until it is");
            }
            if looked.is_ok() && !self.in_force() {
                tracing::info!("network policy in force again");
            }
            self.in_force.store(looked.is_ok(), Ordering::Relaxed);
        }
    }

    fn in_force(&self) -> bool {
        self.in_force.load(Ordering::Relaxed)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn policy_id(&self) -> TableId {
        policy_id(&self.policy)
    }

    /// Restores tables that have changed.
    fn look(&self) -> Result<(), PolicyError> {
        let mut held = self.held();
        let generation = kernel::generation().map_err(|source| PolicyError::Install { table: self.policy_id().to_string(), source })?;
        if held.seen.as_ref() == Some(&generation) {
            return Ok(());
        }
        let policy = held.policy.as_ref().map_or(Ok(false), Verified::look)?;
        let sources = held.sources.as_ref().map_or(Ok(false), Verified::look)?;
        if policy || sources {
            self.restored.inc();
        }
        held.seen = Some(generation);
        Ok(())
    }

    fn separate(&self) -> Result<(), PolicyError> {
        let Links::Bridge(name) = &self.policy.links else { return Ok(()) };
        self.follow(name)?;
        bridge::separate(name).map_err(|source| PolicyError::Bridge { bridge: name.clone(), source })?;
        let Some(pool) = self.held().pool else { return Ok(()) };
        let apart = || {
            neighbours::pin_mac(name, pool)?;
            neighbours::settle(name, pool, &bridge::port_names(name)?)
        };
        apart().map_err(|source| PolicyError::Neighbours { bridge: name.clone(), source })
    }

    /// Follows the bridge's network, which may have appeared or changed. Without one the tables stay as they are.
    fn follow(&self, name: &str) -> Result<(), PolicyError> {
        let mut held = self.held();
        let pool = match bridge::pool(name) {
            Err(PolicyError::NoBridge { .. }) => None,
            pool => Some(pool?),
        };
        if let Some(pool) = pool.filter(|pool| held.sources.as_ref().is_none_or(|sources| sources.rules.pool != *pool)) {
            held.policy = Some(Verified::install(Table::from(&self.policy.at(pool.subnet)))?);
            held.sources = Some(Verified::install(Sources { name: self.policy.table.clone(), pool })?);
        }
        held.pool = pool;
        Ok(())
    }
}
