//! What pods may send to whom, as data: the rules in the kernel, `codiusd network show`, and the tests are made of these rows.
//!
//! Rows are tried in order, per [`Way`]; what none of them decides passes. Pods come and go without a change: rules name
//! links, and count by address.

use std::{fmt, net::Ipv4Addr};

use super::{
    ports::{BlockedPorts, Direction, MAIL, Ports, REFLECTORS, TELEPHONY},
    subnet::Subnet,
};

/// Never the world: this network, loopback, multicast, reserved, broadcast.
const RESERVED: &[Subnet] = &[Subnet::of([0, 0, 0, 0], 8), Subnet::of([127, 0, 0, 0], 8), Subnet::of([224, 0, 0, 0], 3)];
/// Where clouds hand out credentials.
const LINK_LOCAL: &[Subnet] = &[Subnet::of([169, 254, 0, 0], 16)];
/// RFC 1918, and RFC 6598 (behind a provider's NAT).
const PRIVATE: &[Subnet] =
    &[Subnet::of([10, 0, 0, 0], 8), Subnet::of([172, 16, 0, 0], 12), Subnet::of([192, 168, 0, 0], 16), Subnet::of([100, 64, 0, 0], 10)];

/// The row that gives pods the host's address.
const NAT: &str = "nat";

/// Links that pods are behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Links {
    /// All whose names begin so.
    Prefix(String),
    /// The one of that name, a bridge.
    Bridge(String),
}

/// What an operator decides about pods' network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRules {
    /// Whether pods reach private networks (RFC 1918, RFC 6598).
    pub egress_private: bool,
    /// Ports that are closed besides those that always are.
    pub blocked: Vec<BlockedPorts>,
    /// Name servers of pods, wherever they are.
    pub nameservers: Vec<Ipv4Addr>,
    /// Ports of this host that pods reach.
    pub host_ports: Vec<Ports>,
    /// Connections a pod may have at once, as the kernel counts them, each way.
    pub connections_max: u32,
    /// Connections a pod may open, or be sent, in a second.
    pub connections_per_second: u32,
    /// What a pod may send, and may be sent, in bytes a second; 0: no bound.
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

/// From where to where. What a pod sends is looked at when it comes in, and again where it is bound for.
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

/// Which packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// All.
    Anything,
    /// Those of IPv6.
    Ipv6,
    /// Those whose source isn't where they came from.
    ForgedSource,
    /// Those of connections that were let through, and errors about them.
    Known,
    /// Those to one of the networks.
    Networks(&'static [Subnet]),
    /// Those to one of the ports.
    Ports(Vec<Ports>),
    /// Questions to one of the name servers.
    Dns(Vec<Ipv4Addr>),
    /// Those of protocols other than TCP, UDP and ICMP.
    OtherProtocols,
    /// Those that open one connection more than a pod may have.
    Connections(u32),
    /// Those that open connections faster than a pod may, in a second.
    Rate(u32),
    /// Those beyond what a pod may send or be sent, in bytes a second.
    Bytes(u32),
    /// Those with a source in the network.
    Source(Subnet),
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// It is gone.
    Drop,
    /// Its sender is told that it may not.
    Reject,
    /// It gets the address of the link it leaves by for its source.
    Masquerade,
}

/// One row of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// A name for it, unique in the policy.
    pub id: &'static str,
    /// From where to where.
    pub way: Way,
    /// Which packets.
    pub what: What,
    /// What becomes of them.
    pub fate: Fate,
    /// Why.
    pub why: &'static str,
}

/// What pods behind some links may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Name of the table in the kernel, one per codiusd on a machine.
    pub table: String,
    /// Where the pods are.
    pub links: Links,
    /// What is decided, in this order.
    pub rows: Vec<Row>,
    /// What each pod's link carries each way, in bytes a second; 0: no bound of the link's own.
    pub carried: u32,
}

impl Policy {
    /// The policy for pods behind `links`; those in `masquerade` leave under the host's address.
    pub fn new(table: &str, links: Links, masquerade: Option<Subnet>, rules: &NetworkRules) -> Self {
        let row = |id, way, what, fate, why| Row { id, way, what, fate, why };
        let (flows, rate) = (rules.connections_max, rules.connections_per_second);
        // Links of our own carry no more; what others have made is counted.
        let (carried, bytes) = match links {
            Links::Prefix(_) => (rules.bytes_per_second, 0),
            Links::Bridge(_) => (0, rules.bytes_per_second),
        };
        let mut rows = vec![
            row("ipv6-out", Way::FromPod, What::Ipv6, Fate::Drop, "there are no rules for IPv6 yet"),
            row("forged", Way::FromPod, What::ForgedSource, Fate::Drop, "a pod speaks for itself alone"),
            row("out-bytes", Way::FromPod, What::Bytes(bytes), Fate::Drop, "the line is shared by all"),
            row("host-known", Way::PodToHost, What::Known, Fate::Pass, "answers to the front door"),
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
            // Connections of the host's own programs aren't counted: the front door bounds them, and says why.
            row("host-ipv6", Way::HostToPod, What::Ipv6, Fate::Drop, "there are no rules for IPv6 yet"),
            row("host-bytes", Way::HostToPod, What::Bytes(bytes), Fate::Drop, "no pod keeps this host busy alone"),
        ];
        if let Some(pods) = masquerade {
            rows.push(nat(pods));
        }
        rows.retain(|row| row.what.is_something() && !(rules.egress_private && row.id == "private"));
        Self { table: table.to_owned(), links, rows, carried }
    }

    /// The same for a bridge with this network. If that is a private one, its pods leave under the host's address: hyperd sees to it,
    /// too, but only when it is started.
    #[must_use]
    pub(super) fn at(&self, subnet: Subnet) -> Self {
        let is_private = PRIVATE.iter().any(|private| private.prefix <= subnet.prefix && private.overlaps(subnet));
        let mut policy = self.without(NAT);
        policy.rows.extend(is_private.then(|| nat(subnet)));
        policy
    }

    /// The same without one row, for those who want to know whether it is that row that stops them.
    #[must_use]
    pub fn without(&self, id: &str) -> Self {
        Self { rows: self.rows.iter().filter(|row| row.id != id).cloned().collect(), ..self.clone() }
    }
}

fn nat(pods: Subnet) -> Row {
    let why = "pods have no address of their own in the world";
    Row { id: NAT, way: Way::PodToWorld, what: What::Source(pods), fate: Fate::Masquerade, why }
}

fn blocked(rules: &NetworkRules, direction: Direction) -> What {
    What::Ports(rules.blocked.iter().filter(|blocked| blocked.covers(direction)).map(|blocked| blocked.ports).collect())
}

impl What {
    /// Whether there can be such a packet at all.
    fn is_something(&self) -> bool {
        match self {
            Self::Ports(ports) => !ports.is_empty(),
            Self::Dns(servers) => !servers.is_empty(),
            Self::Bytes(max) => *max > 0,
            _ => true,
        }
    }
}

/// From, to.
impl Way {
    /// In words: from whom, to whom.
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
            let subnet: Subnet = network.parse().unwrap();
            let policy = policy.at(subnet).at(subnet);
            let rows: Vec<&Row> = policy.rows.iter().filter(|row| row.fate == Fate::Masquerade).collect();
            assert_eq!(rows.len(), usize::from(expected), "{network}: {rows:?}");
            assert!(rows.iter().all(|row| row.what == What::Source(subnet)), "{network}: {rows:?}");
        }
    }
}
