//! Ports that are closed to pods, to those who call them, or to both: the host's own list and what an operator adds to it.

use std::{fmt, str::FromStr};

/// What a port is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Ports of one protocol, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Of which protocol.
    pub protocol: Protocol,
    /// The first; not 0.
    pub first: u16,
    /// The last; not below the first.
    pub last: u16,
}

impl Ports {
    /// One port.
    pub const fn one(protocol: Protocol, port: u16) -> Self {
        Self { protocol, first: port, last: port }
    }

    fn contains(self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { protocol, first, last } if first == last => write!(f, "{protocol}/{first}"),
            Self { protocol, first, last } => write!(f, "{protocol}/{first}-{last}"),
        }
    }
}

/// Reads `tcp/445` or `udp/6881-6889`.
impl FromStr for Ports {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (protocol, ports) = text.split_once('/').ok_or(())?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(()),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
        let (first, last) = number(first).zip(number(last)).ok_or(())?;
        if first <= last { Ok(Self { protocol, first, last }) } else { Err(()) }
    }
}

/// Which way a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By a pod.
    Out,
    /// By anybody else, to a pod.
    In,
}

/// Ports an operator has closed, both ways or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockedPorts {
    /// Which.
    pub ports: Ports,
    /// Which way; none: both.
    pub direction: Option<Direction>,
}

impl BlockedPorts {
    /// Whether connections of that direction are meant.
    pub(crate) fn covers(self, direction: Direction) -> bool {
        self.direction.is_none_or(|only| only == direction)
    }
}

impl fmt::Display for BlockedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.direction {
            None => write!(f, "{}", self.ports),
            Some(Direction::In) => write!(f, "in:{}", self.ports),
            Some(Direction::Out) => write!(f, "out:{}", self.ports),
        }
    }
}

/// Reads `tcp/445`, `in:tcp/8000` or `out:udp/6881-6889`.
impl FromStr for BlockedPorts {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (direction, ports) = match text.split_once(':') {
            None => (None, text),
            Some(("in", ports)) => (Some(Direction::In), ports),
            Some(("out", ports)) => (Some(Direction::Out), ports),
            Some(_) => return Err(()),
        };
        Ok(Self { ports: ports.parse()?, direction })
    }
}

const fn tcp(port: u16) -> Ports {
    Ports::one(Protocol::Tcp, port)
}

const fn udp(port: u16) -> Ports {
    Ports::one(Protocol::Udp, port)
}

/// Mail: what is sent from a host's address ruins it for years.
pub(crate) const MAIL: &[Ports] = &[tcp(25)];
/// Telephony: calls at the expense of others.
pub(crate) const TELEPHONY: &[Ports] = &[tcp(5060), udp(5060)];
/// Services that answer a forged request with a much larger answer, and traceroute's ports.
pub(crate) const REFLECTORS: &[Ports] = &[
    udp(19),
    udp(22),
    udp(80),
    udp(111),
    udp(137),
    udp(138),
    udp(139),
    udp(389),
    udp(520),
    udp(1900),
    udp(5093),
    udp(5353),
    udp(11211),
    Ports { protocol: Protocol::Udp, first: 33434, last: 33534 },
];

/// Why nobody may open connections to that port of a pod; none: anybody may. `blocked` is what the operator has closed.
///
/// A manifest's `port` is the TCP port the front door asks for pages.
pub fn ingress_denied(blocked: &[BlockedPorts], protocol: Protocol, port: u16) -> Option<&'static str> {
    let closed = |blocked: &BlockedPorts| blocked.covers(Direction::In) && blocked.ports.contains(protocol, port);
    match () {
        () if REFLECTORS.iter().any(|ports| ports.contains(protocol, port)) => {
            Some("it is a port whose services amplify attacks on others")
        }
        () if blocked.iter().any(closed) => Some("the operator of this host has closed it"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_written() {
        for text in ["tcp/445", "udp/6881-6889", "in:tcp/8000", "out:udp/1-65535"] {
            assert_eq!(text.parse::<BlockedPorts>().unwrap().to_string(), text);
        }
        for text in
            ["", "445", "tcp/", "tcp/0", "tcp/65536", "tcp/+5", "tcp/9-8", "tcp/1-", "icmp/1", "up:tcp/1", "in:", "tcp/1-2-3", " tcp/1"]
        {
            assert!(text.parse::<BlockedPorts>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_port_is_denied_by_the_list_or_by_the_operator() {
        let blocked: Vec<BlockedPorts> = ["tcp/445", "out:tcp/6667", "in:tcp/8000-8010"].map(|text| text.parse().unwrap()).to_vec();
        for (protocol, port, denied) in [
            (Protocol::Tcp, 80, false),
            (Protocol::Udp, 80, true),
            (Protocol::Udp, 33534, true),
            (Protocol::Udp, 33535, false),
            (Protocol::Tcp, 445, true),
            (Protocol::Udp, 445, false),
            (Protocol::Tcp, 6667, false),
            (Protocol::Tcp, 8005, true),
        ] {
            assert_eq!(ingress_denied(&blocked, protocol, port).is_some(), denied, "{protocol}/{port}");
        }
    }
}
