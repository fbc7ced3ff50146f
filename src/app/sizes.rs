//! Which of the operator's sizes of pods are sold: those this machine can start. A size that no start would ever succeed with would
//! be paid for, and refused, for good.
//!
//! A size that is larger than what all pods together may hold is refused as on a full host, and nothing is said of it here.

use std::{num::NonZeroUsize, thread};

use codiusd_control::machines::{Machines, SMALL, Size};
use codiusd_runtime::{Machine, hyperd};

use super::StartError;
use crate::config::{Config, RuntimeChoice};

const MIB: u64 = 1 << 20;

/// The sizes that are sold; the others are logged.
pub(super) fn sold(config: &Config) -> Result<Machines, StartError> {
    let (sold, unsold) = divided(config)?;
    for (size, against) in unsold {
        tracing::warn!(%size, against, "a size of CODIUS_MACHINES is not sold: no pod can be started with it");
    }
    Ok(sold)
}

/// The sizes that are sold, and the others with what is against them; an error if `small` is one of these, which every host has.
pub(crate) fn divided(config: &Config) -> Result<(Machines, Vec<(Size, String)>), StartError> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (sold, unsold) = config.machines.partition(|size| against(&config.runtime, processors, &size.machine));
    match unsold.iter().find(|(size, _)| size.name == SMALL) {
        Some((small, against)) => Err(StartError::Small { size: small.to_string(), against: against.clone() }),
        None => Ok((sold, unsold)),
    }
}

/// Why no pod of this size starts. Containers start with any share of the processors; a virtual machine has whole ones.
fn against(runtime: &RuntimeChoice, processors: usize, machine: &Machine) -> Option<String> {
    match runtime {
        RuntimeChoice::Embedded | RuntimeChoice::Noop => None,
        RuntimeChoice::Hyperd(_) if usize::try_from(machine.vcpus).map_or(true, |vcpus| vcpus > processors) => {
            Some(format!("this machine has {processors} processors, and a virtual machine can't have more"))
        }
        RuntimeChoice::Hyperd(_) if machine.memory_bytes < hyperd::MEMORY_MIN => {
            Some(format!("a virtual machine needs {} MiB to start", hyperd::MEMORY_MIN / MIB))
        }
        RuntimeChoice::Hyperd(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_start_is_not_sold() {
        let hyperd = || RuntimeChoice::Hyperd("/run/hyper.sock".into());
        // The runtime, processors, MiB, and what is against it on a machine with two processors.
        let table: [(RuntimeChoice, u32, u64, Option<&str>); 9] = [
            (hyperd(), 1, 512, None),
            (hyperd(), 2, 64, None),
            (hyperd(), 3, 512, Some("2 processors")),
            (hyperd(), u32::MAX, 512, Some("2 processors")),
            (hyperd(), 1, 63, Some("64 MiB")),
            (hyperd(), 1, 32, Some("64 MiB")),
            (RuntimeChoice::Embedded, 3, 32, None),
            (RuntimeChoice::Embedded, 1, 512, None),
            (RuntimeChoice::Noop, 64, 16, None),
        ];
        for (runtime, vcpus, mib, expected) in table {
            let machine = Machine { vcpus, memory_bytes: mib * MIB, disk_bytes: Machine::DISK_DEFAULT };
            let found = against(&runtime, 2, &machine);
            assert_eq!(found.is_some(), expected.is_some(), "{runtime:?} {vcpus} {mib}: {found:?}");
            assert!(expected.is_none_or(|part| found.is_some_and(|found| found.contains(part))), "{runtime:?} {vcpus} {mib}");
        }
    }
}
