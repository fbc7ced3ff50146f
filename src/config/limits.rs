//! The limits of the front door: one row for each, with its key, what is allowed, and where it goes.

use std::{ops::RangeInclusive, time::Duration};

use codiusd_proxy::Limits;

use super::{
    ConfigError, Settings,
    keys::{Key, key},
};

/// What the front door bears.
#[derive(Clone, Debug)]
pub struct FrontDoor {
    /// Its own bounds.
    pub limits: Limits,
    /// How long requests under way and tunnels get to finish when the host stops.
    pub drain: Duration,
}

impl Default for FrontDoor {
    fn default() -> Self {
        Self { limits: Limits::default(), drain: Duration::from_secs(10) }
    }
}

/// Where a number goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    Count(fn(&mut FrontDoor) -> &mut usize),
    Streams(fn(&mut FrontDoor) -> &mut u32),
    /// A second's share, or bytes in it.
    Rate(fn(&mut FrontDoor) -> &mut u64),
    Bytes(fn(&mut FrontDoor) -> &mut usize),
    /// Bytes, where 0 is as many as there are.
    BytesOrAll(fn(&mut FrontDoor) -> &mut u64),
    Seconds(fn(&mut FrontDoor) -> &mut Duration),
}

impl Place {
    fn unit(self) -> &'static str {
        match self {
            Self::Count(_) | Self::Streams(_) | Self::Rate(_) => "a number",
            Self::Bytes(_) | Self::BytesOrAll(_) => "a number of bytes",
            Self::Seconds(_) => "a number of seconds",
        }
    }

    /// The ranges of the table fit: saturating only keeps this free of panics.
    fn set(self, door: &mut FrontDoor, number: u64) {
        match self {
            Self::Count(place) | Self::Bytes(place) => *place(door) = usize::try_from(number).unwrap_or(usize::MAX),
            Self::Streams(place) => *place(door) = u32::try_from(number).unwrap_or(u32::MAX),
            Self::Rate(place) => *place(door) = number,
            Self::BytesOrAll(place) => *place(door) = if number == 0 { u64::MAX } else { number },
            Self::Seconds(place) => *place(door) = Duration::from_secs(number),
        }
    }
}

/// One limit.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Its key.
    pub key: Key,
    allowed: RangeInclusive<u64>,
    place: Place,
}

macro_rules! limit {
    ($name:literal, $environment:literal, $default:literal, $help:literal, $allowed:expr, $place:expr) => {
        Limit { key: key($name, &[$environment], Some($default), $help), allowed: $allowed, place: $place }
    };
}

