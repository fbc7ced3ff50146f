//! The policy as one nftables table of family `inet`: sent to the kernel, and shown in nft's own syntax.

use std::fmt;

use codiusd_net::{
    Ipv4Cidr,
    ports::{Ports, Protocol},
};

use super::policy::{Fate, Links, Policy, Row, Way, What};

/// Maximum number of addresses in a meter.
pub(crate) const METER_SIZE: u32 = 65_535;
/// Seconds without a new connection after which a rate is forgotten.
pub(crate) const RATE_FORGOTTEN_SECONDS: u32 = 60;
/// Burst of a connection rate, in seconds' worth.
pub(crate) const BURST_SECONDS: u32 = 2;
/// Burst of bytes, as a fraction of a second's worth.
pub(crate) const BURST_PARTS: u32 = 4;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub(crate) name: String,
    pub(crate) meters: Vec<Meter>,
    pub(crate) chains: Vec<Chain>,
}

/// A set of addresses, each with a count or a rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meter {
    pub(crate) name: &'static str,
    /// None: until the last connection has ended.
    pub(crate) forgotten_seconds: Option<u32>,
}

/// A base chain that accepts what no rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: Hook,
    pub(crate) rules: Vec<Rule>,
}

/// The hook of a chain, which is named after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Before connections are looked up.
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    pub(crate) const ALL: [Self; 5] = [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// Type and priority.
    pub(crate) fn kind(self) -> (&'static str, i32) {
        match self {
            Self::Prerouting => ("filter", -300),
            Self::Input | Self::Forward | Self::Output => ("filter", 0),
            Self::Postrouting => ("nat", 100),
        }
    }
}

/// All of `matches`, then `fate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) fate: Fate,
    /// The row it comes from.
    pub(crate) row: &'static str,
}

/// One condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Came in by such a link.
    From(Links),
    /// Leaves by such a link.
    To(Links),
    /// Leaves by any other link.
    ToOther(Links),
    Established,
    Ipv6,
    /// The route back to its source isn't the link it came in by.
    ForgedSource,
    Source(Ipv4Cidr),
    Destination(Ipv4Cidr),
    Ports(Ports),
    OtherProtocols,
    /// Its pod has more connections than this.
    Connections {
        meter: &'static str,
        pod: Side,
        max: u32,
    },
    /// Its pod opens more connections per second.
    Rate {
        meter: &'static str,
        pod: Side,
        max: u32,
    },
    /// Its pod sends, or receives, more bytes per second.
    Bytes {
        meter: &'static str,
        pod: Side,
        max: u32,
    },
}

/// Which of a packet's addresses is the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

impl From<&Policy> for Table {
    fn from(policy: &Policy) -> Self {
        let mut meters = Vec::new();
        let mut chains: Vec<Chain> = Hook::ALL.into_iter().map(|hook| Chain { hook, rules: Vec::new() }).collect();
        for row in &policy.rows {
            let (hook, place) = place(row, &policy.links);
            let alternatives = alternatives(row, &mut meters);
            let rule = |what: Vec<Match>| Rule { matches: place.iter().cloned().chain(what).collect(), fate: row.fate, row: row.id };
            if let Some(chain) = chains.iter_mut().find(|chain| chain.hook == hook) {
                chain.rules.extend(alternatives.into_iter().map(rule));
            }
        }
        chains.retain(|chain| !chain.rules.is_empty());
        Self { name: policy.table.clone(), meters, chains }
    }
}

/// The hook that packets of the row pass, and the conditions that select them there.
fn place(row: &Row, links: &Links) -> (Hook, Vec<Match>) {
    let (from, to, other) = (Match::From(links.clone()), Match::To(links.clone()), Match::ToOther(links.clone()));
    match (row.way, row.fate) {
        // Identified by source: the incoming link isn't known any more at this hook.
        (_, Fate::Masquerade) => (Hook::Postrouting, vec![other]),
        (Way::FromPod, _) => (Hook::Prerouting, vec![from]),
        (Way::PodToHost, _) => (Hook::Input, vec![from]),
        (Way::PodToPod, _) => (Hook::Forward, vec![from, to]),
        (Way::PodToWorld, _) => (Hook::Forward, vec![from]),
        (Way::WorldToPod, _) => (Hook::Forward, vec![to]),
        (Way::HostToPod, _) => (Hook::Output, vec![to]),
    }
}

