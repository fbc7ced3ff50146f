//! Chooses the next pod's address. After a restart hyperd assigns addresses that are still in use, and it never frees any; so we give pods
//! their addresses.
//!
//! Nothing is stored: an address is taken if a pod that hyperd holds has it, if a neighbour at the bridge has it, or if a start under way
//! has reserved it.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use tokio::task;

use super::{Inner, error::HyperdError, inventory, unavailable};
use crate::{
    PodId, RuntimeError,
    network::{Enforcer, PolicyError, Pool, Seated},
};

/// Addresses reserved by starts under way, and the number available.
#[derive(Debug)]
pub(super) struct Addresses {
    state: Mutex<State>,
    /// Number of addresses for pods of this host, as of the last survey.
    for_pods: AtomicU64,
    /// Held from the check of the addresses in use until one is reserved, and while a reservation ends.
    choosing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    reserved: HashSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { state: Mutex::default(), for_pods: AtomicU64::new(u64::MAX), choosing: tokio::sync::Mutex::default() }
    }
}

impl Addresses {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many pods of this host can have an address.
    pub(super) fn for_pods(&self) -> u64 {
        self.for_pods.load(Ordering::Relaxed)
    }

    /// Counts the addresses of the pool that are ours or free. `held` are those of all pods, `ours` those of this host's.
    pub(super) fn count(&self, pool: Pool, held: &HashSet<Ipv4Addr>, ours: &HashSet<Ipv4Addr>, seated: &Seated) {
        let state = self.state();
        let is_anothers = |address: &Ipv4Addr| {
            (held.contains(address) || seated.taken.contains(address)) && !ours.contains(address) && !state.reserved.contains(address)
        };
        let count = pool.addresses().filter(|address| !is_anothers(address)).count();
        self.for_pods.store(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn reserve(&self, pool: Pool, mut taken: HashSet<Ipv4Addr>, seated: &Seated) -> Option<Ipv4Addr> {
        let mut state = self.state();
        taken.extend(state.reserved.iter().chain(&seated.taken));
        let chosen = pool.choose(state.last, &taken, &seated.doubtful)?;
        state.reserved.insert(chosen);
        state.last = Some(chosen);
        Some(chosen)
    }
}

/// The interface of a pod, as `/pod/create` takes it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct NewInterface {
    pub(super) ifname: String,
    bridge: String,
    ip: String,
    gateway: String,
    mac: String,
}

/// An interface for one start, reserved until this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    addresses: Arc<Addresses>,
    address: Ipv4Addr,
    pub(super) interface: NewInterface,
}

impl Lease {
    /// Ends the reservation: from now on a survey finds the pod, or nothing of it.
    pub(super) async fn end(self) {
        let addresses = Arc::clone(&self.addresses);
        let _choosing = addresses.choosing.lock().await;
        drop(self);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.addresses.state().reserved.remove(&self.address);
    }
}

/// The pods' bridge: its name, its addresses and its neighbours.
type Bridge = (String, Pool, Seated);

impl Inner {
    /// An interface for a new pod; none if the operator manages the pods' network.
    pub(super) async fn lease(&self) -> Result<Option<Lease>, RuntimeError> {
        let Some(guard) = self.guard.clone() else { return Ok(None) };
        let _choosing = self.addresses.choosing.lock().await;
        let held = inventory::held(self).await.map_err(|error| unavailable("asking hyperd for addresses in use", error))?;
        let taken = held.iter().filter_map(|holder| holder.address).filter_map(v4).collect();
        let (bridge, pool, seated) = look(guard).await?;
        let address = self.addresses.reserve(pool, taken, &seated).ok_or_else(|| no_room(pool))?;
        let interface = NewInterface {
            ifname: pool.port(address),
            bridge,
            ip: format!("{address}/{}", pool.subnet.prefix),
            gateway: pool.gateway.to_string(),
            mac: pool.mac(address).to_string(),
        };
        Ok(Some(Lease { addresses: Arc::clone(&self.addresses), address, interface }))
    }

    /// Whether no other pod has the address of this one.
    pub(super) async fn is_alone(&self, id: &PodId, address: IpAddr) -> Result<bool, HyperdError> {
        let held = inventory::held(self).await?;
        Ok(!held.iter().any(|holder| holder.id != id.as_str() && holder.address == Some(address)))
    }
}

/// Reads the state of the pods' bridge; an error names what it lacks.
pub(super) async fn look(guard: Arc<Enforcer>) -> Result<Bridge, RuntimeError> {
    let looked = task::spawn_blocking(move || {
        let (name, pool) = guard.bridge()?;
        Ok::<_, PolicyError>((name.to_owned(), pool, guard.seated()?))
    });
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| RuntimeError::Unavailable {
        operation: "looking at the pods' bridge".to_owned(),
        source: Some(source),
    };
    looked.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
}

fn no_room(pool: Pool) -> RuntimeError {
    let cause = std::io::Error::other(format!("all addresses of pods in {} are in use (BridgeIP in /etc/hyper/config)", pool.subnet));
    RuntimeError::NoRoom { what: "all addresses are in use".to_owned(), source: Some(Box::new(cause)) }
}

/// The IPv4 address, if it is one.
pub(super) fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
