//! What runs pods, as the settings say: the runtime, what it is let do, and where its pods are.

use std::{fs, io, num::NonZeroUsize, sync::Arc, thread};

use codiusd_control::{
    machines::Machines,
    manifest::Rules,
    pods::{Capacity, DiskShare},
};
use codiusd_proxy::{Network, PodNetworks, UpstreamPolicy};
use codiusd_runtime::{
    EmbeddedConfig, EmbeddedRuntime, HyperdConfig, HyperdRuntime, NoopRuntime, Runtime, RuntimeError,
    embedded::{self, Subnet},
    image::{ImageConfig, ImageLimits},
    network::{self, Guard, Links, Policy, Protocol},
};
use codiusd_supervisor::Supervisor;

use super::StartError;
use crate::config::{Config, RuntimeChoice};

/// Containers need root, which is better said before anything is made.
pub(super) fn check_privileges(config: &Config) -> Result<(), StartError> {
    if config.runtime == RuntimeChoice::Embedded {
        embedded::check_privileges()?;
    }
    Ok(())
}

pub(super) async fn runtime(
    config: &Config,
    registry: &prometheus::Registry,
    supervisor: &Supervisor,
) -> Result<Arc<dyn Runtime>, StartError> {
    let supervisor = supervisor.clone();
    let restored = network::restored_counter();
    registry.register(Box::new(restored.clone()))?;
    match &config.runtime {
        RuntimeChoice::Noop => Ok(Arc::new(NoopRuntime::new())),
        RuntimeChoice::Hyperd(socket) => {
            let guard = match hyperd_policy(config) {
                Some(policy) => {
                    let install = move || Guard::supervised(&policy, restored, &supervisor);
                    Some(Arc::new(blocking("putting the network policy in force", install).await??))
                }
                None => {
                    tracing::warn!("hyperd's pods have no network policy: they reach each other and this machine (CODIUS_HYPER_BRIDGE)");
                    None
                }
            };
            let hyperd = HyperdConfig {
                registries: config.registries.clone(),
                guard,
                logs: config.hyper_logs.clone(),
                ..HyperdConfig::new(socket.clone())
            };
            Ok(Arc::new(HyperdRuntime::new(hyperd, registry)?))
        }
        RuntimeChoice::Embedded => {
            warn_of_missing_layouts(config);
            let embedded = EmbeddedConfig { policy_restored: restored, supervisor, ..embedded(config) };
            Ok(Arc::new(blocking("opening it", move || EmbeddedRuntime::open(embedded)).await??))
        }
    }
}

async fn blocking<T: Send + 'static>(operation: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StartError::Runtime(RuntimeError::Unavailable { operation: operation.to_owned(), source: Some(Box::new(error)) }))
}

/// The policy of hyperd's bridge, if it gets one. hyperd itself gives its pods an address in the world.
fn hyperd_policy(config: &Config) -> Option<Policy> {
    let bridge = &config.hyper_bridge;
    (!bridge.is_empty()).then(|| Policy::new(&format!("codius-{bridge}"), Links::Bridge(bridge.clone()), None, &config.network.resolved()))
}

/// The network policy of the pods this host runs, if it runs any.
pub(crate) fn network_policy(config: &Config) -> Option<Policy> {
    match config.runtime {
        RuntimeChoice::Embedded => Some(embedded(config).policy()),
        RuntimeChoice::Hyperd(_) => hyperd_policy(config),
        RuntimeChoice::Noop => None,
    }
}

/// Hosts with networks of their own keep out of each other's way on one machine: names in the kernel follow the network.
pub(crate) fn embedded(config: &Config) -> EmbeddedConfig {
    let images = ImageConfig {
        root: config.root.join("images"),
        layouts: config.image_layouts.iter().cloned().chain(super::tested::layout(config)).collect(),
        registries: config.registries.clone(),
        limits: ImageLimits { disk_bytes_max: config.image_disk, ..ImageLimits::default() },
    };
    let mut embedded = EmbeddedConfig::new(config.root.clone(), images);
    let subnet = Subnet { network: config.pod_subnet.address, prefix: config.pod_subnet.prefix };
    if subnet.network != embedded.subnet.network {
        let network = u32::from(subnet.network);
        embedded.instance = format!("codius-{network:08x}");
        embedded.link_prefix = format!("cd{network:08x}");
    }
    embedded.subnet = subnet;
    embedded.limits.scratch = config.pod_disk;
    embedded.network.clone_from(&config.network);
    embedded.read_only = config.pod_read_only;
    embedded
}

fn warn_of_missing_layouts(config: &Config) {
    for layout in config.image_layouts.iter().filter(|layout| !layout.is_dir()) {
        tracing::warn!(directory = %layout.display(), "isn't there; images in it can't be run (CODIUS_IMAGE_LAYOUTS)");
    }
}

/// Pods are where the runtime puts them; hyperd's network is its own affair.
pub(super) fn addresses(config: &Config) -> codiusd_proxy::Policy {
    let networks = match config.runtime {
        // A subnet that is none has no pods in it: then none is reached, rather than anything.
        RuntimeChoice::Embedded => {
            PodNetworks::Only(Network::new(config.pod_subnet.address.into(), config.pod_subnet.prefix).into_iter().collect())
        }
        RuntimeChoice::Hyperd(_) | RuntimeChoice::Noop => PodNetworks::Unrestricted,
    };
    codiusd_proxy::Policy {
        upstreams: UpstreamPolicy::Pods(networks),
        trusted_proxies: config.trusted_proxies.clone(),
        ..codiusd_proxy::Policy::default()
    }
}

/// What this host runs. A port the front door reaches no pod at, or that is closed, is refused before anyone pays for it.
pub(super) fn rules(config: &Config, machines: Machines) -> Rules {
    let why_not = |port: u16| {
        let closed = network::ingress_denied(&config.network.blocked, Protocol::Tcp, port);
        closed.or_else(|| codiusd_proxy::refuses_port(port).then_some("no pod is reached at it, for what listens there is no web server"))
    };
    let denied_ports = (1..=u16::MAX).filter_map(|port| Some((port, why_not(port)?.to_owned()))).collect();
    Rules { machines, denied_ports, ..Rules::default() }
}

/// What pods may hold of this machine. Only the embedded runtime keeps their disks below our directory.
pub(super) fn capacity(config: &Config) -> Result<Capacity, StartError> {
    let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let disk = DiskShare { of: config.root.clone(), full_at: config.max_disk_fraction };
    Ok(Capacity {
        memory_bytes: config.max_memory_fraction.of(machine_memory().map_err(StartError::Memory)?),
        vcpus: config.cpu_overcommit.of(u64::try_from(cpus).unwrap_or(u64::MAX)),
        disk: (config.runtime == RuntimeChoice::Embedded).then_some(disk),
    })
}

/// `MemTotal`, in bytes.
fn machine_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no MemTotal in /proc/meminfo"))
}
