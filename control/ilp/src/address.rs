//! ILP addresses (RFC 15).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest address, in bytes.
const LENGTH_MAX: usize = 1023;
const SCHEMES: &[&str] = &["g", "private", "example", "peer", "self", "test", "test1", "test2", "test3", "local"];

/// A valid ILP address: a known scheme and at least one more segment.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

/// The text isn't an ILP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ILP address")]
pub struct BadAddress;

impl Address {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address with a segment (or several, with dots) appended.
    pub fn join(&self, segment: &str) -> Result<Self, BadAddress> {
        format!("{}.{segment}", self.0).parse()
    }

    /// The part of `below` after `self.`, if it is an address below this one.
    pub fn strip_prefix_of<'a>(&self, below: &'a Self) -> Option<&'a str> {
        below.0.strip_prefix(self.as_str())?.strip_prefix('.')
    }
}

/// Whether `text` is a valid segment.
pub fn is_segment(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'~' | b'-'))
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let (scheme, rest) = text.split_once('.').ok_or(BadAddress)?;
        let valid = text.len() <= LENGTH_MAX && SCHEMES.contains(&scheme) && rest.split('.').all(is_segment);
        if valid { Ok(Self(text.to_owned())) } else { Err(BadAddress) }
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;

    fn try_from(text: String) -> Result<Self, BadAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_below() {
        let own: Address = "private.host".parse().unwrap();
        let strip = |text: &str| own.strip_prefix_of(&text.parse().unwrap()).map(str::to_owned);
        assert_eq!(strip("private.host.a.b").as_deref(), Some("a.b"));
        assert_eq!(strip("private.host"), None);
        assert_eq!(strip("private.hostess.a"), None);
        assert_eq!(own.join("a~1").unwrap().as_str(), "private.host.a~1");
        assert_eq!(own.join("a b"), Err(BadAddress));
    }
}
