//! What pods may send to whom, as data: the rules in the kernel, `codiusd network show`, and the tests are generated from these rows.
//!
//! Rows are tried in order, per [`Way`]; a packet that none of them decides passes. Starting or stopping a pod changes nothing: rules match
//! links, and count by address.

use std::{fmt, net::Ipv4Addr};

use codiusd_net::{
    Ipv4Cidr,
    ports::{MAIL, Ports, REFLECTORS, TELEPHONY},
};

use super::ports::{BlockedPorts, Direction};

/// Never public: this network, loopback, multicast, reserved, broadcast.
const RESERVED: &[Ipv4Cidr] = &[Ipv4Cidr::of([0, 0, 0, 0], 8), Ipv4Cidr::of([127, 0, 0, 0], 8), Ipv4Cidr::of([224, 0, 0, 0], 3)];
/// Where clouds hand out credentials.
const LINK_LOCAL: &[Ipv4Cidr] = &[Ipv4Cidr::of([169, 254, 0, 0], 16)];
/// RFC 1918, and RFC 6598 (behind a provider's NAT).
const PRIVATE: &[Ipv4Cidr] = &[
    Ipv4Cidr::of([10, 0, 0, 0], 8),
    Ipv4Cidr::of([172, 16, 0, 0], 12),
    Ipv4Cidr::of([192, 168, 0, 0], 16),
    Ipv4Cidr::of([100, 64, 0, 0], 10),
];

/// The row that gives pods the host's address.
const NAT: &str = "nat";

/// Links that pods are behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Links {
    /// All with this name prefix.
    Prefix(String),
    /// The bridge of that name.
    Bridge(String),
}

/// The operator's settings for the pods' network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRules {
    /// Whether pods can reach private networks (RFC 1918, RFC 6598).
    pub egress_private: bool,
    /// Blocked ports, in addition to those that always are.
    pub blocked: Vec<BlockedPorts>,
    /// Name servers of pods, at any address.
    pub nameservers: Vec<Ipv4Addr>,
    /// Ports of this host that pods can reach.
    pub host_ports: Vec<Ports>,
    /// Maximum number of concurrent connections of a pod, as the kernel counts them, in each direction.
    pub connections_max: u32,
    /// Maximum number of connections a pod may open, or receive, per second.
    pub connections_per_second: u32,
    /// Maximum bandwidth of a pod in each direction, in bytes a second; 0: no limit.
    pub bytes_per_second: u32,
}

impl Default for NetworkRules {
    fn default() -> Self {
        Self {
            egress_private: false,
            blocked: Vec::new(),
            nameservers: Vec::new(),
            host_ports: Vec::new(),
            connections_max: 1024,
            connections_per_second: 100,
            bytes_per_second: 200_000_000 / 8,
        }
    }
}

/// Source and destination. A pod's packets are matched when they come in, and again by their destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From a pod to anywhere.
    FromPod,
    /// From a pod to this host.
    PodToHost,
    /// From a pod to a pod.
    PodToPod,
    /// From a pod to any other machine.
    PodToWorld,
    /// From any other machine to a pod.
    WorldToPod,
    /// From this host to a pod.
    HostToPod,
}

/// Which packets a row matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// All.
    Anything,
    /// Those of IPv6.
    Ipv6,
    /// Those whose source doesn't match the link they came in by.
    ForgedSource,
    /// Those of accepted connections, and errors about them.
    Known,
    /// Those to one of the networks.
    Networks(&'static [Ipv4Cidr]),
    /// Those to one of the ports.
    Ports(Vec<Ports>),
    /// Queries to one of the name servers.
    Dns(Vec<Ipv4Addr>),
    /// Those of protocols other than TCP, UDP and ICMP.
    OtherProtocols,
    /// Those that open a connection above a pod's limit.
    Connections(u32),
    /// Those that open connections faster than a pod may, per second.
    Rate(u32),
    /// Those beyond a pod's bandwidth, in bytes a second.
    Bytes(u32),
    /// Those with a source in the network.
    Source(Ipv4Cidr),
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It passes.
    Pass,
    /// It is dropped silently.
    Drop,
    /// It is dropped, and its sender gets an error.
    Reject,
    /// Its source becomes the address of the link it leaves by.
    Masquerade,
}

/// One row of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name, unique in the policy.
    pub id: &'static str,
    /// Source and destination.
    pub way: Way,
    /// Which packets.
    pub what: What,
    /// What happens to them.
    pub fate: Fate,
    /// The reason.
    pub why: &'static str,
}

