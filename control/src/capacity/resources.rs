//! The resources pods share (memory, processors, disk, addresses), how much is held, and whether one more pod fits.
//!
//! | resource | available | a pod holds |
//! |---|---|---|
//! | memory | a share of the machine's | its whole limit, and what its virtual machine takes: promised memory can always be used |
//! | processors | the machine's, times the overcommitment factor | its virtual ones |
//! | disk | free space where the host's files are, minus a reserve | its limit until it has started; after that it is used space |
//! | addresses | what the runtime has for pods | one, while the pod exists |

use std::{fmt, io, path::PathBuf};

use codiusd_runtime::{Machine, MemoryOverhead};

use crate::factor::Factor;

/// Total capacity for pods.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Memory that pods take beyond their machines'.
    pub pod_overhead: MemoryOverhead,
    /// Virtual processors.
    pub vcpus: u64,
    /// The file system pods' disks are on; none: it is elsewhere, and disk isn't counted.
    pub disk: Option<DiskShare>,
}

/// How full a file system may get.
#[derive(Clone, Debug)]
pub struct DiskShare {
    /// A directory on that file system.
    pub of: PathBuf,
    /// The share of it that may be in use, by pods and everything else.
    pub full_at: Factor,
}

impl DiskShare {
    /// Bytes that may still be used now.
    pub(crate) fn measure(&self) -> io::Result<u64> {
        let system = rustix::fs::statvfs(&self.of)?;
        let [total, unused, free] = [system.f_blocks, system.f_bfree, system.f_bavail].map(|blocks| blocks.saturating_mul(system.f_frsize));
        Ok(self.left(total.saturating_sub(unused), free))
    }

    /// Bytes that may still be used, given the bytes in use and those free for us. Blocks reserved by the file system count as neither,
    /// as in df's percentage.
    fn left(&self, used: u64, free: u64) -> u64 {
        let total = used.saturating_add(free);
        free.saturating_sub(total - self.full_at.of(total).min(total))
    }
}

impl Capacity {
    /// Limited by memory only.
    pub fn of_memory(memory_bytes: u64) -> Self {
        Self { memory_bytes, pod_overhead: MemoryOverhead::default(), vcpus: u64::MAX, disk: None }
    }
}

/// A resource that pods hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Addresses.
    Address,
    /// Processors.
    Cpu,
    /// Disk.
    Disk,
    /// Memory.
    Memory,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "Address",
            Self::Cpu => "CPU",
            Self::Disk => "Disk",
            Self::Memory => "Memory",
        })
    }
}

/// An amount of each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Virtual processors.
    pub vcpus: u64,
    /// Disk, in bytes.
    pub disk_bytes: u64,
    /// Pods, each of which has an address.
    pub addresses: u64,
}

impl Resources {
    /// The sum with one more pod of this size.
    #[must_use]
    pub(crate) fn and(self, machine: &Machine, overhead: MemoryOverhead) -> Self {
        let memory_bytes = machine.memory_bytes.saturating_add(overhead.of(machine.memory_bytes));
        Self {
            memory_bytes: self.memory_bytes.saturating_add(memory_bytes),
            vcpus: self.vcpus.saturating_add(machine.vcpus.into()),
            disk_bytes: self.disk_bytes.saturating_add(machine.disk_bytes),
            addresses: self.addresses.saturating_add(1),
        }
    }
}

/// Total capacity, and how much of it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityUsage {
    /// Total capacity for pods.
    pub max: Resources,
    /// Held by pods, by payments, and by the runtime for others.
    pub held: Resources,
    /// Memory that pods take beyond their machines'.
    pub pod_overhead: MemoryOverhead,
}

impl CapacityUsage {
    /// Memory that is left, in bytes.
    pub fn free_memory_bytes(&self) -> u64 {
        self.max.memory_bytes.saturating_sub(self.held.memory_bytes)
    }

    /// The resource that is short for one more pod of this size; none: it fits.
    pub fn short_of(&self, machine: &Machine) -> Option<Resource> {
        let then = self.held.and(machine, self.pod_overhead);
        let table = [
            (Resource::Memory, then.memory_bytes, self.max.memory_bytes),
            (Resource::Cpu, then.vcpus, self.max.vcpus),
            (Resource::Disk, then.disk_bytes, self.max.disk_bytes),
            (Resource::Address, then.addresses, self.max.addresses),
        ];
        table.into_iter().find(|(_, then, max)| then > max).map(|(resource, ..)| resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_disk_is_a_share_of_what_can_be_used() {
        let table =
            [("0.9", 0, 100, 90), ("0.9", 50, 50, 40), ("0.9", 80, 20, 10), ("0.9", 90, 10, 0), ("0.9", 99, 1, 0), ("1", 70, 30, 30)];
        for (full_at, used, free, left) in table {
            let share = DiskShare { of: PathBuf::new(), full_at: full_at.parse().unwrap() };
            assert_eq!(share.left(used, free), left, "{used} used, {free} free, full at {full_at}");
        }
    }

    #[test]
    fn a_pod_fits_if_there_is_enough_of_everything() {
        let shares = |memory_bytes, vcpus, disk_bytes, addresses| Resources { memory_bytes, vcpus, disk_bytes, addresses };
        let machine = Machine { vcpus: 2, memory_bytes: 100, disk_bytes: 1000 };
        let room = CapacityUsage { max: shares(200, 4, 2000, 3), held: shares(100, 2, 1000, 2), pod_overhead: MemoryOverhead::default() };
        assert_eq!(room.short_of(&machine), None, "exactly");
        let table = [
            (shares(101, 2, 1000, 2), Resource::Memory),
            (shares(100, 3, 1000, 2), Resource::Cpu),
            (shares(100, 2, 1001, 2), Resource::Disk),
            (shares(100, 2, 1000, 3), Resource::Address),
            (shares(u64::MAX, 2, 1000, 2), Resource::Memory),
            (shares(300, 9, 9000, 9), Resource::Memory),
        ];
        for (held, short) in table {
            assert_eq!(CapacityUsage { held, ..room }.short_of(&machine), Some(short), "{held:?}");
        }
        assert_eq!(CapacityUsage { held: shares(300, 0, 0, 0), ..room }.free_memory_bytes(), 0);
        assert_eq!(
            CapacityUsage { pod_overhead: MemoryOverhead { fixed_bytes: 1, per_mille: 0 }, ..room }.short_of(&machine),
            Some(Resource::Memory),
            "100 + 100 + 1 of 200"
        );
    }
}
