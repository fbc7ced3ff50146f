//! Names of hosts given by strangers: untrusted text parsed into an origin, or rejected. Pure.

use std::fmt;

use serde::{Serialize, Serializer};
use url::{Host, Url};

/// Longest name parsed, in characters: a domain has at most 253.
const LENGTH_MAX: usize = 300;
/// Below this only the default port is accepted: the others belong to other services.
const OWN_PORT_MIN: u16 = 1024;

/// Which hosts may be contacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Any, including http: development, on one machine.
    Anywhere,
    /// Hosts with a domain name and https, at public addresses.
    Public,
}

/// A host's origin, `https://codius.example.com`, without a trailing slash; each host has one spelling.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerUri(String);

impl PeerUri {
    /// Parses a host's origin; none if it isn't one, or not within reach.
    pub fn parse(text: &str, reach: Reach) -> Option<Self> {
        let url: Url = Some(text).filter(|text| text.len() <= LENGTH_MAX)?.parse().ok()?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        let within_reach = match (reach, url.host()?) {
            (Reach::Anywhere, _) => matches!(url.scheme(), "http" | "https"),
            (Reach::Public, Host::Domain(name)) => {
                let named = name.contains('.') && !name.ends_with('.') && !name.ends_with(".localhost");
                named && url.scheme() == "https" && url.port().is_none_or(|port| port >= OWN_PORT_MIN)
            }
            (Reach::Public, Host::Ipv4(_) | Host::Ipv6(_)) => false,
        };
        (plain && within_reach && url.path() == "/").then(|| Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// The origin as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PeerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PeerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for PeerUri {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        let table = [
            ("https://peer-a.example.com", Some("https://peer-a.example.com")),
            ("HTTPS://Peer-A.example.com:443/", Some("https://peer-a.example.com")),
            ("https://peer.example:8443", Some("https://peer.example:8443")),
            ("https://b\u{fc}cher.example", Some("https://xn--bcher-kva.example")),
            ("https://peer.example./", None),
            ("https://peer.example/path", None),
            ("https://peer.example/?q", None),
            ("https://peer.example/#f", None),
            ("https://user@peer.example", None),
            ("https://:secret@peer.example", None),
            ("https://peer.example:22", None),
            ("http://peer.example", None),
            ("ftp://peer.example", None),
            ("https://peer", None),
            ("https://localhost", None),
            ("https://a.localhost", None),
            ("https://127.0.0.1", None),
            ("https://127.1", None),
            ("https://0x7f000001", None),
            ("https://2130706433", None),
            ("https://8.8.8.8", None),
            ("https://[2606:4700::1111]", None),
            ("https://[::ffff:127.0.0.1]", None),
            ("not a url", None),
            ("", None),
            ("https://", None),
            ("data:text/plain,x", None),
        ];
        for (text, expected) in table {
            assert_eq!(PeerUri::parse(text, Reach::Public).as_ref().map(PeerUri::as_str), expected, "{text}");
        }
        assert_eq!(PeerUri::parse(&format!("https://{}.example", "a.".repeat(200)), Reach::Public), None);
        for text in ["http://localhost:3000", "http://127.0.0.1:3000", "https://host.test"] {
            assert_eq!(PeerUri::parse(text, Reach::Anywhere).as_ref().map(PeerUri::as_str), Some(text));
        }
        assert_eq!(PeerUri::parse("ftp://localhost", Reach::Anywhere), None);
    }
}