/// What pods behind some links may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Name of the table in the kernel, one per codiusd on a machine.
    pub table: String,
    /// The links the pods are behind.
    pub links: Links,
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// The bandwidth of each pod's link in each direction, in bytes a second; 0: no limit on the link itself.
    pub carried: u32,
}

impl Policy {
    /// The policy for pods behind `links`; addresses in `masquerade` are translated to the host's.
    pub fn new(table: &str, links: Links, masquerade: Option<Ipv4Cidr>, rules: &NetworkRules) -> Self {
        let row = |id, way, what, fate, why| Row { id, way, what, fate, why };
        let (flows, rate) = (rules.connections_max, rules.connections_per_second);
        // Our own links limit the bandwidth themselves; on links of others, bytes are counted.
        let (carried, bytes) = match links {
            Links::Prefix(_) => (rules.bytes_per_second, 0),
            Links::Bridge(_) => (0, rules.bytes_per_second),
        };
        let mut rows = vec![
            row("ipv6-out", Way::FromPod, What::Ipv6, Fate::Drop, "there are no rules for IPv6 yet"),
            row("forged", Way::FromPod, What::ForgedSource, Fate::Drop, "a pod speaks for itself alone"),
            row("out-bytes", Way::FromPod, What::Bytes(bytes), Fate::Drop, "the line is shared by all"),
            row("host-known", Way::PodToHost, What::Known, Fate::Pass, "answers to the edge"),
            row("host-dns", Way::PodToHost, What::Dns(rules.nameservers.clone()), Fate::Pass, "names are resolved"),
            row("host-ports", Way::PodToHost, What::Ports(rules.host_ports.clone()), Fate::Pass, "opened by the operator"),
            row("host", Way::PodToHost, What::Anything, Fate::Drop, "the host's own services aren't the pods'"),
            row("pods", Way::PodToPod, What::Anything, Fate::Drop, "pods are strangers to each other"),
            row("out-known", Way::PodToWorld, What::Known, Fate::Pass, "judged when they were opened"),
            row("out-rate", Way::PodToWorld, What::Rate(rate), Fate::Drop, "scans and floods of others"),
            row("out-connections", Way::PodToWorld, What::Connections(flows), Fate::Reject, "the kernel's table is shared by all"),
            row("dns", Way::PodToWorld, What::Dns(rules.nameservers.clone()), Fate::Pass, "names are resolved, also by a private server"),
            row("reserved", Way::PodToWorld, What::Networks(RESERVED), Fate::Reject, "nobody is there"),
            row("metadata", Way::PodToWorld, What::Networks(LINK_LOCAL), Fate::Reject, "clouds hand out credentials there"),
            row("private", Way::PodToWorld, What::Networks(PRIVATE), Fate::Reject, "the host's neighbours aren't the world"),
            row("mail", Way::PodToWorld, What::Ports(MAIL.to_vec()), Fate::Reject, "spam ruins the host's address"),
            row("sip", Way::PodToWorld, What::Ports(TELEPHONY.to_vec()), Fate::Reject, "telephone fraud"),
            row("out-blocked", Way::PodToWorld, blocked(rules, Direction::Out), Fate::Reject, "closed by the operator"),
            row("out-protocols", Way::PodToWorld, What::OtherProtocols, Fate::Reject, "ports of other protocols aren't looked at"),
            row("ipv6-in", Way::WorldToPod, What::Ipv6, Fate::Drop, "there are no rules for IPv6 yet"),
            row("in-bytes", Way::WorldToPod, What::Bytes(bytes), Fate::Drop, "the line is shared by all"),
            row("in-known", Way::WorldToPod, What::Known, Fate::Pass, "answers to what a pod has asked"),
            row("in-rate", Way::WorldToPod, What::Rate(rate), Fate::Drop, "a flood at one pod is not to be all pods'"),
            row("in-connections", Way::WorldToPod, What::Connections(flows), Fate::Reject, "the kernel's table is shared by all"),
            row("reflectors", Way::WorldToPod, What::Ports(REFLECTORS.to_vec()), Fate::Reject, "amplifiers of attacks on others"),
            row("in-blocked", Way::WorldToPod, blocked(rules, Direction::In), Fate::Reject, "closed by the operator"),
            // Connections of the host's own programs aren't counted: the edge limits them, and reports why.
            row("host-ipv6", Way::HostToPod, What::Ipv6, Fate::Drop, "there are no rules for IPv6 yet"),
            row("host-bytes", Way::HostToPod, What::Bytes(bytes), Fate::Drop, "no pod keeps this host busy alone"),
        ];
        if let Some(pods) = masquerade {
            rows.push(nat(pods));
        }
        rows.retain(|row| row.what.is_something() && !(rules.egress_private && row.id == "private"));
        Self { table: table.to_owned(), links, rows, carried }
    }

