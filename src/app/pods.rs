//! The runtime, the capacity for pods, and their addresses.

use std::{fs, io, num::NonZeroUsize, sync::Arc, thread};

use codiusd_control::{capacity::Capacity, manifest::Rules, pod_sizes::PodSizes};
use codiusd_net::ports::{Protocol, is_closed_to_http};
use codiusd_proxy::UpstreamPolicy;
use codiusd_runtime::{Runtime, network};
use codiusd_supervisor::Supervisor;

use super::StartError;
use crate::{config::Config, runtimes::RuntimePlan};

/// Opens the runtime that the settings choose.
pub(super) async fn runtime(
    plan: &dyn RuntimePlan,
    registry: &prometheus::Registry,
    supervisor: &Supervisor,
) -> Result<Arc<dyn Runtime>, StartError> {
    let restored = network::restored_counter();
    registry.register(Box::new(restored.clone()))?;
    plan.open(restored, registry, supervisor).await
}

/// The proxies that the edge trusts, and the networks of pods.
pub(super) fn addresses(config: &Config, plan: &dyn RuntimePlan) -> codiusd_proxy::Policy {
    codiusd_proxy::Policy {
        upstreams: UpstreamPolicy::Pods(plan.pod_networks()),
        trusted_proxies: config.trusted_proxies.clone(),
        ..codiusd_proxy::Policy::default()
    }
}

/// The rules for manifests. A port that is closed, or that the edge doesn't forward to, is rejected before the uploader pays.
pub(super) fn rules(config: &Config, machines: PodSizes) -> Rules {
    let why_not = |port: u16| {
        let closed = network::ingress_denied(&config.network.blocked, Protocol::Tcp, port);
        closed.or_else(|| is_closed_to_http(port).then_some("no pod is reached at it, for what listens there is no web server"))
    };
    let denied_ports = (1..=u16::MAX).filter_map(|port| Some((port, why_not(port)?.to_owned()))).collect();
    Rules { machines, denied_ports, ..Rules::default() }
}

/// The share of this machine that pods may hold.
pub(super) fn capacity(config: &Config, plan: &dyn RuntimePlan, runtime: &dyn Runtime) -> Result<Capacity, StartError> {
    let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Ok(Capacity {
        memory_bytes: config.max_memory_fraction.of(machine_memory().map_err(StartError::Memory)?),
        pod_overhead: runtime.capabilities().memory_overhead,
        vcpus: config.cpu_overcommit.of(u64::try_from(cpus).unwrap_or(u64::MAX)),
        disk: plan.disk(),
    })
}

/// `MemTotal`, in bytes.
fn machine_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no MemTotal in /proc/meminfo"))
}