/// All of them, in the order they are explained.
pub const LIMITS: &[Limit] = &[
    limit!(
        "edge_connections",
        "CODIUS_EDGE_CONNECTIONS",
        "100000",
        "client connections open at once; more are closed as they come. Lowered if the process may not open as many files",
        1..=10_000_000,
        Place::Count(|door| &mut door.limits.connections)
    ),
    limit!(
        "edge_connections_per_client",
        "CODIUS_EDGE_CONNECTIONS_PER_CLIENT",
        "512",
        "the same from one client: an IPv4 address, or an IPv6 /64",
        1..=1_000_000,
        Place::Count(|door| &mut door.limits.connections_per_client)
    ),
    limit!(
        "edge_requests_per_client",
        "CODIUS_EDGE_REQUESTS_PER_CLIENT",
        "200",
        "requests a second from one client, twice as many after a quiet second; more get 429",
        1..=1_000_000,
        Place::Rate(|door| &mut door.limits.requests_per_client)
    ),
    limit!(
        "edge_requests_per_pod",
        "CODIUS_EDGE_REQUESTS_PER_POD",
        "20000",
        "the same to one pod",
        1..=10_000_000,
        Place::Rate(|door| &mut door.limits.requests_per_pod)
    ),
    limit!(
        "edge_tunnels_per_pod",
        "CODIUS_EDGE_TUNNELS_PER_POD",
        "4096",
        "WebSockets and other upgraded connections to one pod; more get 503",
        0..=1_000_000,
        Place::Count(|door| &mut door.limits.tunnels_per_pod)
    ),
    limit!(
        "edge_h2_streams",
        "CODIUS_EDGE_H2_STREAMS",
        "100",
        "requests under way on one HTTP/2 connection",
        1..=10_000,
        Place::Streams(|door| &mut door.limits.h2_streams)
    ),
    limit!(
        "edge_header_bytes",
        "CODIUS_EDGE_HEADER_BYTES",
        "65536",
        "bytes of the headers of a request, or of a pod's answer; more get 431",
        8_192..=1_048_576,
        Place::Bytes(|door| &mut door.limits.header_bytes)
    ),
    limit!(
        "edge_header_fields",
        "CODIUS_EDGE_HEADER_FIELDS",
        "1000",
        "fields of the headers of a request, or of a pod's answer; more get 431, or 502",
        100..=10_000,
        Place::Count(|door| &mut door.limits.header_fields)
    ),
    limit!(
        "edge_header_seconds",
        "CODIUS_EDGE_HEADER_SECONDS",
        "10",
        "seconds until they are there, and a PROXY protocol header; then the connection is closed",
        1..=3_600,
        Place::Seconds(|door| &mut door.limits.header_deadline)
    ),
    limit!(
        "edge_handshake_seconds",
        "CODIUS_EDGE_HANDSHAKE_SECONDS",
        "10",
        "seconds until a TLS handshake is done",
        1..=3_600,
        Place::Seconds(|door| &mut door.limits.handshake)
    ),
    limit!(
        "edge_keep_alive_seconds",
        "CODIUS_EDGE_KEEP_ALIVE_SECONDS",
        "60",
        "seconds a client connection may wait between requests",
        1..=86_400,
        Place::Seconds(|door| &mut door.limits.keep_alive)
    ),
    limit!(
        "edge_send_stall_seconds",
        "CODIUS_EDGE_SEND_STALL_SECONDS",
        "60",
        "seconds a client may take nothing of what is sent to it, in answers and tunnels",
        1..=86_400,
        Place::Seconds(|door| &mut door.limits.send_stall)
    ),
    limit!(
        "edge_body_bytes",
        "CODIUS_EDGE_BODY_BYTES",
        "0",
        "bytes of a request body for a pod; more get 413. 0: any number, bodies are passed on and never kept",
        0..=1_125_899_906_842_624,
        Place::BytesOrAll(|door| &mut door.limits.pod_body_bytes)
    ),
    limit!(
        "edge_body_bytes_per_second",
        "CODIUS_EDGE_BODY_BYTES_PER_SECOND",
        "100",
        "what must come of a request body while its answer is awaited; less gets 408. 0: any pace",
        0..=1_000_000_000,
        Place::Rate(|door| &mut door.limits.body_bytes_per_second)
    ),
    limit!(
        "edge_body_grace_seconds",
        "CODIUS_EDGE_BODY_GRACE_SECONDS",
        "60",
        "seconds of waiting for a request body before that counts",
        1..=86_400,
        Place::Seconds(|door| &mut door.limits.body_grace)
    ),
    limit!(
        "edge_connect_seconds",
        "CODIUS_EDGE_CONNECT_SECONDS",
        "2",
        "seconds until a pod has taken a connection; then 504",
        1..=600,
        Place::Seconds(|door| &mut door.limits.connect)
    ),
    limit!(
        "edge_first_byte_seconds",
        "CODIUS_EDGE_FIRST_BYTE_SECONDS",
        "60",
        "seconds until a pod begins to answer once the request is with it; then 504",
        1..=86_400,
        Place::Seconds(|door| &mut door.limits.first_byte)
    ),
    limit!(
        "edge_withdrawn_seconds",
        "CODIUS_EDGE_WITHDRAWN_SECONDS",
        "5",
        "seconds that requests and tunnels to a pod get to finish when its time is over",
        0..=3_600,
        Place::Seconds(|door| &mut door.limits.withdrawn_grace)
    ),
    limit!(
        "edge_drain_seconds",
        "CODIUS_EDGE_DRAIN_SECONDS",
        "10",
        "seconds that requests under way and tunnels get to finish when codiusd stops",
        0..=3_600,
        Place::Seconds(|door| &mut door.drain)
    ),
];

/// What the settings make of the limits.
pub(super) fn front_door(settings: &Settings) -> Result<FrontDoor, ConfigError> {
    let mut door = FrontDoor::default();
    for Limit { key, allowed, place } in LIMITS {
        let right = format!("{} from {} to {}", place.unit(), allowed.start(), allowed.end());
        let number = settings.get(key.name, &right, |text| text.parse().ok().filter(|number| allowed.contains(number)))?;
        place.set(&mut door, number);
    }
    // What is read of a head has to fit.
    door.limits.buffer_bytes = door.limits.buffer_bytes.max(door.limits.header_bytes);
    Ok(door)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(environment: &[(&str, &str)]) -> Result<FrontDoor, String> {
        let owned = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        front_door(&Settings::of_environment(owned)).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_front_door() {
        assert_eq!(format!("{:?}", read(&[]).unwrap()), format!("{:?}", FrontDoor::default()));
    }

    /// Each key changes something, and no two the same.
    #[test]
    fn every_key_has_a_place_of_its_own() {
        let default = format!("{:?}", FrontDoor::default());
        let mut seen = std::collections::BTreeSet::new();
        for Limit { key, allowed, .. } in LIMITS {
            let number = (allowed.start() + 7_919).min(*allowed.end() - 1);
            let changed = format!("{:?}", read(&[(key.environment[0], &number.to_string())]).unwrap());
            assert_ne!(changed, default, "{}", key.name);
            assert!(seen.insert(changed), "{}", key.name);
            assert_eq!(key.environment, [format!("CODIUS_{}", key.name.to_uppercase())]);
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_the_bounds() {
        for Limit { key, allowed, place } in LIMITS {
            let variable = key.environment[0];
            let below = allowed.start().checked_sub(1).map_or_else(|| "-1".to_owned(), |below| below.to_string());
            for bad in [below, (allowed.end() + 1).to_string(), "many".to_owned(), "1.5".to_owned(), "10s".to_owned()] {
                let expected = format!("{variable} = {bad:?}: must be {} from {} to {}", place.unit(), allowed.start(), allowed.end());
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
