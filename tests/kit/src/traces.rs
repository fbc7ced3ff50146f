//! What a host's pods are to the machine: processes, routes, mounts, control groups. Seen from outside, without asking codiusd.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// What is there of a host's pods at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Processes that have the host's directory in their command line, codiusd itself left out.
    pub processes: BTreeSet<u32>,
    /// Addresses in its subnet that are routed to.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Mounts under its directory, in the machine's own mount namespace.
    pub mounts: BTreeSet<String>,
    /// Files under its directories of pods.
    pub files: BTreeSet<PathBuf>,
}

impl Traces {
    pub(crate) fn find(root: &Path, network: Ipv4Addr) -> Self {
        let name = root.display().to_string();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        Self {
            processes: processes(&name),
            addresses: addresses(network),
            mounts: mounts.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect(),
            files: fs::read_dir(root.join("pods")).into_iter().flatten().flatten().map(|entry| entry.path()).collect(),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn processes(root: &str) -> BTreeSet<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(root)
    };
    pids.filter(ours).collect()
}

/// Host routes (`/32`) into a `/24`, from the kernel's table: `iface destination gateway ... mask ...`, in little-endian hex.
fn addresses(network: Ipv4Addr) -> BTreeSet<Ipv4Addr> {
    let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let address = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, mask] = [*fields.get(1)?, *fields.get(7)?];
        let destination = Ipv4Addr::from(u32::from_str_radix(destination, 16).ok()?.swap_bytes());
        (mask == "FFFFFFFF" && destination.octets()[..3] == network.octets()[..3]).then_some(destination)
    };
    table.lines().skip(1).filter_map(address).collect()
}
