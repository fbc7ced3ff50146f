//! Builds the pod spec for the runtime.

use codiusd_runtime::{ContainerSpec, PodSpec};

use super::{Rules, Upload};
use crate::workload::PodOrder;

impl Upload {
    /// The order for a pod of this upload on the host at `public_uri`.
    pub fn order(&self, rules: &Rules, public_uri: &str) -> PodOrder {
        let containers = self.manifest.containers.iter().zip(&self.environments).map(|(container, environment)| {
            let own = [
                ("CODIUS", "true"),
                ("CODIUS_HOST", public_uri),
                ("CODIUS_MANIFEST_HASH", self.hash.pod_id().as_str()),
                ("CODIUS_MANIFEST", &self.json),
            ];
            let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            ContainerSpec {
                name: container.id.clone(),
                image: container.image.clone(),
                command: container.command.clone().filter(|command| !command.is_empty()),
                workdir: container.workdir.clone().filter(|workdir| !workdir.is_empty()),
                env: own.chain(environment.0.iter().cloned()).collect(),
            }
        });
        let id = self.hash.pod_id().clone();
        // The rules have checked that the size exists.
        let size = rules.machines.get(self.machine()).unwrap_or_else(|| rules.machines.small());
        let spec = PodSpec { id, machine: size.machine, containers: containers.collect() };
        PodOrder { spec, machine: size.name.clone(), manifest: self.json.as_str().into(), port: self.port(), debug: self.debug() }
    }
}
