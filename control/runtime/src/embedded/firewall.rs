//! What pods may send to whom: a typed description of one static nftables table, installed whole when the runtime opens.
//!
//! Pods come and go without touching it: rules name the links by their prefix. `nft list table inet NAME` shows it.

mod encode;

use std::{fmt, fs, io, net::Ipv4Addr};

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its first address.
    pub network: Ipv4Addr,
    /// Length of the prefix in bits, 8 to 30.
    pub prefix: u8,
}

impl Subnet {
    /// Ones where the network part is.
    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix.clamp(1, 32)))
    }

    /// The `offset`-th address of the network.
    pub(crate) fn address(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.network.to_bits() & self.mask()) | (offset & !self.mask()))
    }

    /// How many addresses there are.
    pub(crate) fn size(self) -> u32 {
        !self.mask()
    }

    /// Whether some address is in both.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        let shared = self.mask() & other.mask();
        (self.network.to_bits() ^ other.network.to_bits()) & shared == 0
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// A table of family `inet`.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) chains: Vec<Chain>,
}

/// A base chain that accepts what no rule matches.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: Hook,
    pub(crate) rules: Vec<Rule>,
}

/// Where a chain is entered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    Input,
    Forward,
    Postrouting,
}

/// All of `matches`, then `verdict`.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) verdict: Verdict,
}

/// One condition on a packet.
#[derive(Debug)]
pub(crate) enum Match {
    /// Came in by a link whose name begins so.
    From(String),
    /// Leaves by a link whose name begins so.
    To(String),
    /// Leaves by any other link.
    ToOther(String),
    /// Belongs or is related to a known connection.
    Established,
    /// IPv4, destination in the network.
    Destination(Subnet),
    /// IPv4, source in the network.
    Source(Subnet),
    /// Is IPv6.
    Ipv6,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    /// Rewrite the source to the address of the link it leaves by.
    Masquerade,
}

/// The policy for pods whose links begin with `prefix`.
pub(crate) fn policy(table: &str, prefix: &str, pods: Subnet) -> Table {
    let from_pod = || Match::From(prefix.to_owned());
    let to_pod = || Match::To(prefix.to_owned());
    let link_local = Subnet { network: Ipv4Addr::new(169, 254, 0, 0), prefix: 16 };
    let rule = |matches: Vec<Match>, verdict| Rule { matches, verdict };
    Table {
        name: table.to_owned(),
        chains: vec![
            Chain {
                name: "forward",
                hook: Hook::Forward,
                rules: vec![
                    rule(vec![from_pod(), to_pod()], Verdict::Drop),
                    // The metadata service of clouds, which hands out credentials.
                    rule(vec![from_pod(), Match::Destination(link_local)], Verdict::Drop),
                    rule(vec![from_pod(), Match::Ipv6], Verdict::Drop),
                ],
            },
            Chain {
                name: "input",
                hook: Hook::Input,
                rules: vec![rule(vec![from_pod(), Match::Established], Verdict::Accept), rule(vec![from_pod()], Verdict::Drop)],
            },
            Chain {
                name: "postrouting",
                hook: Hook::Postrouting,
                rules: vec![rule(vec![Match::Source(pods), Match::ToOther(prefix.to_owned())], Verdict::Masquerade)],
            },
        ],
    }
}

/// Replaces the table in one transaction and lets the host route.
pub(crate) fn install(table: &Table) -> io::Result<()> {
    encode::install(table)?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")
}

/// Removes the table of that name; fine when there is none. Routing stays on: others may rely on it by now.
pub(crate) fn remove(table: &str) -> io::Result<()> {
    encode::remove(table)
}
