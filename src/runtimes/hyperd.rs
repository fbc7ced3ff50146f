//! Virtual machines, by a hyperd.

use std::{fs::File, os::unix::net::UnixStream, path::Path, sync::Arc};

use async_trait::async_trait;
use codiusd_runtime::{
    HyperdConfig, HyperdRuntime, Machine, Runtime, hyperd,
    network::{Enforcer, Links, Policy},
};
use codiusd_supervisor::Supervisor;
use prometheus::{IntCounter, Registry};

use super::{RuntimePlan, blocking};
use crate::{app::error::StartError, config::Config, finding::Finding, lock_file::lock_file};

const MIB: u64 = 1 << 20;

/// The plan of the hyperd runtime.
#[derive(Debug)]
pub(super) struct Hyperd<'a> {
    pub(super) config: &'a Config,
    pub(super) socket: &'a Path,
}

#[async_trait]
impl RuntimePlan for Hyperd<'_> {
    /// Two hosts on one hyperd would each treat the other's pods as orphans.
    fn lock(&self) -> Result<Option<File>, StartError> {
        let path = self.socket.with_extension("codiusd.lock");
        match lock_file(&path) {
            Ok(Some(file)) => Ok(Some(file)),
            Ok(None) => Err(StartError::HyperdInUse(self.socket.to_owned())),
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "lock file unusable; make sure that no other codiusd uses this hyperd");
                Ok(None)
            }
        }
    }

    async fn open(&self, restored: IntCounter, registry: &Registry, supervisor: &Supervisor) -> Result<Arc<dyn Runtime>, StartError> {
        let supervisor = supervisor.clone();
        let guard = match self.network_policy() {
            Some(policy) => {
                let install = move || Enforcer::supervised(&policy, restored, &supervisor);
                Some(Arc::new(blocking("putting the network policy in force", install).await??))
            }
            None => {
                tracing::warn!(
                    "hyperd pods have no network policy: they reach each other and this machine (hyperd.bridge, CODIUS_HYPER_BRIDGE)"
                );
                None
            }
        };
        let hyperd = HyperdConfig {
            registries: self.config.registries.clone(),
            guard,
            logs: self.config.hyper_logs.clone(),
            ..HyperdConfig::new(self.socket.to_owned())
        };
        Ok(Arc::new(HyperdRuntime::new(hyperd, registry)?))
    }

    /// The policy applies to hyperd's bridge, without masquerading: hyperd does that itself.
    fn network_policy(&self) -> Option<Policy> {
        let bridge = &self.config.hyper_bridge;
        let rules = self.config.network.resolved();
        (!bridge.is_empty()).then(|| Policy::new(&format!("codius-{bridge}"), Links::Bridge(bridge.clone()), None, &rules))
    }

    fn refuses_size(&self, processors: usize, machine: &Machine) -> Option<String> {
        refuses_size(processors, machine)
    }

    fn doctor_checks(&self) -> Vec<Finding> {
        let found = match UnixStream::connect(self.socket) {
            Ok(_) => Finding::good("hyperd", format!("listening at {}", self.socket.display())),
            Err(error) => Finding::bad(
                "hyperd",
                format!("{}: {error}", self.socket.display()),
                "start hyperd, or set its socket (hyperd.socket, CODIUS_HYPER_SOCKET)",
            ),
        };
        vec![found]
    }
}

/// Why a size can't start: a virtual machine needs whole processors, and some memory to boot.
fn refuses_size(processors: usize, machine: &Machine) -> Option<String> {
    if usize::try_from(machine.vcpus).map_or(true, |vcpus| vcpus > processors) {
        return Some(format!("this machine has {processors} processors, and a virtual machine can't have more"));
    }
    (machine.memory_bytes < hyperd::MEMORY_MIN).then(|| format!("a virtual machine needs {} MiB to start", hyperd::MEMORY_MIN / MIB))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_machine_has_whole_processors_and_some_memory() {
        // Processors, MiB, and the reason for refusal on a machine with two processors.
        let table = [
            (1, 512, None),
            (2, 64, None),
            (3, 512, Some("2 processors")),
            (u32::MAX, 512, Some("2 processors")),
            (1, 63, Some("64 MiB")),
            (1, 32, Some("64 MiB")),
        ];
        for (vcpus, mib, expected) in table {
            let found = refuses_size(2, &Machine { vcpus, memory_bytes: mib * MIB, disk_bytes: Machine::DISK_DEFAULT });
            assert_eq!(found.is_some(), expected.is_some(), "{vcpus} {mib}: {found:?}");
            assert!(expected.is_none_or(|part| found.is_some_and(|found| found.contains(part))), "{vcpus} {mib}");
        }
    }
}
