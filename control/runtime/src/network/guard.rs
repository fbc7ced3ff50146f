//! A policy in force, and kept so: another program may flush all tables of this machine, as `nft flush ruleset` does.
//!
//! A thread of its own asks the kernel for the number of the last change, which costs a system call or two, and looks at the
//! table only if that has changed. Whatever is found wrong is put right, counted, and said.

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

/// How often the kernel is asked before it is believed that a table has changed, and how long apart.
const LOOKS: usize = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// A policy that is in force until this is dropped, and longer: dropping it only ends the looking after it.
#[derive(Debug)]
pub struct Guard {
    state: Arc<State>,
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
    /// Of the bridge.
    _claim: Option<Claim>,
}

#[derive(Debug)]
struct State {
    policy: Policy,
    held: Mutex<Held>,
    in_force: AtomicBool,
    restored: IntCounter,
}

/// What the kernel is kept at.
#[derive(Debug, Default)]
struct Held {
    /// Of the bridge as it is now; none: there is none that pods could be on.
    pool: Option<Pool>,
    policy: Option<Verified<Table>>,
    sources: Option<Verified<Sources>>,
    /// The last change of any table that was looked at.
    seen: Option<Vec<u8>>,
}

/// A table that was as it should be when it was installed, and how the kernel told it then.
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

    /// Puts the table back if it isn't as it was; whether that was necessary.
    fn look(&self) -> Result<bool, PolicyError> {
        let id = self.rules.id();
        let failed = |source| PolicyError::Install { table: id.to_string(), source };
        let differences = lasting(|| Ok(kernel::differences(&self.wanted, &kernel::read(&id).map_err(failed)?)))?;
        if differences.is_empty() {
            return Ok(false);
        }
        kernel::install(&self.rules).map_err(failed)?;
        tracing::error!(table = %id, ?differences, "another program has changed the pods' network policy; it was put back");
        Ok(true)
    }
}

/// The differences that are still there when the kernel is asked again: right after a set was filled its elements have been seen listed
/// otherwise than they are, though no table changed.
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

/// Who is at the bridge, as the kernel knows it.
#[derive(Debug, Default)]
pub(crate) struct Seated {
    /// Names of its ports.
    pub(crate) ports: HashSet<String>,
    /// Addresses that somebody has.
    pub(crate) taken: HashSet<Ipv4Addr>,
    /// Addresses that somebody had, who wasn't heard of for a while.
    pub(crate) doubtful: HashSet<Ipv4Addr>,
}

impl Guard {
    /// [Puts](Guard::supervised) the policy in force for a process that nobody supervises.
    pub fn install(policy: &Policy, restored: IntCounter) -> Result<Self, PolicyError> {
        Self::supervised(policy, restored, &Supervisor::default())
    }

    /// Puts the policy in force, in one transaction, and looks after it. Blocks.
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

    /// Whether it is looked after, and was in force at the last look or could be put back.
    pub fn in_force(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let looked_after = thread.as_ref().is_some_and(|(_, thread)| !thread.is_finished());
        looked_after && self.state.in_force()
    }

    /// Keeps the ports of the pods' bridge apart, now: a new one may be there. Blocks.
    pub(crate) fn separate(&self) -> Result<(), PolicyError> {
        self.state.separate()
    }

    /// The bridge and the addresses of its pods, as of now. Blocks, for a moment.
    pub(crate) fn bridge(&self) -> Result<(&str, Pool), PolicyError> {
        let Links::Bridge(name) = &self.state.policy.links else { return Err(no_bridge()) };
        let pool = bridge::pool(name)?;
        if self.state.held().pool != Some(pool) {
            self.state.separate()?;
        }
        Ok((name, pool))
    }

    /// Who is at the bridge. Blocks, for a moment.
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

    /// Whether a link is there, and not at the pods' bridge. Blocks, for a moment.
    pub(crate) fn is_elsewhere(&self, link: &str, seated: &Seated) -> bool {
        !seated.ports.contains(link) && bridge::is_link(link)
    }

    /// Ends the looking after it. The policy stays.
    pub(crate) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = thread {
            drop(stop);
            let _ = thread.join();
        }
    }

    /// Removes the policy if nobody is on the pods' bridge; it stays with other links, which only who makes them knows.
    pub(crate) fn remove_unless_used(&self) -> io::Result<()> {
        match &self.state.policy.links {
            Links::Bridge(name) if bridge::look(name)?.ports == 0 => self.remove(),
            Links::Bridge(_) | Links::Prefix(_) => Ok(()),
        }
    }

    /// Removes the policy: fine as long as no pods run.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.stop();
        remove(&self.state.policy)
    }
}

/// Removes a policy, whoever has installed it; fine if nobody has. A bridge keeps its hardware address, which nobody else gives it.
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

impl Drop for Guard {
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
                tracing::error!(error = error as &dyn std::error::Error, "the pods' network policy isn't in force: no pods are started");
            }
            if looked.is_ok() && !self.in_force() {
                tracing::info!("the pods' network policy is in force again");
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

    /// Puts tables back that aren't as they were.
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

    /// Makes the tables those of the bridge's network, which may have come to be, or changed. Without one they stay as they are.
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
