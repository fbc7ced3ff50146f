//! A policy in force, and kept so: another program may flush all tables of this machine, as `nft flush ruleset` does.
//!
//! A thread of its own asks the kernel for the number of the last change, which costs a system call or two, and looks at the
//! table only if that has changed. Whatever is found wrong is put right, counted, and said.

use std::{
    fs::{self, File},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use codiusd_supervisor::{Running, Supervisor};
use prometheus::IntCounter;

use super::{
    bridge,
    error::PolicyError,
    kernel::{self, Part},
    policy::{Links, Policy},
    table::Table,
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// A policy that is in force until this is dropped, and longer: dropping it only ends the looking after it.
#[derive(Debug)]
pub struct Guard {
    state: Arc<State>,
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
    /// Of the bridge.
    _claim: Option<File>,
}

#[derive(Debug)]
struct State {
    table: Table,
    links: Links,
    wanted: Vec<Part>,
    in_force: AtomicBool,
    restored: IntCounter,
}

impl Guard {
    /// [Puts](Guard::supervised) the policy in force for a process that nobody supervises.
    pub fn install(policy: &Policy, restored: IntCounter) -> Result<Self, PolicyError> {
        Self::supervised(policy, restored, &Supervisor::default())
    }

    /// Puts the policy in force, in one transaction, and looks after it. Blocks.
    pub fn supervised(policy: &Policy, restored: IntCounter, supervisor: &Supervisor) -> Result<Self, PolicyError> {
        let claim = claim(&policy.links)?;
        let table = Table::from(policy);
        let failed = |source| PolicyError::Install { table: policy.table.clone(), source };
        kernel::install(&table).map_err(failed)?;
        let wanted = kernel::read(&table.name).map_err(failed)?;
        let expected = kernel::reference(&table).map_err(|source| PolicyError::Unverified { table: policy.table.clone(), source })?;
        let differences = kernel::differences(&expected, &wanted);
        if !differences.is_empty() {
            return Err(PolicyError::Changed { table: policy.table.clone(), differences });
        }
        if let Links::Prefix(_) = policy.links {
            fs::write(IP_FORWARD, "1").map_err(|source| PolicyError::Setting { setting: IP_FORWARD, source })?;
        }
        let state = State { table, links: policy.links.clone(), wanted, in_force: AtomicBool::new(true), restored };
        state.separate()?;
        let state = Arc::new(state);
        let (stop, stopped) = channel();
        let looking = Arc::clone(&state);
        let look_after = move |running: &Running| looking.look_after(&stopped, running);
        let thread = supervisor.thread("network guard", look_after).map_err(failed)?;
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
        match &self.state.links {
            Links::Bridge(name) if bridge::look(name)?.ports == 0 => self.remove(),
            Links::Bridge(_) | Links::Prefix(_) => Ok(()),
        }
    }

    /// Removes the policy: fine as long as no pods run.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.stop();
        kernel::remove(&self.state.table.name)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop();
    }
}

fn claim(links: &Links) -> Result<Option<File>, PolicyError> {
    let Links::Bridge(bridge) = links else { return Ok(None) };
    let failed = |source| PolicyError::Bridge { bridge: bridge.clone(), source };
    bridge::claim(bridge).map_err(failed)?.map(Some).ok_or_else(|| PolicyError::BridgeInUse { bridge: bridge.clone() })
}

impl State {
    fn look_after(&self, stopped: &Receiver<()>, running: &Running) {
        let mut seen = None;
        while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            running.fault_point();
            let table = self.look(&mut seen).map_err(|source| PolicyError::Install { table: self.table.name.clone(), source });
            let looked = table.and_then(|()| self.separate());
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

    /// Puts the table back if it isn't as it was. `seen` is the last change that was looked at.
    fn look(&self, seen: &mut Option<Vec<u8>>) -> io::Result<()> {
        let generation = kernel::generation()?;
        if seen.as_ref() == Some(&generation) {
            return Ok(());
        }
        let differences = kernel::differences(&self.wanted, &kernel::read(&self.table.name)?);
        if !differences.is_empty() {
            kernel::install(&self.table)?;
            self.restored.inc();
            tracing::error!(table = self.table.name, ?differences, "another program has changed the pods' network policy; it was put back");
        }
        *seen = Some(generation);
        Ok(())
    }

    fn separate(&self) -> Result<(), PolicyError> {
        let Links::Bridge(name) = &self.links else { return Ok(()) };
        bridge::separate(name).map(drop).map_err(|source| PolicyError::Bridge { bridge: name.clone(), source })
    }
}
