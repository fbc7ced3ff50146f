//! Which addresses a stranger may make us connect to: public ones that aren't our own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use codiusd_net::is_local;

/// Networks of IPv4 that aren't the Internet (IANA's special-purpose registry): first address, length of the prefix.
const NOT_PUBLIC_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];
/// The global unicast range of IPv6.
const PUBLIC_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Exceptions: protocol assignments (Teredo, which embeds an IPv4 address), documentation, 6to4 (embeds one, too).
const NOT_PUBLIC_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether a stranger may make us connect to `address`. If local addresses can't be determined, it is refused.
pub(super) fn is_fair_game(address: IpAddr) -> bool {
    let address = address.to_canonical();
    is_public(address) && matches!(is_local(address), Ok(Some(false)))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let within = |(network, prefix): &(Ipv4Addr, u32)| (network.to_bits() ^ v4.to_bits()).leading_zeros() >= *prefix;
            !NOT_PUBLIC_V4.iter().any(within)
        }
        IpAddr::V6(v6) => {
            let within = |(network, prefix): &(Ipv6Addr, u32)| (network.to_bits() ^ v6.to_bits()).leading_zeros() >= *prefix;
            within(&PUBLIC_V6) && !NOT_PUBLIC_V6.iter().any(within)
        }
    }
}

#[cfg(test)]
mod tests {
    use codiusd_kit::Internet;

    use super::*;

    fn is_public(address: IpAddr) -> bool {
        super::is_public(address.to_canonical())
    }

    #[test]
    fn only_the_internet_is_fair_game() {
        for public in ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.167.0.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for public in ["223.255.255.255", "::ffff:1.1.1.1", "2606:4700::1111", "2a00::1", "2001:200::1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.200.0.2",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "4000::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn every_address_of_this_machine_is_its_own() {
        Internet::run(async |internet| {
            let machine = internet.machine(1);
            machine.run(
                "ip",
                &["-batch", "-"],
                "addr add 11.0.0.2/24 dev eth0\nroute add local 11.1.0.0/16 dev lo\nroute add local 2a00:12::/64 dev lo\n",
            );
            let fair = |address: &str| machine.within(|| is_fair_game(address.parse().unwrap()));
            for own in ["11.0.0.1", "11.0.0.2", "::ffff:11.0.0.1", "::ffff:11.0.0.2", "2a00:11::1", "11.1.2.3", "2a00:12::3"] {
                assert!(!fair(own), "{own}");
            }
            for other in ["11.0.0.3", "::ffff:11.0.0.3", "2a00:11::3", "1.1.1.1"] {
                assert!(fair(other), "{other}");
            }
            machine.run("ip", &["route", "del", "default"], "");
            assert!(!fair("1.1.1.1"), "where nothing can be sent, nothing is");
        });
    }
}
