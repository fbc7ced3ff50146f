//! Who may come in, and how long one may take: the decision behind every bound that is counted. Pure: counts, sizes and times in,
//! verdict out.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// How much of its rate a client or pod may have at once after a quiet second.
const BURST: u64 = 2;
/// The bits of an IPv6 address that name one customer of a network; the others are the customer's to choose.
const V6_CUSTOMER: u128 = u128::MAX << 64;

/// Whom an address is counted as: itself, or its /64.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & V6_CUSTOMER)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Whether the `current`th request of this second may pass after `previous` in the last one: always up to `per_second`, and up to
/// twice that as long as the last second left room for it.
pub(crate) fn within_rate(previous: u64, current: u64, per_second: u64) -> bool {
    current <= per_second || previous.saturating_add(current) <= per_second.saturating_mul(BURST)
}

/// How long one may wait for a client in all until `received` bytes of its request body are there.
pub(crate) fn body_allowance(received: u64, grace: Duration, bytes_per_second: u64) -> Duration {
    let millis = received.saturating_mul(1000).checked_div(bytes_per_second).unwrap_or(u64::MAX);
    grace.saturating_add(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_is_its_network() {
        let table = [
            ("1.2.3.4", "1.2.3.4"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::9", "2001:db8:1:2::"),
            ("2001:db8:1:3::9", "2001:db8:1:3::"),
        ];
        for (address, counted) in table {
            assert_eq!(counted_as(address.parse().unwrap()), counted.parse::<IpAddr>().unwrap(), "{address}");
        }
    }

    #[test]
    fn a_burst_passes_once() {
        let table = [
            (0, 10, true),
            (0, 20, true),
            (0, 21, false),
            (1_000, 10, true),
            (1_000, 11, false),
            (5, 15, true),
            (5, 16, false),
            (10, 10, true),
            (10, 11, false),
        ];
        for (previous, current, passes) in table {
            assert_eq!(within_rate(previous, current, 10), passes, "{previous} then {current}");
        }
        assert!(!within_rate(0, 1, 0));
        assert!(within_rate(u64::MAX, u64::MAX, u64::MAX));
    }

    #[test]
    fn bytes_earn_time() {
        let grace = Duration::from_secs(5);
        assert_eq!(body_allowance(0, grace, 100), grace);
        assert_eq!(body_allowance(250, grace, 100), Duration::from_millis(7500));
        assert!(body_allowance(0, grace, 0) > Duration::from_secs(1 << 40));
    }
}
