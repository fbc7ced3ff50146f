//! The limits of the edge: one row for each, with its key, the allowed range, and the field it sets.

use std::{ops::RangeInclusive, time::Duration};

use codiusd_proxy::Limits;

use super::{
    ConfigError, Settings,
    key::Key,
    kind::Kind,
    units::{parse_duration, parse_size},
};

/// Limits of the edge.
#[derive(Clone, Debug)]
pub struct EdgeLimits {
    /// Limits of the proxy.
    pub limits: Limits,
    /// How long requests in progress and tunnels may take to finish when the host stops.
    pub drain: Duration,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self { limits: Limits::default(), drain: Duration::from_secs(10) }
    }
}

/// The field that a limit sets.
#[derive(Clone, Copy, Debug)]
enum Target {
    Count(fn(&mut EdgeLimits) -> &mut usize),
    Streams(fn(&mut EdgeLimits) -> &mut u32),
    /// A rate per second: a count, or bytes.
    Rate(fn(&mut EdgeLimits) -> &mut u64),
    Bytes(fn(&mut EdgeLimits) -> &mut usize),
    /// Bytes, where 0 means unlimited.
    BytesOrAll(fn(&mut EdgeLimits) -> &mut u64),
    Time(fn(&mut EdgeLimits) -> &mut Duration),
}

impl Target {
    const fn kind(&self) -> Kind {
        match self {
            Self::Count(_) | Self::Streams(_) | Self::Rate(_) => Kind::Number,
            Self::Bytes(_) | Self::BytesOrAll(_) => Kind::Size,
            Self::Time(_) => Kind::Duration,
        }
    }

    /// The expected value, for errors.
    fn right(self, allowed: &RangeInclusive<u64>) -> String {
        let (least, most) = (allowed.start(), allowed.end());
        match self {
            Self::Count(_) | Self::Streams(_) | Self::Rate(_) => format!("a number from {least} to {most}"),
            Self::Bytes(_) => format!("a size such as 64KiB, from {} to {}", size(*least), size(*most)),
            Self::BytesOrAll(_) => format!("unlimited, or a size such as 1GiB, up to {}", size(*most)),
            Self::Time(_) => format!("a duration such as 10s, from {least}s to {most}s"),
        }
    }

    fn parse(self, text: &str) -> Option<u64> {
        match self {
            Self::Count(_) | Self::Streams(_) | Self::Rate(_) => text.parse().ok(),
            Self::BytesOrAll(_) if text == "unlimited" => Some(0),
            Self::Bytes(_) | Self::BytesOrAll(_) => parse_size(text),
            Self::Time(_) => parse_duration(text).filter(|time| time.subsec_nanos() == 0).map(|time| time.as_secs()),
        }
    }

    /// Sets the field. The ranges in the table fit the types; saturating only avoids panics.
    fn set(self, edge: &mut EdgeLimits, number: u64) {
        match self {
            Self::Count(place) | Self::Bytes(place) => *place(edge) = usize::try_from(number).unwrap_or(usize::MAX),
            Self::Streams(place) => *place(edge) = u32::try_from(number).unwrap_or(u32::MAX),
            Self::Rate(place) => *place(edge) = number,
            Self::BytesOrAll(place) => *place(edge) = if number == 0 { u64::MAX } else { number },
            Self::Time(place) => *place(edge) = Duration::from_secs(number),
        }
    }
}

/// One limit.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Its key.
    pub key: Key,
    allowed: RangeInclusive<u64>,
    target: Target,
}

macro_rules! limit {
    ($name:literal, $environment:literal, $default:literal, $help:literal, $allowed:expr, $place:expr) => {
        Limit {
            key: Key {
                path: $name,
                environment: &[$environment],
                kind: $place.kind(),
                default: Some($default),
                example: None,
                help: $help,
                secret: false,
            },
            allowed: $allowed,
            target: $place,
        }
    };
}

