//! TCP and UDP ports, and those that are closed to pods regardless of the operator's settings.

use std::{fmt, str::FromStr};

/// The protocol of a port.
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
    /// Their protocol.
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

    /// Whether they include a port of a protocol.
    pub fn contains(self, protocol: Protocol, port: u16) -> bool {
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

/// The text is neither `tcp/PORT` nor `udp/FIRST-LAST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ports are tcp/PORT, udp/PORT, or a range such as udp/6881-6889")]
pub struct ParsePortsError;

/// Reads `tcp/445` or `udp/6881-6889`.
impl FromStr for Ports {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<Self, ParsePortsError> {
        let (protocol, ports) = text.split_once('/').ok_or(ParsePortsError)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(ParsePortsError),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
        let (first, last) = number(first).zip(number(last)).ok_or(ParsePortsError)?;
        if first <= last { Ok(Self { protocol, first, last }) } else { Err(ParsePortsError) }
    }
}

const fn tcp(port: u16) -> Ports {
    Ports::one(Protocol::Tcp, port)
}

const fn udp(port: u16) -> Ports {
    Ports::one(Protocol::Udp, port)
}

/// Mail: spam sent from a host's address ruins its reputation for years.
pub const MAIL: &[Ports] = &[tcp(25)];
/// Telephony: calls at the expense of others.
pub const TELEPHONY: &[Ports] = &[tcp(5060), udp(5060)];
/// Services that answer a forged request with a much larger answer, and traceroute's ports.
pub const REFLECTORS: &[Ports] = &[
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

/// Whether the edge refuses to reach a pod's web server at this port: its usual service speaks another protocol, or answers a forged
/// request with a larger answer. Port 80 is open: only its UDP side is abused.
pub fn is_closed_to_http(port: u16) -> bool {
    let has = |ports: &Ports| (ports.first..=ports.last).contains(&port);
    port == 0 || port != 80 && MAIL.iter().chain(REFLECTORS).any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_servers_are_reached_at_any_port_that_is_not_abused() {
        for (port, closed) in [
            (0, true),
            (80, false),
            (443, false),
            (22, true),
            (25, true),
            (138, true),
            (33_534, true),
            (33_535, false),
            (8080, false),
            (5060, false),
        ] {
            assert_eq!(is_closed_to_http(port), closed, "{port}");
        }
    }
}
