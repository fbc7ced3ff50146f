//! Who has which part of the machine: pods that are in the table, and payments that hold a place for theirs.
//!
//! The table of pods and the book of payments are behind locks of their own. Whether one more pod fits depends on both, so it is decided
//! here, in one step under a third lock: a place that is given is taken for everybody from that moment on. The order of the locks is
//! table, book, ledger; none is held across an await.

#[cfg(test)]
use std::collections::HashSet;
use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use codiusd_runtime::{Machine, PodId};
use jiff::Timestamp;

use crate::pods::{Capacity, Resource, Room, Shares};

/// The place of a pod that is being paid for.
#[derive(Debug)]
struct Hold {
    pod: PodId,
    machine: Machine,
    until: Timestamp,
}

#[derive(Debug)]
struct Places {
    /// What pods of the table have, beyond what the machine itself counts as taken.
    pods: HashMap<PodId, Machine>,
    /// By the segments of the payments.
    holds: HashMap<String, Hold>,
    /// Memory of all pods the runtime has, as of the last look.
    found: HashMap<PodId, u64>,
    /// Memory the runtime holds for others than Codius hosts, as of the last look.
    foreign_bytes: u64,
    /// Pods the runtime has addresses for, as of the last look.
    addresses: u64,
    /// Disk that pods may still take, as of the last measurement.
    disk_bytes: u64,
    /// Measurements that have begun, and the one that counts.
    measurements: u64,
    measured: u64,
}

/// Gives out places on the machine.
#[derive(Debug)]
pub struct CapacityLedger {
    capacity: Capacity,
    places: Mutex<Places>,
}

impl Places {
    fn room(&self, capacity: &Capacity, except: Option<&PodId>, now: Timestamp) -> Room {
        let is_other = |pod: &PodId| Some(pod) != except;
        // Two payments for one pod, or a payment for a pod that has its place, are for one place.
        let mut held: HashMap<&PodId, &Machine> =
            self.holds.values().filter(|hold| hold.until > now).map(|hold| (&hold.pod, &hold.machine)).collect();
        held.extend(&self.pods);
        let uncounted = self.found.iter().filter(|(pod, _)| !self.pods.contains_key(*pod) && is_other(pod));
        let others = uncounted.filter(|(_, bytes)| **bytes > 0).fold(
            Shares { memory_bytes: self.foreign_bytes, ..Shares::default() },
            |sum, (_, bytes)| Shares { memory_bytes: sum.memory_bytes.saturating_add(*bytes), addresses: sum.addresses + 1, ..sum },
        );
        let held = held.into_iter().filter(|(pod, _)| is_other(pod)).fold(others, |sum, (_, machine)| sum.and(machine));
        let Capacity { memory_bytes, vcpus, .. } = *capacity;
        Room { max: Shares { memory_bytes, vcpus, disk_bytes: self.disk_bytes, addresses: self.addresses }, held }
    }

    /// Whether there is a place for the pod, be it its own.
    fn fits(&self, capacity: &Capacity, pod: &PodId, machine: &Machine, now: Timestamp) -> Result<(), Resource> {
        if self.pods.contains_key(pod) || self.holds.values().any(|hold| hold.pod == *pod && hold.until > now) {
            return Ok(());
        }
        self.room(capacity, Some(pod), now).short_of(machine).map_or(Ok(()), Err)
    }
}

impl CapacityLedger {
    /// A ledger of what nobody has yet. Nothing fits on a disk that hasn't been measured.
    pub fn new(capacity: Capacity) -> Self {
        let disk_bytes = if capacity.disk.is_some() { 0 } else { u64::MAX };
        let places = Mutex::new(Places {
            pods: HashMap::new(),
            holds: HashMap::new(),
            found: HashMap::new(),
            foreign_bytes: 0,
            addresses: u64::MAX,
            disk_bytes,
            measurements: 0,
            measured: 0,
        });
        Self { capacity, places }
    }

    /// What there is, and what is held of it.
    pub(crate) fn room(&self, now: Timestamp) -> Room {
        self.places().room(&self.capacity, None, now)
    }

    /// Whether the pod has its place, or would get one now; what is short if not.
    pub(crate) fn fits(&self, pod: &PodId, machine: &Machine, now: Timestamp) -> Result<(), Resource> {
        self.places().fits(&self.capacity, pod, machine, now)
    }

    /// Holds a place for the pod that the payment at `segment` is for, if there is one; what is short if not.
    pub(crate) fn hold(&self, segment: &str, pod: &PodId, machine: Machine, until: Timestamp, now: Timestamp) -> Result<(), Resource> {
        let mut places = self.places();
        places.holds.retain(|_, hold| hold.until > now);
        places.fits(&self.capacity, pod, &machine, now)?;
        places.holds.insert(segment.to_owned(), Hold { pod: pod.clone(), machine, until });
        Ok(())
    }

    /// The payment holds nothing any more.
    pub(crate) fn let_go(&self, segment: &str) {
        self.places().holds.remove(segment);
    }

    /// Gives the pod its place, if there is one; what is short if not.
    pub(crate) fn claim(&self, pod: &PodId, machine: Machine, now: Timestamp) -> Result<(), Resource> {
        let mut places = self.places();
        places.fits(&self.capacity, pod, &machine, now)?;
        places.pods.insert(pod.clone(), machine);
        Ok(())
    }

    /// What the pod has from now on, whether it fits or not: it is there.
    pub(crate) fn set(&self, pod: &PodId, machine: Option<Machine>) {
        let mut places = self.places();
        match machine {
            Some(machine) => drop(places.pods.insert(pod.clone(), machine)),
            None => drop(places.pods.remove(pod)),
        }
    }

    /// The runtime has nothing of the pod any more.
    pub(crate) fn cleared(&self, pod: &PodId) {
        self.places().found.remove(pod);
    }

    /// What the runtime has: pods with their memory, memory for others, and addresses for pods.
    pub(crate) fn looked(&self, found: HashMap<PodId, u64>, foreign_bytes: u64, addresses: u64) {
        let mut places = self.places();
        (places.found, places.foreign_bytes, places.addresses) = (found, foreign_bytes, addresses);
    }

    /// Looks how much disk there is; blocks. What can't be said stays what it was, and of two that look at once the later one counts.
    pub(crate) fn measure_disk(&self) -> io::Result<()> {
        let Some(disk) = &self.capacity.disk else { return Ok(()) };
        let number = {
            let mut places = self.places();
            places.measurements += 1;
            places.measurements
        };
        let bytes = disk.measure()?;
        let mut places = self.places();
        if number > places.measured {
            (places.measured, places.disk_bytes) = (number, bytes);
        }
        Ok(())
    }

    /// The pods for which payments hold a place.
    #[cfg(test)]
    pub(crate) fn holding(&self, now: Timestamp) -> HashSet<PodId> {
        self.places().holds.values().filter(|hold| hold.until > now).map(|hold| hold.pod.clone()).collect()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