/// All limits, in the order of the documentation.
pub const LIMITS: &[Limit] = &[
    limit!(
        "limits.connections",
        "CODIUS_EDGE_CONNECTIONS",
        "100000",
        "open client connections; more are closed at once. Lowered if the process may not open as many files",
        1..=10_000_000,
        Target::Count(|edge| &mut edge.limits.connections)
    ),
    limit!(
        "limits.connections_per_client",
        "CODIUS_EDGE_CONNECTIONS_PER_CLIENT",
        "512",
        "open connections per client: an IPv4 address, or an IPv6 /64",
        1..=1_000_000,
        Target::Count(|edge| &mut edge.limits.connections_per_client)
    ),
    limit!(
        "limits.requests_per_client",
        "CODIUS_EDGE_REQUESTS_PER_CLIENT",
        "200",
        "requests per second per client, with bursts of twice that; more get 429",
        1..=1_000_000,
        Target::Rate(|edge| &mut edge.limits.requests_per_client)
    ),
    limit!(
        "limits.requests_per_pod",
        "CODIUS_EDGE_REQUESTS_PER_POD",
        "20000",
        "requests per second per pod, with bursts of twice that; more get 429",
        1..=10_000_000,
        Target::Rate(|edge| &mut edge.limits.requests_per_pod)
    ),
    limit!(
        "limits.tunnels_per_pod",
        "CODIUS_EDGE_TUNNELS_PER_POD",
        "4096",
        "WebSockets and other upgraded connections per pod; more get 503",
        0..=1_000_000,
        Target::Count(|edge| &mut edge.limits.tunnels_per_pod)
    ),
    limit!(
        "limits.h2_streams",
        "CODIUS_EDGE_H2_STREAMS",
        "100",
        "concurrent requests on one HTTP/2 connection",
        1..=10_000,
        Target::Streams(|edge| &mut edge.limits.h2_streams)
    ),
    limit!(
        "limits.header_size",
        "CODIUS_EDGE_HEADER_BYTES",
        "64KiB",
        "size of the head of a request or of a pod's response; a larger one gets 431 or 502",
        8_192..=1_048_576,
        Target::Bytes(|edge| &mut edge.limits.header_bytes)
    ),
    limit!(
        "limits.header_fields",
        "CODIUS_EDGE_HEADER_FIELDS",
        "1000",
        "header fields of a request or of a pod's response; more get 431 or 502",
        100..=10_000,
        Target::Count(|edge| &mut edge.limits.header_fields)
    ),
    limit!(
        "limits.header_timeout",
        "CODIUS_EDGE_HEADER_SECONDS",
        "10s",
        "time a client has to send a request head or a PROXY protocol header; then the connection is closed",
        1..=3_600,
        Target::Time(|edge| &mut edge.limits.header_deadline)
    ),
    limit!(
        "limits.handshake_timeout",
        "CODIUS_EDGE_HANDSHAKE_SECONDS",
        "10s",
        "time a TLS handshake may take",
        1..=3_600,
        Target::Time(|edge| &mut edge.limits.handshake)
    ),
    limit!(
        "limits.keep_alive",
        "CODIUS_EDGE_KEEP_ALIVE_SECONDS",
        "60s",
        "time a client connection may be idle between requests",
        1..=86_400,
        Target::Time(|edge| &mut edge.limits.keep_alive)
    ),
    limit!(
        "limits.send_stall",
        "CODIUS_EDGE_SEND_STALL_SECONDS",
        "60s",
        "time a client may accept no data of a response or a tunnel; then the connection is closed",
        1..=86_400,
        Target::Time(|edge| &mut edge.limits.send_stall)
    ),
    limit!(
        "limits.body_size",
        "CODIUS_EDGE_BODY_BYTES",
        "unlimited",
        "size of a request body for a pod; a larger one gets 413. Bodies are streamed, never stored",
        0..=1_125_899_906_842_624,
        Target::BytesOrAll(|edge| &mut edge.limits.pod_body_bytes)
    ),
    limit!(
        "limits.body_bytes_per_second",
        "CODIUS_EDGE_BODY_BYTES_PER_SECOND",
        "100",
        "lowest rate of a request body, in bytes per second; a slower one gets 408. 0: any rate",
        0..=1_000_000_000,
        Target::Rate(|edge| &mut edge.limits.body_bytes_per_second)
    ),
    limit!(
        "limits.body_grace",
        "CODIUS_EDGE_BODY_GRACE_SECONDS",
        "60s",
        "time before that rate is enforced",
        1..=86_400,
        Target::Time(|edge| &mut edge.limits.body_grace)
    ),
    limit!(
        "limits.connect_timeout",
        "CODIUS_EDGE_CONNECT_SECONDS",
        "2s",
        "time a pod has to accept a connection; then 504",
        1..=600,
        Target::Time(|edge| &mut edge.limits.connect)
    ),
    limit!(
        "limits.first_byte_timeout",
        "CODIUS_EDGE_FIRST_BYTE_SECONDS",
        "60s",
        "time a pod has to begin its response; then 504",
        1..=86_400,
        Target::Time(|edge| &mut edge.limits.first_byte)
    ),
    limit!(
        "limits.withdrawn_grace",
        "CODIUS_EDGE_WITHDRAWN_SECONDS",
        "5s",
        "time that requests and tunnels of a pod get to finish when it expires",
        0..=3_600,
        Target::Time(|edge| &mut edge.limits.withdrawn_grace)
    ),
    limit!(
        "limits.drain_timeout",
        "CODIUS_EDGE_DRAIN_SECONDS",
        "10s",
        "time that requests and tunnels get to finish when codiusd stops",
        0..=3_600,
        Target::Time(|edge| &mut edge.drain)
    ),
];

