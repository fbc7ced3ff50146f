//! IPv4 networks.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its first address.
    pub network: Ipv4Addr,
    /// Length of the prefix in bits, 1 to 32.
    pub prefix: u8,
}

impl Subnet {
    /// The network of that many leading bits.
    pub(crate) const fn of([a, b, c, d]: [u8; 4], prefix: u8) -> Self {
        Self { network: Ipv4Addr::new(a, b, c, d), prefix }
    }

    /// Ones where the network part is.
    pub(crate) fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix.clamp(1, 32)))
    }

    /// The `offset`-th address of the network.
    pub(crate) fn address(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.network.to_bits() & self.mask()) | (offset & !self.mask()))
    }

    /// How many addresses there are, less one.
    pub(crate) fn size(self) -> u32 {
        !self.mask()
    }

    /// Whether some address is in both.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        let shared = self.mask() & other.mask();
        (self.network.to_bits() ^ other.network.to_bits()) & shared == 0
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (network, prefix) = text.split_once('/').ok_or(())?;
        let parsed = Self { network: network.parse().map_err(|_| ())?, prefix: prefix.parse().map_err(|_| ())? };
        let whole = (1..=32).contains(&parsed.prefix) && parsed.network == parsed.address(0);
        if whole { Ok(parsed) } else { Err(()) }
    }
}