/// The further conditions of each of the row's rules; and the meters they need.
fn alternatives(row: &Row, meters: &mut Vec<Meter>) -> Vec<Vec<Match>> {
    let dns = |server: &std::net::Ipv4Addr| {
        [Protocol::Udp, Protocol::Tcp]
            .map(|protocol| vec![Match::Destination(Ipv4Cidr { network: *server, prefix: 32 }), Match::Ports(Ports::one(protocol, 53))])
    };
    let (pod, connections, rate) = match row.way {
        Way::WorldToPod | Way::HostToPod => (Side::Destination, "in_connections", "in_rate"),
        _ => (Side::Source, "out_connections", "out_rate"),
    };
    let bytes = match row.way {
        Way::WorldToPod => "in_bytes",
        Way::HostToPod => "host_bytes",
        _ => "out_bytes",
    };
    match &row.what {
        What::Anything => vec![vec![]],
        What::Ipv6 => vec![vec![Match::Ipv6]],
        What::ForgedSource => vec![vec![Match::ForgedSource]],
        What::Known => vec![vec![Match::Established]],
        What::Networks(networks) => networks.iter().map(|network| vec![Match::Destination(*network)]).collect(),
        What::Ports(ports) => ports.iter().map(|ports| vec![Match::Ports(*ports)]).collect(),
        What::Dns(servers) => servers.iter().flat_map(dns).collect(),
        What::OtherProtocols => vec![vec![Match::OtherProtocols]],
        What::Connections(max) => {
            meters.push(Meter { name: connections, forgotten_seconds: None });
            vec![vec![Match::Connections { meter: connections, pod, max: *max }]]
        }
        What::Rate(max) => {
            meters.push(Meter { name: rate, forgotten_seconds: Some(RATE_FORGOTTEN_SECONDS) });
            vec![vec![Match::Rate { meter: rate, pod, max: *max }]]
        }
        What::Bytes(max) => {
            meters.push(Meter { name: bytes, forgotten_seconds: Some(RATE_FORGOTTEN_SECONDS) });
            vec![vec![Match::Bytes { meter: bytes, pod, max: *max }]]
        }
        What::Source(network) => vec![vec![Match::Source(*network)]],
    }
}

/// The table as a file for `nft -f`.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.name)?;
        for meter in &self.meters {
            let (flags, timeout) = match meter.forgotten_seconds {
                Some(seconds) => ("dynamic,timeout", format!(" timeout {seconds}s;")),
                None => ("dynamic", String::new()),
            };
            writeln!(f, "\tset {} {{ type ipv4_addr; size {METER_SIZE}; flags {flags};{timeout} }}", meter.name)?;
        }
        for chain in &self.chains {
            let (kind, priority) = chain.hook.kind();
            writeln!(f, "\tchain {} {{", chain.hook.name())?;
            writeln!(f, "\t\ttype {kind} hook {} priority {priority}; policy accept;", chain.hook.name())?;
            chain.rules.iter().try_for_each(|rule| writeln!(f, "\t\t{rule}"))?;
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matches.iter().try_for_each(|condition| write!(f, "{condition} "))?;
        let fate = match self.fate {
            Fate::Pass => "accept",
            Fate::Drop => "counter drop",
            Fate::Reject => "counter reject with icmpx type admin-prohibited",
            Fate::Masquerade => "masquerade",
        };
        write!(f, "{fate} comment \"{}\"", self.row)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(links) => write!(f, "iifname {links}"),
            Self::To(links) => write!(f, "oifname {links}"),
            Self::ToOther(links) => write!(f, "oifname != {links}"),
            Self::Established => f.write_str("ct state established,related"),
            Self::Ipv6 => f.write_str("meta nfproto ipv6"),
            Self::ForgedSource => f.write_str("fib saddr . iif oif missing"),
            Self::Source(subnet) => write!(f, "ip saddr {subnet}"),
            Self::Destination(subnet) => write!(f, "ip daddr {subnet}"),
            Self::Ports(Ports { protocol, first, last }) if first == last => write!(f, "{protocol} dport {first}"),
            Self::Ports(Ports { protocol, first, last }) => write!(f, "{protocol} dport {first}-{last}"),
            Self::OtherProtocols => f.write_str("meta l4proto != tcp meta l4proto != udp meta l4proto != icmp"),
            Self::Connections { meter, pod, max } => write!(f, "add @{meter} {{ {pod} ct count over {max} }}"),
            Self::Rate { meter, pod, max } => {
                write!(f, "update @{meter} {{ {pod} limit rate over {max}/second burst {} packets }}", max.saturating_mul(BURST_SECONDS))
            }
            Self::Bytes { meter, pod, max } => {
                write!(f, "update @{meter} {{ {pod} limit rate over {max} bytes/second burst {} bytes }}", max / BURST_PARTS)
            }
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "ip saddr",
            Self::Destination => "ip daddr",
        })
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => write!(f, "\"{prefix}*\""),
            Self::Bridge(name) => write!(f, "\"{name}\""),
        }
    }
}
