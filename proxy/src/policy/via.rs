//! The connection a request came by, and whom a believed proxy speaks for. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::policy::trust::Policy;
use crate::wire::syntax;

/// The connection a request came by.
#[derive(Debug, Clone)]
pub(crate) struct Via {
    /// Whoever opened it.
    pub(crate) peer: IpAddr,
    /// `peer`, as X-Forwarded-For wants it.
    pub(crate) text: String,
    /// Whether what `peer` says of its own clients is believed.
    pub(crate) trusted: bool,
    /// Whether it is encrypted.
    pub(crate) secure: bool,
}

impl Via {
    pub(crate) fn new(peer: IpAddr, secure: bool, policy: &Policy) -> Via {
        let peer = peer.to_canonical();
        Via { peer, text: peer.to_string(), trusted: policy.trusts(peer), secure }
    }

    /// Who sent the request: the peer, or whom the nearest proxy that isn't believed was talking to, by the values of X-Forwarded-For, the
    /// last one first. An entry that is no address ends the search: what is behind it was said by nobody we know.
    pub(crate) fn client<'b>(&self, fields: impl Iterator<Item = &'b [u8]>, policy: &Policy) -> IpAddr {
        let mut client = self.peer;
        if !self.trusted {
            return client;
        }
        for field in fields {
            for entry in syntax::text(field).unwrap_or_default().rsplit(',') {
                let Some(address) = address_of(entry.trim()) else { return client };
                client = address;
                if !policy.trusts(client) {
                    return client;
                }
            }
        }
        client
    }
}

/// The address in an entry of X-Forwarded-For, which may have a port.
fn address_of(entry: &str) -> Option<IpAddr> {
    let bare = entry.parse().ok().or_else(|| entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
    let address: IpAddr = bare.or_else(|| entry.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], ..Policy::default() }
    }

    fn via(peer: &str, secure: bool) -> Via {
        Via::new(peer.parse().unwrap(), secure, &policy())
    }

    #[test]
    fn a_client_is_the_nearest_address_that_is_no_proxy_of_ours() {
        let table: &[(&str, &[&str], &str)] = &[
            ("1.2.3.4", &["6.6.6.6"], "1.2.3.4"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("::ffff:10.0.0.1", &["6.6.6.6", "1.2.3.4,10.0.0.2 , 10.0.0.3"], "1.2.3.4"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["6.6.6.6, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, unknown, 10.0.0.7"], "10.0.0.7"),
            ("10.0.0.1", &["6.6.6.6, "], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("fd00::1", &["[2001:db8::1]:5678"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["::ffff:1.2.3.4"], "1.2.3.4"),
        ];
        for (peer, chain, client) in table {
            let fields = chain.iter().rev().map(|field| field.as_bytes());
            assert_eq!(via(peer, false).client(fields, &policy()), client.parse::<IpAddr>().unwrap(), "{peer} {chain:?}");
        }
    }
}
