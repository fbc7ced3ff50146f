//! Networks in CIDR notation (RFC 4632, RFC 4291 section 2.3).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

/// Addresses of one family with the same leading bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// The text is neither an address nor `ADDRESS/PREFIX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a network is an address, or an address, a slash and the length of its prefix")]
pub struct ParseCidrError;

impl Cidr {
    /// The addresses whose first `prefix` bits are those of `address`.
    ///
    /// # Errors
    ///
    /// An address of this family has fewer bits.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, ParseCidrError> {
        if prefix > Self::host(address).prefix { Err(ParseCidrError) } else { Ok(Self { address, prefix }) }
    }

    /// One address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether the address is in it; an IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.prefix),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.prefix),
            _ => false,
        }
    }
}

impl From<Ipv4Cidr> for Cidr {
    fn from(network: Ipv4Cidr) -> Self {
        Self { address: network.address(0).into(), prefix: network.prefix }
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| ParseCidrError)?;
        match prefix {
            None => Ok(Self::host(address)),
            Some(prefix) => Self::new(address, prefix.parse().map_err(|_| ParseCidrError)?),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Cidr {
    /// Its first address.
    pub network: Ipv4Addr,
    /// Length of the prefix in bits, 1 to 32.
    pub prefix: u8,
}

impl Ipv4Cidr {
    /// The network of that many leading bits.
    pub const fn of([a, b, c, d]: [u8; 4], prefix: u8) -> Self {
        Self { network: Ipv4Addr::new(a, b, c, d), prefix }
    }

    /// The network mask.
    pub fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix.clamp(1, 32)))
    }

    /// The `offset`-th address of the network.
    pub fn address(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.network.to_bits() & self.mask()) | (offset & !self.mask()))
    }

    /// The number of addresses, minus one.
    pub fn size(self) -> u32 {
        !self.mask()
    }

    /// Whether the networks share an address.
    pub fn overlaps(self, other: Self) -> bool {
        let shared = self.mask() & other.mask();
        (self.network.to_bits() ^ other.network.to_bits()) & shared == 0
    }

    /// Whether all its addresses are private (RFC 1918) or shared (RFC 6598).
    pub fn is_private(self) -> bool {
        let private =
            [Self::of([10, 0, 0, 0], 8), Self::of([172, 16, 0, 0], 12), Self::of([192, 168, 0, 0], 16), Self::of([100, 64, 0, 0], 10)];
        private.iter().any(|network| self.prefix >= network.prefix && self.overlaps(*network))
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Reads a network by its first address and its prefix.
impl FromStr for Ipv4Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let (network, prefix) = text.split_once('/').ok_or(ParseCidrError)?;
        let (network, prefix) = (network.parse().map_err(|_| ParseCidrError)?, prefix.parse().map_err(|_| ParseCidrError)?);
        let parsed = Self { network, prefix };
        let is_whole = (1..=32).contains(&parsed.prefix) && parsed.network == parsed.address(0);
        if is_whole { Ok(parsed) } else { Err(ParseCidrError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_prefixes() {
        let table = [
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("10.1.0.0/16", "::ffff:10.1.2.3", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
        ];
        for (text, address, contains) in table {
            assert_eq!(network(text).contains(address.parse().unwrap()), contains, "{address} in {text}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "10.0.0.0/-1", "localhost"] {
            assert_eq!(bad.parse::<Cidr>(), Err(ParseCidrError), "{bad}");
        }
        assert_eq!(network("::1").to_string(), "::1/128");
    }

    #[test]
    fn ipv4_networks_are_read_by_their_first_address() {
        for bad in ["", "10.0.0.1/8", "10.0.0.0", "10.0.0.0/0", "10.0.0.0/33", "::/8"] {
            assert_eq!(bad.parse::<Ipv4Cidr>(), Err(ParseCidrError), "{bad}");
        }
        let pods: Ipv4Cidr = "10.200.0.0/16".parse().unwrap();
        assert!(Cidr::from(pods).contains("10.200.255.255".parse().unwrap()) && !Cidr::from(pods).contains("10.201.0.0".parse().unwrap()));
        for (text, private) in
            [("10.200.0.0/16", true), ("100.64.0.0/10", true), ("8.0.0.0/8", false), ("10.0.0.0/7", false), ("172.16.0.0/12", true)]
        {
            assert_eq!(text.parse::<Ipv4Cidr>().unwrap().is_private(), private, "{text}");
        }
    }
}
