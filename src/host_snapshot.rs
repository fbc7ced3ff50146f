//! The state of the whole host at a moment: the metrics, the operator's API, its page and the command line are views of it.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use codiusd_control::{
    capacity::CapacityUsage,
    money::{Asset, Totals},
    paid_requests::PaidRequests,
    peers::Peers,
    pods::PodPhase,
};
use codiusd_runtime::Isolation;

/// The state of a host at a moment.
#[derive(Clone, Debug)]
pub struct HostSnapshot {
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// The asset payments are received in; none while there is no Interledger connection.
    pub asset: Option<Asset>,
    /// Whether the store can record payments.
    pub store: bool,
    /// How pods are isolated.
    pub isolation: Isolation,
    /// Whether uploads and extensions are refused.
    pub draining: bool,
    /// The phase of each pod.
    pub pods: Vec<PodPhase>,
    /// The capacity for pods, and the part that is held.
    pub room: CapacityUsage,
    /// The file system of the host's directory, if it was measured.
    pub disk: Option<Disk>,
    /// Payments received, and their use.
    pub totals: Vec<(Asset, Totals)>,
    /// How many other hosts are known.
    pub peers: usize,
    /// Panics since the start.
    pub panics: u64,
}

/// A file system, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Total size.
    pub size: u64,
    /// Free space that is available to the host.
    pub free: u64,
}

impl Disk {
    fn of(path: &Path) -> Option<Self> {
        let system = rustix::fs::statvfs(path).ok()?;
        let [size, free] = [system.f_blocks, system.f_bavail].map(|blocks| blocks.saturating_mul(system.f_frsize));
        Some(Self { size, free })
    }
}

/// Reads the state of a running host.
#[derive(Clone, Debug)]
pub(crate) struct HostReader {
    started: u64,
    paid_requests: PaidRequests,
    peers: Peers,
    root: PathBuf,
}

impl HostReader {
    /// Of a host that is started now and keeps its files at `root`.
    pub(crate) fn new(paid_requests: PaidRequests, peers: Peers, root: PathBuf) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { started, paid_requests, peers, root }
    }

    /// The state now, with the disk. Asks the file system, which may block: for metrics only.
    pub(crate) fn measured(&self) -> HostSnapshot {
        HostSnapshot { disk: Disk::of(&self.root), ..self.snapshot() }
    }

    /// The state now, without the disk.
    pub(crate) fn snapshot(&self) -> HostSnapshot {
        let manager = self.paid_requests.pods();
        HostSnapshot {
            started: self.started,
            asset: self.paid_requests.asset(),
            store: manager.is_durable(),
            isolation: manager.capabilities().isolation,
            draining: manager.is_draining(),
            pods: manager.phases(),
            room: manager.room(),
            disk: None,
            totals: self.paid_requests.totals(),
            peers: self.peers.count(),
            panics: codiusd_supervisor::panics(),
        }
    }
}
