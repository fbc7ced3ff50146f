//! Network of the pods: a bridge without an address of its own in hardware, and a pair of interfaces for each machine.

use std::{
    fs,
    io::Write,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

/// Prefix length of the bridge's network unless said otherwise.
pub(super) const PREFIX: u8 = 24;
/// Characters of a machine's name in that of its interface.
const LINK_NAME_CHARS: usize = 12;

/// The interface of a machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Nic {
    /// Its name on the host's side.
    pub link: String,
    pub bridge: String,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    /// Hardware address on the machine's side; empty: any.
    pub mac: String,
}

impl Nic {
    /// The address as hyperd shows it.
    pub(super) fn cidr(&self) -> String {
        format!("{}/{}", self.address, self.prefix)
    }

    /// As hyperd makes one if nobody says how it is to be: the hardware address is another each time.
    pub(super) fn allocated(machine: &str, bridge: &str, network: Ipv4Addr, prefix: u8, last: u8) -> Self {
        let [a, b, c, d] = rand::random::<[u8; 4]>();
        Self {
            link: link(machine),
            bridge: bridge.to_owned(),
            address: address(network, last),
            prefix,
            gateway: address(network, 1),
            mac: format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
        }
    }
}

/// Name of the interface of a machine, unless one was asked for.
pub(super) fn link(machine: &str) -> String {
    let name: String = machine.chars().take(LINK_NAME_CHARS).collect();
    format!("{name}0")
}

/// Name of the bridge, unless one is given.
pub(super) fn bridge(network: Ipv4Addr) -> String {
    format!("hyper{}", network.octets()[2])
}

/// The address with this last octet.
pub(super) fn address(network: Ipv4Addr, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = network.octets();
    Ipv4Addr::new(a, b, c, last)
}

/// The last address that a machine can have, by its last octet.
pub(super) fn last_address(prefix: u8) -> u8 {
    u8::try_from((1_u32 << 32_u8.saturating_sub(prefix).min(8)) - 2).unwrap_or(254)
}

/// Runs several `ip` commands, one per line.
fn ip(commands: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("ip: {error}");
    let ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut ip = ip.map_err(failed)?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(commands.as_bytes()).map_err(failed)?;
    }
    let output = ip.wait_with_output().map_err(failed)?;
    if output.status.success() { Ok(()) } else { Err(format!("ip: {commands}{}", String::from_utf8_lossy(&output.stderr))) }
}

/// Interfaces of machines that are there.
fn links(bridge: &str) -> Vec<String> {
    let ports = fs::read_dir(format!("/sys/class/net/{bridge}/brif")).into_iter().flatten().flatten();
    ports.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Makes the bridge unless it is there. It has the lowest hardware address of its ports.
pub(super) fn make_bridge(bridge: &str, network: Ipv4Addr, prefix: u8) -> Result<(), String> {
    if fs::exists(format!("/sys/class/net/{bridge}")).unwrap_or_default() {
        return Ok(());
    }
    let host = address(network, 1);
    ip(&format!("link add {bridge} type bridge\naddr add {host}/{prefix} dev {bridge}\nlink set {bridge} up\n"))
}

/// Gives the process's network namespace an interface on the bridge.
pub(super) fn plug(nic: &Nic, pid: u32) -> Result<(), String> {
    let Nic { link, bridge, mac, .. } = nic;
    let own = if mac.is_empty() { String::new() } else { format!("address {mac}") };
    ip(&format!("link add {link} type veth peer name eth0 {own} netns {pid}\nlink set {link} master {bridge} up\n")).inspect_err(|_| {
        unplug(link);
    })
}

/// Sets up that interface, from inside.
pub(super) fn configure(address: &str, gateway: Ipv4Addr) -> Result<(), String> {
    ip(&format!("link set lo up\naddr add {address} dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"))
}

/// Takes the interface away. It may have gone already, with its machine.
pub(super) fn unplug(link: &str) {
    let _ = ip(&format!("link del {link}\n"));
}

/// Takes away everything.
pub(super) fn remove(bridge: &str) {
    for link in links(bridge) {
        unplug(&link);
    }
    if fs::exists(format!("/sys/class/net/{bridge}")).unwrap_or_default() {
        let _ = ip(&format!("link del {bridge}\n"));
    }
    // A host on this double leaves its policy in force for its pods.
    let table = format!("codius-{bridge}");
    for family in ["inet", "bridge"] {
        let _ = Command::new("nft").args(["delete", "table", family, &table]).stderr(Stdio::null()).status();
    }
}
