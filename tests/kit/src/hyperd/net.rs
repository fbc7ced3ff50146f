//! Network of the pods: a bridge, and a pair of interfaces for each machine.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

/// Name of the bridge.
pub(super) fn bridge(network: Ipv4Addr) -> String {
    format!("hyper{}", network.octets()[2])
}

/// What the names of the machines' interfaces begin with, on the host's side.
fn prefix(network: Ipv4Addr) -> String {
    format!("hv{}-", network.octets()[2])
}

fn link(address: Ipv4Addr) -> String {
    format!("{}{}", prefix(address), address.octets()[3])
}

/// The address with this last octet.
pub(super) fn address(network: Ipv4Addr, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = network.octets();
    Ipv4Addr::new(a, b, c, last)
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
fn links(network: Ipv4Addr) -> Vec<String> {
    let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&prefix(network))).collect()
}

/// Last octets that are taken, be it by machines nobody knows any more.
pub(super) fn taken(network: Ipv4Addr) -> BTreeSet<u8> {
    links(network).iter().filter_map(|name| name.rsplit('-').next()?.parse().ok()).collect()
}

/// Makes the bridge unless it is there.
pub(super) fn make_bridge(network: Ipv4Addr) -> Result<(), String> {
    let bridge = bridge(network);
    if fs::exists(format!("/sys/class/net/{bridge}")).unwrap_or_default() {
        return Ok(());
    }
    let host = address(network, 1);
    // Without an address of its own a bridge takes the lowest of its ports', and machines that remember another one can't answer.
    let own = format!("02:00:c0:a8:{:02x}:01", network.octets()[2]);
    ip(&format!("link add {bridge} address {own} type bridge\naddr add {host}/24 dev {bridge}\nlink set {bridge} up\n"))
}

/// Gives the process's network namespace an interface on the bridge.
pub(super) fn plug(address: Ipv4Addr, pid: u32) -> Result<(), String> {
    let (link, bridge) = (link(address), bridge(address));
    let [_, _, network, host] = address.octets();
    // The same for each machine with this address: who remembers an earlier one reaches the next.
    let own = format!("02:42:c0:a8:{network:02x}:{host:02x}");
    ip(&format!("link add {link} type veth peer name eth0 address {own} netns {pid}\nlink set {link} master {bridge} up\n"))
}

/// Sets up that interface, from inside.
pub(super) fn configure(address: Ipv4Addr) -> Result<(), String> {
    let host = self::address(address, 1);
    ip(&format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {host}\n"))
}

/// Takes the interface away. It may have gone already, with its machine.
pub(super) fn unplug(address: Ipv4Addr) {
    let _ = ip(&format!("link del {}\n", link(address)));
}

/// Takes away everything.
pub(super) fn remove(network: Ipv4Addr) {
    for link in links(network) {
        let _ = ip(&format!("link del {link}\n"));
    }
    let bridge = bridge(network);
    if fs::exists(format!("/sys/class/net/{bridge}")).unwrap_or_default() {
        let _ = ip(&format!("link del {bridge}\n"));
    }
    // A host on this double leaves its policy in force for its pods.
    let table = format!("codius-{bridge}");
    let _ = Command::new("nft").args(["delete", "table", "inet", &table]).stderr(Stdio::null()).status();
}
