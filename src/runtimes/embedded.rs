//! Containers, by this process and its shims.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use codiusd_control::capacity::DiskShare;
use codiusd_proxy::PodNetworks;
use codiusd_runtime::{
    EmbeddedConfig, EmbeddedRuntime, Runtime,
    embedded::{self, Accelerator, IsolationChoice},
    image::{ImageConfig, ImageLimits},
    network::Policy,
};
use codiusd_supervisor::Supervisor;
use prometheus::{IntCounter, Registry};

use super::{RuntimePlan, blocking, kernel};
use crate::{app::error::StartError, config::Config, error_chain::in_full, finding::Finding};

/// The plan of the embedded runtime.
#[derive(Debug)]
pub(super) struct Embedded<'a>(pub(super) &'a Config);

#[async_trait]
impl RuntimePlan for Embedded<'_> {
    fn check_privileges(&self) -> Result<(), StartError> {
        Ok(embedded::check_privileges()?)
    }

    async fn open(&self, restored: IntCounter, _: &Registry, supervisor: &Supervisor) -> Result<Arc<dyn Runtime>, StartError> {
        warn_of_missing_layouts(self.0);
        let config = EmbeddedConfig { policy_restored: restored, supervisor: supervisor.clone(), ..config_of(self.0) };
        Ok(Arc::new(blocking("opening it", move || EmbeddedRuntime::open(config)).await??))
    }

    fn network_policy(&self) -> Option<Policy> {
        Some(config_of(self.0).policy())
    }

    fn pod_networks(&self) -> PodNetworks {
        PodNetworks::Only(vec![self.0.pod_subnet.into()])
    }

    /// Pods' disks are in the host's directory.
    fn disk(&self) -> Option<DiskShare> {
        Some(DiskShare { of: self.0.root.clone(), full_at: self.0.max_disk_fraction })
    }

    fn self_test_layout(&self) -> Option<PathBuf> {
        self_test_layout(self.0)
    }

    fn doctor_checks(&self) -> Vec<Finding> {
        let mut findings = kernel::checks();
        findings.push(isolation(&config_of(self.0)));
        findings
    }
}

/// What virtual machines take, and the remedy where it is missing.
const VM_NEEDS: &str = "on a machine with /dev/kvm (hardware, or nested virtualization at the provider): \
                        apt install qemu-system-x86 erofs-utils, and linux-image-cloud-amd64 if no kernel suits; without KVM set pods.isolation = \"container\"";

/// What pods are going to run in.
fn isolation(config: &EmbeddedConfig) -> Finding {
    let check = "isolation";
    let shared = "pods share the host's kernel";
    match (config.isolation, embedded::check_virtual_machines(config)) {
        (IsolationChoice::Container, _) => {
            Finding::note(check, format!("{shared}, as pods.isolation says"), "pods.isolation = \"vm\" separates them by hardware")
        }
        (_, Ok(_)) if config.accelerator == Accelerator::Tcg => Finding::bad(
            check,
            "virtual machines are emulated, which isolates nothing",
            "for tests only; otherwise remove pods.vm_accelerator",
        ),
        (_, Ok(found)) => Finding::good(check, format!("virtual machines: {found}; codiusd boots one when it starts")),
        (IsolationChoice::Auto, Err(error)) => Finding::note(check, format!("{shared}: {}", in_full(&error)), VM_NEEDS),
        (IsolationChoice::Vm, Err(error)) => Finding::bad(check, in_full(&error), VM_NEEDS),
    }
}

/// Where the self-test's image is, if the test uses the built-in one.
fn self_test_layout(config: &Config) -> Option<PathBuf> {
    let wanted = config.self_test.as_ref().is_some_and(|test| test.image.is_none());
    wanted.then(|| config.root.join("self-test"))
}

/// Hosts with different networks can share a machine: kernel object names derive from the network.
fn config_of(config: &Config) -> EmbeddedConfig {
    let images = ImageConfig {
        root: config.root.join("images"),
        layouts: config.image_layouts.iter().cloned().chain(self_test_layout(config)).collect(),
        registries: config.registries.clone(),
        limits: ImageLimits { disk_bytes_max: config.image_disk, ..ImageLimits::default() },
    };
    let mut embedded = EmbeddedConfig::new(config.root.clone(), images);
    let subnet = config.pod_subnet;
    if subnet.network != embedded.subnet.network {
        let network = u32::from(subnet.network);
        embedded.instance = format!("codius-{network:08x}");
        embedded.link_prefix = format!("cd{network:08x}");
    }
    embedded.subnet = subnet;
    embedded.limits.scratch = config.pod_disk;
    embedded.network.clone_from(&config.network);
    embedded.read_only = config.pod_read_only;
    embedded.isolation = config.pod_isolation;
    embedded.guest_kernel_root.clone_from(&config.guest_kernel);
    embedded.accelerator = config.vm_accelerator;
    embedded
}

fn warn_of_missing_layouts(config: &Config) {
    for layout in config.image_layouts.iter().filter(|layout| !layout.is_dir()) {
        tracing::warn!(directory = %layout.display(), "image layout directory not found; its images are unavailable (images.layouts, CODIUS_IMAGE_LAYOUTS)");
    }
}
