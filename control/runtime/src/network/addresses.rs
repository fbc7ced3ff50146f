//! Addresses of pods at a bridge, and what is derived from them. Pure.
//!
//! A pod's address determines the name of its port at the bridge and its hardware address, and the port's name determines the address. So
//! the kernel's own list of ports defines who may send what, and a pod restarted at an address is the same neighbour.
//!
//! Pods get the highest addresses of the bridge's network: hyperd assigns its own from the lowest up.

use std::{collections::HashSet, fmt, net::Ipv4Addr};

use codiusd_net::Ipv4Cidr;

/// Maximum number of addresses that pods get: hyperd runs 1024 pods at most.
const SIZE_MAX: u32 = 1024;
/// Valid prefix lengths: shorter ones aren't a bridge's, and longer ones have no room for a pod.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=30;
/// Prefix of port names; the network and the index in it follow.
const PORT: &str = "ch";
/// Prefix of hardware addresses, locally administered; the IP address follows.
const MAC: [u8; 2] = [0x02, 0xc0];

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mac(pub [u8; 6]);

impl Mac {
    /// The hardware address for an IP address, at any bridge.
    pub(super) fn of(address: Ipv4Addr) -> Self {
        let ([first, second], [a, b, c, d]) = (MAC, address.octets());
        Self([first, second, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The addresses of pods at one bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// Its network.
    pub subnet: Ipv4Cidr,
}

impl Pool {
    /// The pool of a bridge with this address; none if its network has no room for pods.
    pub(crate) fn of(gateway: Ipv4Addr, prefix: u8) -> Option<Self> {
        let network = Ipv4Cidr { network: gateway, prefix };
        PREFIXES.contains(&prefix).then(|| Self { gateway, subnet: Ipv4Cidr { network: network.address(0), prefix } })
    }

    /// All addresses of the pool, the highest first.
    pub(crate) fn addresses(self) -> impl DoubleEndedIterator<Item = Ipv4Addr> {
        let last = self.subnet.size() - 1;
        let first = last.saturating_sub(SIZE_MAX - 1).max(1);
        (first..=last).rev().map(move |offset| self.subnet.address(offset)).filter(move |address| *address != self.gateway)
    }

    /// Whether the address is one of the pool.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        self.addresses().any(|each| each == address)
    }

    /// The prefix of its pods' port names.
    pub(crate) fn port_prefix(self) -> String {
        format!("{PORT}{:08x}", self.subnet.network.to_bits())
    }

    /// The port name of the pod at an address.
    pub(crate) fn port(self, address: Ipv4Addr) -> String {
        let last = self.subnet.size() - 1;
        format!("{}{:03x}", self.port_prefix(), last.saturating_sub(address.to_bits() & self.subnet.size()))
    }

    /// The address of the pod behind a port; none if the port isn't one of these pods'.
    pub(crate) fn address_of(self, port: &str) -> Option<Ipv4Addr> {
        let place = u32::from_str_radix(port.strip_prefix(&self.port_prefix())?, 16).ok()?;
        let address = self.subnet.address((self.subnet.size() - 1).checked_sub(place)?);
        (self.port(address) == port && self.contains(address)).then_some(address)
    }

    /// The hardware address of the pod at an address, or of the bridge.
    pub(crate) fn mac(self, address: Ipv4Addr) -> Mac {
        Mac::of(address)
    }

    /// A free address, the next after `last`; one of the `doubtful` only if there is no other.
    pub(crate) fn choose(self, last: Option<Ipv4Addr>, taken: &HashSet<Ipv4Addr>, doubtful: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let free = |address: &Ipv4Addr| !taken.contains(address);
        let sure = |address: &Ipv4Addr| free(address) && !doubtful.contains(address);
        let in_turn = || {
            let begin = last.and_then(|last| self.addresses().position(|each| each == last)).map_or(0, |place| place + 1);
            self.addresses().skip(begin).chain(self.addresses().take(begin))
        };
        in_turn().find(sure).or_else(|| in_turn().find(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Option<Pool> {
        let (gateway, prefix) = text.split_once('/').unwrap();
        Pool::of(gateway.parse().unwrap(), prefix.parse().unwrap())
    }

    #[test]
    fn every_network_has_its_addresses() {
        let table = [
            ("192.168.123.1/24", 253, "192.168.123.254", "192.168.123.2"),
            ("192.168.123.254/24", 253, "192.168.123.253", "192.168.123.1"),
            ("192.168.123.100/24", 253, "192.168.123.254", "192.168.123.1"),
            ("192.168.123.1/29", 5, "192.168.123.6", "192.168.123.2"),
            ("192.168.123.129/25", 125, "192.168.123.254", "192.168.123.130"),
            ("192.168.123.1/30", 1, "192.168.123.2", "192.168.123.2"),
            ("172.20.0.1/16", 1024, "172.20.255.254", "172.20.251.255"),
            ("10.0.0.1/8", 1024, "10.255.255.254", "10.255.251.255"),
        ];
        for (bridge, many, first, last) in table {
            let pool = pool(bridge).unwrap();
            let all: Vec<String> = pool.addresses().map(|address| address.to_string()).collect();
            assert_eq!((all.len(), all[0].as_str(), all[all.len() - 1].as_str()), (many, first, last), "{bridge}");
        }
        for none in ["192.168.123.1/31", "192.168.123.1/32", "10.0.0.1/7", "10.0.0.1/0"] {
            assert_eq!(pool(none), None, "{none}");
        }
    }

    #[test]
    fn ports_and_addresses_name_each_other() {
        for bridge in ["192.168.123.1/24", "10.0.0.1/8", "192.168.123.9/29"] {
            let pool = pool(bridge).unwrap();
            let ports: HashSet<String> = pool.addresses().map(|address| pool.port(address)).collect();
            assert_eq!(ports.len(), pool.addresses().count(), "{bridge}: no two have one name");
            for address in pool.addresses() {
                let port = pool.port(address);
                assert!(port.len() < 16 && pool.address_of(&port) == Some(address), "{bridge} {address} {port}");
            }
        }
        let pool = pool("192.168.123.1/24").unwrap();
        assert_eq!(pool.port("192.168.123.254".parse().unwrap()), "chc0a87b00000");
        assert_eq!(pool.mac("192.168.123.201".parse().unwrap()).to_string(), "02:c0:c0:a8:7b:c9");
        for other in [
            "",
            "hyper0",
            "vm-abcdefghi0",
            "chc0a87b00",
            "chc0a87b0000",
            "chc0a87b000fd",
            "chc0a87b000ff",
            "chc0a87b00+00",
            "chc0a87a00000",
        ] {
            assert_eq!(pool.address_of(other), None, "{other}");
        }
    }

    #[test]
    fn who_is_chosen_has_nobody_elses() {
        let pool = pool("192.168.123.1/29").unwrap();
        let at = |last: u8| Ipv4Addr::new(192, 168, 123, last);
        let set = |lasts: &[u8]| lasts.iter().map(|last| at(*last)).collect::<HashSet<_>>();
        type Row = (Option<u8>, &'static [u8], &'static [u8], Option<u8>);
        let table: [Row; 9] = [
            (None, &[], &[], Some(6)),
            (Some(6), &[], &[], Some(5)),
            (Some(2), &[], &[], Some(6)),
            (Some(6), &[5, 4], &[], Some(3)),
            (Some(3), &[2, 6], &[], Some(5)),
            (None, &[6], &[5, 4], Some(3)),
            (None, &[6, 3, 2], &[5, 4], Some(5)),
            (None, &[2, 3, 4, 5, 6], &[], None),
            (Some(200), &[], &[], Some(6)),
        ];
        for (last, taken, doubtful, chosen) in table {
            assert_eq!(pool.choose(last.map(at), &set(taken), &set(doubtful)), chosen.map(at), "{last:?} {taken:?} {doubtful:?}");
        }
    }
}
