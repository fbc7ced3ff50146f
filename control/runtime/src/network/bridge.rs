//! A bridge with another runtime's pods. The table covers routed packets; those that a bridge forwards between its ports pass it only with
//! `br_netfilter`. So each port is isolated, and the bridge's traffic also passes the table where the kernel supports it: that covers the
//! moment before a new port is isolated.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{addresses::Pool, error::PolicyError, neighbours};

/// A file for each claimed bridge. Lost on reboot.
const CLAIMS: &str = "/run/codius/bridges";

/// How a bridge isolates its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Separation {
    /// Whether the bridge exists.
    pub(super) there: bool,
    /// Whether its own traffic passes the table.
    pub(super) filtered: bool,
    /// The number of its ports.
    pub(super) ports: usize,
    /// The number of ports that weren't isolated until now.
    pub(super) were_open: usize,
}

fn bridge_dir(bridge: &str) -> PathBuf {
    Path::new("/sys/class/net").join(bridge)
}

/// A claim to a bridge, which no other codiusd can have.
#[derive(Debug)]
pub(super) struct Claim(File);

impl Drop for Claim {
    /// Closing the file isn't enough: a child process holds it, too, from its fork until its exec.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "bridge of the pods not released yet");
        }
    }
}

/// Claims the bridge until the claim is dropped; none if another codiusd holds it. Otherwise both would keep replacing the table with their
/// own.
pub(super) fn claim(bridge: &str) -> io::Result<Option<Claim>> {
    DirBuilder::new().recursive(true).mode(0o700).create(CLAIMS)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(Path::new(CLAIMS).join(bridge))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Claim(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The pool of pod addresses at a bridge.
pub(super) fn pool(bridge: &str) -> Result<Pool, PolicyError> {
    let failed = |source| PolicyError::Bridge { bridge: bridge.to_owned(), source };
    let no = |why| PolicyError::NoBridge { bridge: bridge.to_owned(), why };
    if !bridge_dir(bridge).join("bridge").exists() {
        return Err(no("isn't there"));
    }
    let (gateway, prefix) = neighbours::address(bridge).map_err(failed)?.ok_or_else(|| no("has no IPv4 address"))?;
    Pool::of(gateway, prefix).ok_or_else(|| no("has no room for pods in its network (/8 to /30)"))
}

/// The names of the bridge's ports; none if there is no such bridge.
pub(super) fn port_names(bridge: &str) -> io::Result<Vec<String>> {
    let named = |port: &PathBuf| port.file_name()?.to_str().map(str::to_owned);
    match ports(&bridge_dir(bridge)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        ports => Ok(ports?.iter().filter_map(named).collect()),
    }
}

/// Whether a link of that name exists, at any bridge or none.
pub(super) fn is_link(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Isolates the bridge's ports from each other; repeatable. Succeeds when there is no such bridge (yet).
pub(super) fn separate(bridge: &str) -> io::Result<Separation> {
    let dir = bridge_dir(bridge);
    let found = look(bridge)?;
    if !found.there {
        return Ok(found);
    }
    for switch in ["nf_call_iptables", "nf_call_ip6tables"] {
        match fs::write(dir.join("bridge").join(switch), "1") {
            // The kernel doesn't support it: isolation alone must suffice.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    for port in ports(&dir)? {
        match fs::write(port.join("isolated"), "1") {
            // It was removed meanwhile, or the kernel is older than 4.18.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !port.exists() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && filtered(&dir) => {}
            done => done?,
        }
    }
    Ok(Separation { filtered: filtered(&dir), ..found })
}

/// The current isolation, without changing it.
pub(super) fn look(bridge: &str) -> io::Result<Separation> {
    let dir = bridge_dir(bridge);
    if !dir.join("bridge").exists() {
        return Ok(Separation { there: false, filtered: false, ports: 0, were_open: 0 });
    }
    let ports = ports(&dir)?;
    let open = ports.iter().filter(|port| fs::read_to_string(port.join("isolated")).is_ok_and(|isolated| isolated.trim() == "0"));
    Ok(Separation { there: true, filtered: filtered(&dir), ports: ports.len(), were_open: open.count() })
}

fn filtered(dir: &Path) -> bool {
    fs::read_to_string(dir.join("bridge/nf_call_iptables")).is_ok_and(|shown| shown.trim() == "1")
}

/// The directories of the bridge's ports.
fn ports(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir.join("brif"))?.map(|port| Ok(port?.path())).collect()
}
