//! Whom the edge believes, whom it doesn't count, and whom it connects to. Pure, but for the question which addresses are the
//! machine's own.
//!
//! # Whose request it is
//!
//! | peer | counted as | X-Forwarded-For, -Proto, -Host, Forwarded |
//! |---|---|---|
//! | in [`Policy::trusted_proxies`] | the last address of X-Forwarded-For that isn't a trusted proxy's; its connections aren't counted per client | appended to, kept |
//! | in [`Policy::uncounted`] | nobody | overwritten |
//! | any other | its own address, IPv6 its /64 | overwritten |
//!
//! A peer on loopback is a tool of the operator's on this machine (pods have networks of their own), so by default it isn't counted.
//! It isn't believed either: only `trusted_proxies` makes a proxy of it, and then the clients it names are counted, loopback or not
//! by the same rule.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use codiusd_net::{Cidr, Ipv4Cidr, ports::is_closed_to_http};

/// Whom the edge believes, counts and connects to.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Proxies in front of this host, whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Clients without bounds of their own; those for all clients and for pods hold for them, too.
    pub uncounted: Vec<Cidr>,
    /// Where pods may be.
    pub upstreams: UpstreamPolicy,
}

impl Default for Policy {
    fn default() -> Self {
        let loopback = [Ipv4Cidr::of([127, 0, 0, 0], 8).into(), Cidr::host(Ipv6Addr::LOCALHOST.into())];
        Policy { trusted_proxies: Vec::new(), uncounted: loopback.to_vec(), upstreams: UpstreamPolicy::Any }
    }
}

impl Policy {
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        includes(&self.trusted_proxies, peer)
    }

    pub(crate) fn counts(&self, client: IpAddr) -> bool {
        !includes(&self.uncounted, client)
    }
}

fn includes(networks: &[Cidr], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// Where a pod may be: what a runtime says is checked before anything is sent there, or it could turn the edge against the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamPolicy {
    /// Anywhere: for tests, whose pods are on loopback.
    Any,
    /// At an address that is nobody else's, and where the runtime's pods are; not at a port on the list of refused ones.
    Pods(PodNetworks),
}

/// Where a runtime puts its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodNetworks {
    /// Not known here.
    Unrestricted,
    /// In one of these; nowhere, if there are none.
    Only(Vec<Cidr>),
}

impl PodNetworks {
    fn include(&self, address: IpAddr) -> bool {
        match self {
            PodNetworks::Unrestricted => true,
            PodNetworks::Only(networks) => includes(networks, address),
        }
    }
}

/// Why a pod is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwanted {
    #[error("the port is on the list of refused ones")]
    Port,
    #[error("the address is loopback, link-local, multicast, broadcast or unspecified")]
    Special,
    #[error("the address is outside the pods' networks")]
    Foreign,
    #[error("the address is this machine's own")]
    Own,
}

impl UpstreamPolicy {
    /// Whether the edge may connect to a pod there. `is_local` says which addresses are this machine's.
    pub(crate) fn check(&self, pod: SocketAddr, is_local: impl FnOnce(IpAddr) -> bool) -> Result<(), Unwanted> {
        let UpstreamPolicy::Pods(networks) = self else { return Ok(()) };
        let address = pod.ip().to_canonical();
        if is_closed_to_http(pod.port()) {
            return Err(Unwanted::Port);
        }
        if is_special(address) {
            return Err(Unwanted::Special);
        }
        if !networks.include(address) {
            return Err(Unwanted::Foreign);
        }
        if is_local(address) { Err(Unwanted::Own) } else { Ok(()) }
    }
}

fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local()
        }
        // ::/96 holds the unspecified and the loopback address, and IPv4 addresses in disguise.
        IpAddr::V6(v6) => v6.to_bits() >> 32 == 0 || v6.is_multicast() || v6.is_unicast_link_local(),
    }
}

/// Whether the address belongs to this machine. What can't be found out is ours; where there is no way, nothing is connected to either.
pub(crate) fn is_local(address: IpAddr) -> bool {
    !matches!(codiusd_net::is_local(address), Ok(Some(false) | None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn pods_are_only_where_pods_are() {
        let own: IpAddr = "10.200.0.1".parse().unwrap();
        let policy = UpstreamPolicy::Pods(PodNetworks::Only(vec![network("10.200.0.0/16"), network("fd00::/8")]));
        let table = [
            ("10.200.0.2:80", Ok(())),
            ("10.200.255.255:65535", Ok(())),
            ("[fd00::2]:3000", Ok(())),
            ("[::ffff:10.200.0.2]:80", Ok(())),
            ("10.200.0.1:80", Err(Unwanted::Own)),
            ("[::ffff:10.200.0.1]:80", Err(Unwanted::Own)),
            ("10.201.0.2:80", Err(Unwanted::Foreign)),
            ("[2001:db8::1]:80", Err(Unwanted::Foreign)),
            ("127.0.0.1:80", Err(Unwanted::Special)),
            ("127.9.9.9:80", Err(Unwanted::Special)),
            ("0.0.0.0:80", Err(Unwanted::Special)),
            ("0.1.2.3:80", Err(Unwanted::Special)),
            ("169.254.169.254:80", Err(Unwanted::Special)),
            ("224.0.0.1:80", Err(Unwanted::Special)),
            ("255.255.255.255:80", Err(Unwanted::Special)),
            ("[::]:80", Err(Unwanted::Special)),
            ("[::1]:80", Err(Unwanted::Special)),
            ("[::7f00:1]:80", Err(Unwanted::Special)),
            ("[::ffff:127.0.0.1]:80", Err(Unwanted::Special)),
            ("[fe80::1]:80", Err(Unwanted::Special)),
            ("[ff02::1]:80", Err(Unwanted::Special)),
            ("10.200.0.2:0", Err(Unwanted::Port)),
            ("10.200.0.2:22", Err(Unwanted::Port)),
            ("10.200.0.2:138", Err(Unwanted::Port)),
            ("10.200.0.2:33534", Err(Unwanted::Port)),
            ("10.200.0.2:33535", Ok(())),
        ];
        for (pod, expected) in table {
            let pod: SocketAddr = pod.parse().unwrap();
            assert_eq!(policy.check(pod, |address| address == own), expected, "{pod}");
            assert_eq!(UpstreamPolicy::Any.check(pod, |_| true), Ok(()), "{pod}");
        }
        let anywhere = UpstreamPolicy::Pods(PodNetworks::Unrestricted);
        assert_eq!(anywhere.check("192.0.2.1:80".parse().unwrap(), |_| false), Ok(()));
        assert_eq!(anywhere.check("127.0.0.1:80".parse().unwrap(), |_| false), Err(Unwanted::Special));
        let nowhere = UpstreamPolicy::Pods(PodNetworks::Only(Vec::new()));
        assert_eq!(nowhere.check("192.0.2.1:80".parse().unwrap(), |_| false), Err(Unwanted::Foreign), "an empty list isn't every network");
    }

    #[test]
    fn the_kernel_knows_the_machines_own_addresses() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        assert!(!is_local("192.0.2.1".parse().unwrap()), "an address for documentation");
    }

    #[test]
    fn loopback_is_not_counted_and_not_trusted() {
        let policy = Policy::default();
        for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let address = loopback.parse().unwrap();
            assert!(!policy.counts(address) && !policy.trusts(address), "{loopback}");
        }
        assert!(policy.counts("10.0.0.1".parse().unwrap()));
    }
}
