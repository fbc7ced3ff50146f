//! Who holds which part of the machine: pods in the table, and payments that hold capacity for their pods.
//!
//! The table of pods and the invoices have locks of their own. Whether one more pod fits depends on both, so it is decided
//! here, in one step under a third lock: capacity given out here is taken at once for everyone else. Lock order:
//! table, invoices, ledger; none is held across an await.

#[cfg(test)]
use std::collections::HashSet;
use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use codiusd_runtime::{Machine, PodId};
use jiff::Timestamp;

use super::{Capacity, CapacityUsage, Resource, Resources};

/// Capacity held by a payment for its pod.
#[derive(Debug)]
struct Hold {
    pod: PodId,
    machine: Machine,
    until: Timestamp,
}

#[derive(Debug)]
struct Allocations {
    /// Capacity held by pods in the table, beyond what the machine itself counts as used.
    pods: HashMap<PodId, Machine>,
    /// Keyed by the payment's segment.
    holds: HashMap<String, Hold>,
    /// Memory of all pods in the runtime, as of the last poll.
    found: HashMap<PodId, u64>,
    /// Memory the runtime holds for anything but Codius hosts, as of the last poll.
    foreign_bytes: u64,
    /// Pods the runtime has addresses for, as of the last poll.
    addresses: u64,
    /// Disk space pods may still use, as of the last measurement.
    disk_bytes: u64,
    /// Number of the last measurement that began, and of the one in effect.
    measurements: u64,
    measured: u64,
}

/// Allocates the machine's capacity.
#[derive(Debug)]
pub struct CapacityLedger {
    capacity: Capacity,
    allocations: Mutex<Allocations>,
}

impl Allocations {
    fn room(&self, capacity: &Capacity, except: Option<&PodId>, now: Timestamp) -> CapacityUsage {
        let is_other = |pod: &PodId| Some(pod) != except;
        // Counted once per pod: several payments for one pod, or a payment for a pod in the table, share one allocation.
        let mut held: HashMap<&PodId, &Machine> =
            self.holds.values().filter(|hold| hold.until > now).map(|hold| (&hold.pod, &hold.machine)).collect();
        held.extend(&self.pods);
        let uncounted = self.found.iter().filter(|(pod, _)| !self.pods.contains_key(*pod) && is_other(pod));
        let others = uncounted.filter(|(_, bytes)| **bytes > 0).fold(
            Resources { memory_bytes: self.foreign_bytes, ..Resources::default() },
            |sum, (_, bytes)| Resources { memory_bytes: sum.memory_bytes.saturating_add(*bytes), addresses: sum.addresses + 1, ..sum },
        );
        let Capacity { memory_bytes, vcpus, pod_overhead, .. } = *capacity;
        let others_of_ours = held.into_iter().filter(|(pod, _)| is_other(pod));
        let held = others_of_ours.fold(others, |sum, (_, machine)| sum.and(machine, pod_overhead));
        let max = Resources { memory_bytes, vcpus, disk_bytes: self.disk_bytes, addresses: self.addresses };
        CapacityUsage { max, held, pod_overhead }
    }

    /// Whether the pod fits, or holds capacity already.
    fn fits(&self, capacity: &Capacity, pod: &PodId, machine: &Machine, now: Timestamp) -> Result<(), Resource> {
        if self.pods.contains_key(pod) || self.holds.values().any(|hold| hold.pod == *pod && hold.until > now) {
            return Ok(());
        }
        self.room(capacity, Some(pod), now).short_of(machine).map_or(Ok(()), Err)
    }
}

impl CapacityLedger {
    /// An empty ledger. Nothing fits until the disk has been measured.
    pub fn new(capacity: Capacity) -> Self {
        let disk_bytes = if capacity.disk.is_some() { 0 } else { u64::MAX };
        let allocations = Mutex::new(Allocations {
            pods: HashMap::new(),
            holds: HashMap::new(),
            found: HashMap::new(),
            foreign_bytes: 0,
            addresses: u64::MAX,
            disk_bytes,
            measurements: 0,
            measured: 0,
        });
        Self { capacity, allocations }
    }

    /// Total capacity, and how much of it is held.
    pub(crate) fn room(&self, now: Timestamp) -> CapacityUsage {
        self.allocations().room(&self.capacity, None, now)
    }

    /// Whether the pod holds capacity or would get some now; the error names the resource that is short.
    pub(crate) fn fits(&self, pod: &PodId, machine: &Machine, now: Timestamp) -> Result<(), Resource> {
        self.allocations().fits(&self.capacity, pod, machine, now)
    }

    /// Holds capacity for the pod that the payment at `segment` is for; the error names the resource that is short.
    pub(crate) fn hold(&self, segment: &str, pod: &PodId, machine: Machine, until: Timestamp, now: Timestamp) -> Result<(), Resource> {
        let mut allocations = self.allocations();
        allocations.holds.retain(|_, hold| hold.until > now);
        allocations.fits(&self.capacity, pod, &machine, now)?;
        allocations.holds.insert(segment.to_owned(), Hold { pod: pod.clone(), machine, until });
        Ok(())
    }

    /// Releases the payment's hold.
    pub(crate) fn let_go(&self, segment: &str) {
        self.allocations().holds.remove(segment);
    }

    /// Allocates capacity to the pod; the error names the resource that is short.
    pub(crate) fn claim(&self, pod: &PodId, machine: Machine, now: Timestamp) -> Result<(), Resource> {
        let mut allocations = self.allocations();
        allocations.fits(&self.capacity, pod, &machine, now)?;
        allocations.pods.insert(pod.clone(), machine);
        Ok(())
    }

    /// Sets what the pod holds, whether or not it fits: the pod exists already.
    pub(crate) fn set(&self, pod: &PodId, machine: Option<Machine>) {
        let mut allocations = self.allocations();
        match machine {
            Some(machine) => drop(allocations.pods.insert(pod.clone(), machine)),
            None => drop(allocations.pods.remove(pod)),
        }
    }

    /// Drops the pod from the runtime's last report.
    pub(crate) fn cleared(&self, pod: &PodId) {
        self.allocations().found.remove(pod);
    }

    /// Records the runtime's report: pods with their memory, memory for others, and addresses for pods.
    pub(crate) fn looked(&self, found: HashMap<PodId, u64>, foreign_bytes: u64, addresses: u64) {
        let mut allocations = self.allocations();
        (allocations.found, allocations.foreign_bytes, allocations.addresses) = (found, foreign_bytes, addresses);
    }

    /// Measures free disk space; blocks. A failure keeps the previous value, and of two concurrent measurements the later one counts.
    pub(crate) fn measure_disk(&self) -> io::Result<()> {
        let Some(disk) = &self.capacity.disk else { return Ok(()) };
        let number = {
            let mut allocations = self.allocations();
            allocations.measurements += 1;
            allocations.measurements
        };
        let bytes = disk.measure()?;
        let mut allocations = self.allocations();
        if number > allocations.measured {
            (allocations.measured, allocations.disk_bytes) = (number, bytes);
        }
        Ok(())
    }

    /// The pods for which payments hold capacity.
    #[cfg(test)]
    pub(crate) fn holding(&self, now: Timestamp) -> HashSet<PodId> {
        self.allocations().holds.values().filter(|hold| hold.until > now).map(|hold| hold.pod.clone()).collect()
    }

    fn allocations(&self) -> MutexGuard<'_, Allocations> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