/// Reads the limits from the settings.
pub(super) fn edge_limits(settings: &Settings) -> Result<EdgeLimits, ConfigError> {
    let mut edge = EdgeLimits::default();
    for Limit { key, allowed, target } in LIMITS {
        let number = settings.get(key.path, &target.right(allowed), |text| target.parse(text).filter(|number| allowed.contains(number)))?;
        target.set(&mut edge, number);
    }
    // A whole head must fit into the buffer.
    edge.limits.buffer_bytes = edge.limits.buffer_bytes.max(edge.limits.header_bytes);
    Ok(edge)
}

/// A size in its largest whole unit.
fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.iter().find(|(_, bits)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    whole.map_or_else(|| format!("{bytes}B"), |(name, bits)| format!("{}{name}", bytes >> bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(environment: &[(&str, &str)]) -> Result<EdgeLimits, String> {
        let owned = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::of_environment(owned).and_then(|settings| edge_limits(&settings)).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_edge_limits() {
        assert_eq!(format!("{:?}", read(&[]).unwrap()), format!("{:?}", EdgeLimits::default()));
    }

    /// Every key changes a field of its own.
    #[test]
    fn every_key_has_a_place_of_its_own() {
        let default = format!("{:?}", EdgeLimits::default());
        let mut seen = std::collections::BTreeSet::new();
        for Limit { key, allowed, .. } in LIMITS {
            let number = (allowed.start() + 7_919).min(*allowed.end() - 1);
            let changed = format!("{:?}", read(&[(key.environment[0], &number.to_string())]).unwrap());
            assert_ne!(changed, default, "{}", key.path);
            assert!(seen.insert(changed), "{}", key.path);
            assert!(key.environment.len() == 1 && key.environment[0].starts_with("CODIUS_EDGE_"), "{}", key.path);
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_the_bounds() {
        for Limit { key, allowed, target } in LIMITS {
            let variable = key.environment[0];
            let below = allowed.start().checked_sub(1).map_or_else(|| "-1".to_owned(), |below| below.to_string());
            for bad in [below, (allowed.end() + 1).to_string(), "many".to_owned(), "1.5".to_owned(), "10x".to_owned()] {
                let expected = format!("{variable} = {bad:?}: must be {}", target.right(allowed));
                assert_eq!(read(&[(variable, &bad)]).unwrap_err(), expected);
            }
            for good in [allowed.start(), allowed.end()] {
                assert!(read(&[(variable, &good.to_string())]).is_ok(), "{variable} = {good}");
            }
        }
    }

    #[test]
    fn large_heads_have_room_and_no_bound_on_bodies_is_none() {
        let limits = read(&[("CODIUS_EDGE_HEADER_BYTES", "1048576")]).unwrap().limits;
        assert_eq!(limits.buffer_bytes, 1_048_576);
        assert_eq!(read(&[("CODIUS_EDGE_BODY_BYTES", "0")]).unwrap().limits.pod_body_bytes, u64::MAX);
    }
}
