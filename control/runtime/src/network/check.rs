//! Verifies that the kernel enforces the policy.

use std::{fmt, fs, io, path::Path};

use super::{
    addresses::Pool,
    bandwidth, bridge, enforcer,
    kernel::{self, Rules},
    neighbours,
    policy::{Links, Policy},
    sources::Sources,
    table::Table,
};

/// Hooks a pod's packets pass, as the kernel numbers them for IP, bridges and ARP.
const HOOKS: [(u32, &str); 5] = [(0, "prerouting"), (1, "input"), (2, "forward"), (3, "output"), (4, "postrouting")];

/// How much a finding matters; shown as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// As required.
    Good,
    /// Worth knowing; the policy holds.
    Note,
    /// The policy doesn't hold.
    Bad,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Bad => "BAD",
        })
    }
}

/// One result of the check.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How much it matters.
    pub grade: Grade,
    /// The finding, and its remedy.
    pub text: String,
}

fn finding(grade: Grade, text: impl Into<String>) -> Finding {
    Finding { grade, text: text.into() }
}

/// Compares policy and kernel. Requires root. Blocks.
pub fn check(policy: &Policy) -> io::Result<Vec<Finding>> {
    let forwarding = setting("net/ipv4/ip_forward", "1", "the host routes for pods", "pods reach nobody");
    let mut findings = match &policy.links {
        Links::Prefix(_) => {
            let mut findings = table(&Table::from(policy))?;
            findings.push(forwarding);
            findings.extend(links(&policy.links)?.iter().flat_map(|link| pod_link(link, policy.carried)));
            findings
        }
        Links::Bridge(name) => match bridge::pool(name) {
            Ok(pool) => {
                let mut findings = table(&Table::from(&policy.at(pool.subnet)))?;
                findings.extend(table(&Sources { name: policy.table.clone(), pool })?);
                findings.extend([forwarding, bridge(name, bridge::look(name)?), neighbours(name, pool)?, own_mac(name)]);
                findings
            }
            Err(error) => vec![finding(Grade::Bad, error.to_string())],
        },
    };
    findings.extend(others(policy)?);
    Ok(findings)
}

/// The number of packets that each counting row has stopped.
pub fn stopped(policy: &Policy) -> io::Result<Vec<(&'static str, u64)>> {
    let found = kernel::read(&enforcer::policy_id(policy))?;
    let packets = |id: &str| found.iter().filter(|part| part.row.as_deref() == Some(id)).map(|part| part.packets).sum();
    Ok(policy.rows.iter().map(|row| (row.id, packets(row.id))).collect())
}

