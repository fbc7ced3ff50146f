//! Ports an operator blocks for connections from pods, to pods, or both.

use std::{fmt, str::FromStr};

use codiusd_net::ports::{ParsePortsError, Ports, Protocol, REFLECTORS};

/// The direction in which a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By a pod.
    Out,
    /// By anyone else, to a pod.
    In,
}

/// Ports an operator has blocked, in one direction or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockedPorts {
    /// The ports.
    pub ports: Ports,
    /// The direction; none: both.
    pub direction: Option<Direction>,
}

impl BlockedPorts {
    /// Whether it blocks connections of that direction.
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

/// Parses `tcp/445`, `in:tcp/8000` or `out:udp/6881-6889`.
impl FromStr for BlockedPorts {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<Self, ParsePortsError> {
        let (direction, ports) = match text.split_once(':') {
            None => (None, text),
            Some(("in", ports)) => (Some(Direction::In), ports),
            Some(("out", ports)) => (Some(Direction::Out), ports),
            Some(_) => return Err(ParsePortsError),
        };
        Ok(Self { ports: ports.parse()?, direction })
    }
}

/// Why connections to that port of a pod are denied; none if they are allowed. `blocked` are the operator's blocked ports.
///
/// A manifest's `port` is the TCP port to which the edge sends requests for pages.
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