    /// The same for a bridge with this network. If it is private, its pods' addresses are translated to the host's: hyperd does this, too,
    /// but only when it is started.
    #[must_use]
    pub(super) fn at(&self, subnet: Ipv4Cidr) -> Self {
        let is_private = PRIVATE.iter().any(|private| private.prefix <= subnet.prefix && private.overlaps(subnet));
        let mut policy = self.without(NAT);
        policy.rows.extend(is_private.then(|| nat(subnet)));
        policy
    }

    /// The same without one row, to test whether that row is what stops a packet.
    #[must_use]
    pub fn without(&self, id: &str) -> Self {
        Self { rows: self.rows.iter().filter(|row| row.id != id).cloned().collect(), ..self.clone() }
    }
}

fn nat(pods: Ipv4Cidr) -> Row {
    let why = "pods have no address of their own in the world";
    Row { id: NAT, way: Way::PodToWorld, what: What::Source(pods), fate: Fate::Masquerade, why }
}

fn blocked(rules: &NetworkRules, direction: Direction) -> What {
    What::Ports(rules.blocked.iter().filter(|blocked| blocked.covers(direction)).map(|blocked| blocked.ports).collect())
}

impl What {
    /// Whether such a packet can exist.
    fn is_something(&self) -> bool {
        match self {
            Self::Ports(ports) => !ports.is_empty(),
            Self::Dns(servers) => !servers.is_empty(),
            Self::Bytes(max) => *max > 0,
            _ => true,
        }
    }
}

/// Source, destination.
impl Way {
    /// As text: source and destination.
    pub fn ends(self) -> (&'static str, &'static str) {
        match self {
            Self::FromPod => ("pod", "anywhere"),
            Self::PodToHost => ("pod", "host"),
            Self::PodToPod => ("pod", "pod"),
            Self::PodToWorld => ("pod", "world"),
            Self::WorldToPod => ("world", "pod"),
            Self::HostToPod => ("host", "pod"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anything => f.write_str("anything else"),
            Self::Ipv6 => f.write_str("IPv6"),
            Self::ForgedSource => f.write_str("a source address that isn't the pod's"),
            Self::Known => f.write_str("packets of known connections"),
            Self::Networks(networks) => list(f, networks),
            Self::Ports(ports) => list(f, ports),
            Self::Dns(servers) => {
                f.write_str("port 53 of ")?;
                list(f, servers)
            }
            Self::OtherProtocols => f.write_str("protocols other than TCP, UDP, ICMP"),
            Self::Connections(max) => write!(f, "more than {max} connections of a pod"),
            Self::Rate(max) => write!(f, "more than {max} new connections of a pod in a second"),
            Self::Bytes(max) => write!(f, "more than {max} bytes of a pod in a second"),
            Self::Source(pods) => write!(f, "all from {pods}"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(index, item)| write!(f, "{}{item}", if index == 0 { "" } else { ", " }))
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "passes",
            Self::Drop => "dropped",
            Self::Reject => "rejected",
            Self::Masquerade => "under the host's address",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_at_a_bridge_with_a_private_network_leave_under_the_hosts_address() {
        let policy = Policy::new("codius-hyper0", Links::Bridge("hyper0".to_owned()), None, &NetworkRules::default());
        let table =
            [("192.168.123.0/24", true), ("10.1.2.0/25", true), ("100.64.3.0/24", true), ("111.1.2.0/24", false), ("8.8.8.0/24", false)];
        for (network, expected) in table {
            let subnet: Ipv4Cidr = network.parse().unwrap();
            let policy = policy.at(subnet).at(subnet);
            let rows: Vec<&Row> = policy.rows.iter().filter(|row| row.fate == Fate::Masquerade).collect();
            assert_eq!(rows.len(), usize::from(expected), "{network}: {rows:?}");
            assert!(rows.iter().all(|row| row.what == What::Source(subnet)), "{network}: {rows:?}");
        }
    }
}