/// The host ends of the pods' links: one per pod.
pub fn links(links: &Links) -> io::Result<Vec<String>> {
    let dir = match links {
        Links::Prefix(_) => Path::new("/sys/class/net").to_owned(),
        Links::Bridge(name) => Path::new("/sys/class/net").join(name).join("brif"),
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    if let Links::Prefix(prefix) = links {
        names.retain(|name| name.starts_with(prefix));
    }
    names.sort();
    Ok(names)
}

fn table(rules: &impl Rules) -> io::Result<Vec<Finding>> {
    let wanted = kernel::reference(rules)?;
    let found = kernel::read(&rules.id())?;
    let different = kernel::differences(&wanted, &found);
    Ok(if different.is_empty() {
        vec![finding(
            Grade::Good,
            format!("{} is the policy, {} rules", rules.id(), wanted.iter().filter(|part| part.row.is_some()).count()),
        )]
    } else {
        let say = |difference: &String| {
            let remedy = "a running codiusd puts it back within a second or two; one with other settings has to be restarted";
            finding(Grade::Bad, format!("{}: {difference} ({remedy})", rules.id()))
        };
        different.iter().map(say).collect()
    })
}

fn setting(name: &str, wanted: &str, good: &str, bad: &str) -> Finding {
    match fs::read_to_string(Path::new("/proc/sys").join(name)) {
        Ok(value) if value.trim() == wanted => finding(Grade::Good, format!("{good} ({name} = {wanted})")),
        Ok(value) => finding(Grade::Bad, format!("{bad}: {name} is {}, not {wanted}", value.trim())),
        Err(error) => finding(Grade::Bad, format!("{bad}: {name}: {error}")),
    }
}

fn pod_link(link: &str, bytes_per_second: u32) -> Vec<Finding> {
    let mut found = vec![setting(
        &format!("net/ipv4/conf/{link}/rp_filter"),
        "1",
        &format!("{link}: forged sources are dropped"),
        &format!("{link}: forged sources are dropped by the table alone"),
    )];
    if Path::new("/proc/sys/net/ipv6").exists() {
        let name = format!("net/ipv6/conf/{link}/disable_ipv6");
        found.push(setting(&name, "1", &format!("{link}: no IPv6"), &format!("{link}: IPv6 is stopped by the table alone")));
    }
    found.push(carried(link, bytes_per_second));
    found
}

/// A pod's link keeps the limit it was started with: the setting may have changed since.
fn carried(link: &str, wanted: u32) -> Finding {
    let megabits = |bytes: u32| u64::from(bytes) * 8 / 1_000_000;
    match bandwidth::capped(link) {
        Ok(Some(carried)) if carried == wanted => finding(Grade::Good, format!("{link}: {} Mbit/s", megabits(carried))),
        Ok(None) if wanted == 0 => finding(Grade::Good, format!("{link}: its bandwidth isn't capped (pod_bandwidth)")),
        Ok(Some(carried)) => {
            finding(Grade::Note, format!("{link}: {} Mbit/s, which was pod_bandwidth when its pod was started", megabits(carried)))
        }
        Ok(None) => finding(Grade::Bad, format!("{link}: its bandwidth is not capped; restart the pod for a link with a cap")),
        Err(error) => finding(Grade::Note, format!("{link}: {error}")),
    }
}

fn bridge(name: &str, found: bridge::Separation) -> Finding {
    match found {
        found if found.were_open > 0 && !found.filtered => finding(
            Grade::Bad,
            format!("bridge {name}: {} of {} pods reach each other: their ports aren't isolated", found.were_open, found.ports),
        ),
        found => {
            let shown = if found.filtered { ", and its traffic passes the table" } else { "; br_netfilter isn't there" };
            finding(Grade::Good, format!("bridge {name}: {} of {} ports are isolated{shown}", found.ports - found.were_open, found.ports))
        }
    }
}

/// Whether the pods at the bridge have permanent neighbour entries with their assigned hardware addresses, so that ARP answers have no
/// effect.
fn neighbours(name: &str, pool: Pool) -> io::Result<Finding> {
    let known = neighbours::known(name)?;
    let ports = bridge::port_names(name)?;
    let pods: Vec<_> = ports.iter().filter_map(|port| pool.address_of(port)).collect();
    let settled = |address| known.iter().any(|each| each.address == address && each.is_permanent() && neighbours::is_ours(pool, each));
    let open: Vec<String> = pods.iter().filter(|address| !settled(**address)).map(ToString::to_string).collect();
    if !open.is_empty() {
        let remedy = "a running codiusd makes them so within a second or two";
        return Ok(finding(Grade::Bad, format!("bridge {name}: pods aren't neighbours for good: {} ({remedy})", open.join(", "))));
    }
    let (others, many) = (ports.len() - pods.len(), pool.addresses().count());
    let more = if others == 0 { String::new() } else { format!("; {others} ports are of pods this codiusd gave no address") };
    let used = format!("{} of {many} addresses of pods in {} are in use", pods.len(), pool.subnet);
    let grade = if pods.len() < many { Grade::Good } else { Grade::Note };
    Ok(finding(grade, format!("bridge {name}: {used}, each by a neighbour for good{more}")))
}

fn own_mac(name: &str) -> Finding {
    if neighbours::has_own_mac(name) {
        return finding(Grade::Good, format!("bridge {name} has a hardware address of its own"));
    }
    let text = "has the lowest hardware address of its pods: when that pod ends, the others reach nobody for a while";
    finding(Grade::Bad, format!("bridge {name} {text} (a running codiusd gives it one of its own)"))
}

/// Other programs' tables can't pass what ours stops, with two exceptions that are checked here; but they can stop what ours passes.
fn others(policy: &Policy) -> io::Result<Vec<Finding>> {
    let pods = links(&policy.links)?;
    let mut found = Vec::new();
    for chain in kernel::other_chains(&[enforcer::policy_id(policy), enforcer::sources_id(policy)])? {
        let family = family(chain.family);
        let place = format!("chain {} of table {family} {}", chain.chain, chain.table);
        if family == "netdev" {
            let ours = chain.devices.iter().any(|device| pods.contains(device));
            let (grade, which) = if ours { (Grade::Bad, "pods' links") } else { (Grade::Note, "links") };
            let on = chain.devices.join(", ");
            found.push(finding(grade, format!("{place} sees packets of {which} before the policy does, and may send them past it ({on})")));
        } else if chain.drops && matches!(family, "ip" | "inet") {
            let hook = HOOKS.iter().find(|(number, _)| *number == chain.hook).map_or("?", |(_, name)| name);
            found.push(finding(
                Grade::Note,
                format!("{place} drops what it doesn't know at {hook}: pods are stopped unless it lets them pass"),
            ));
        }
    }
    Ok(found)
}

fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}
