//! A manifest's name: SHA-256 of its canonical JSON, in base32.

use std::{fmt, str::FromStr};

use codiusd_runtime::PodId;
use sha2::{Digest, Sha256};

/// RFC 4648, in upper case as the crate writes it; without padding.
const ALPHABET: base32::Alphabet = base32::Alphabet::Rfc4648Lower { padding: false };

/// Names a manifest, and the pod made of it: 52 characters of lower-case base32.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ManifestHash(PodId);

/// The text isn't a manifest hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a manifest hash is 52 characters of a-z and 2-7")]
pub struct BadHash;

impl ManifestHash {
    /// The hash of a canonical text.
    pub(super) fn of(canonical: &str) -> Self {
        let text = base32::encode(ALPHABET, &Sha256::digest(canonical.as_bytes()));
        Self(text.parse().unwrap_or_else(|_| unreachable!("32 bytes are 52 characters of base32")))
    }

    /// The pod of that name.
    pub fn pod_id(&self) -> &PodId {
        &self.0
    }
}

impl FromStr for ManifestHash {
    type Err = BadHash;

    fn from_str(text: &str) -> Result<Self, BadHash> {
        text.parse().map(Self).map_err(|_| BadHash)
    }
}

impl fmt::Display for ManifestHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ManifestHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManifestHash({self})")
    }
}
