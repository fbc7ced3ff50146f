//! What https means for a request. Pure.

use http::{HeaderValue, Uri};

use crate::context::conn::Conn;
use crate::request::error_response::Fault;
use crate::request::host::Admitted;

/// Refuses a host other than the one the connection was opened for.
pub(crate) fn check(conn: &Conn, admitted: &Admitted<'_>) -> Result<(), Fault> {
    let named = conn.server_name().zip(admitted.host);
    if named.is_none_or(|(name, host)| agree(name, host)) { Ok(()) } else { Err(Fault::Misdirected) }
}

/// Where at https this request is sent.
pub(crate) fn redirect(conn: &Conn, admitted: &Admitted<'_>, path: &[u8]) -> Option<HeaderValue> {
    let port = conn.edge.redirect.filter(|_| !conn.is_secure())?;
    let path = if path.starts_with(b"/") { path } else { b"/" };
    https_location(admitted.host?, &Uri::try_from(path).ok()?, port)
}

/// Whether the name a client has asked for in its handshake is the host it names in a request. A certificate for many names must not
/// let a client reach one of them over a connection to another.
fn agree(server_name: &str, host: &[u8]) -> bool {
    without_dot(server_name.as_bytes()).eq_ignore_ascii_case(without_dot(name_in(host)))
}

/// Where a request over plain HTTP is sent; none: it is answered, for so a certificate authority asks.
fn https_location(host: &[u8], uri: &Uri, port: u16) -> Option<HeaderValue> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if path.starts_with("/.well-known/acme-challenge/") {
        return None;
    }
    let path = if path.starts_with('/') { path } else { "/" };
    let name = std::str::from_utf8(name_in(host)).ok()?;
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    HeaderValue::from_str(&format!("https://{name}{port}{path}")).ok()
}

fn without_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").unwrap_or(name)
}

/// A valid Host without its port.
fn name_in(host: &[u8]) -> &[u8] {
    let start = if host.starts_with(b"[") { memchr::memchr(b']', host).unwrap_or(0) } else { 0 };
    let colon = host.get(start..).and_then(|rest| memchr::memchr(b':', rest));
    colon.and_then(|colon| host.get(..start + colon)).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_whatever_their_case_port_and_dot() {
        let agrees = |name, host| agree(name, str::as_bytes(host));
        for host in ["a.localhost", "A.Localhost:443", "a.localhost.", "a.localhost.:1"] {
            assert!(agrees("a.localhost", host), "{host}");
        }
        for host in ["b.localhost", "localhost", "a.localhost.evil", "[::1]:443", "xa.localhost", ""] {
            assert!(!agrees("a.localhost", host), "{host}");
        }
    }

    #[test]
    fn http_leads_to_https_at_the_same_place() {
        let location = |host, uri: &'static str, port| {
            let location = https_location(str::as_bytes(host), &Uri::from_static(uri), port)?;
            Some(location.to_str().unwrap().to_owned())
        };
        assert_eq!(location("a.localhost:80", "/x?y=1", 443).as_deref(), Some("https://a.localhost/x?y=1"));
        assert_eq!(location("[::1]:80", "/", 8443).as_deref(), Some("https://[::1]:8443/"));
        assert_eq!(location("a", "http://a/x", 443).as_deref(), Some("https://a/x"));
        assert_eq!(location("a", "*", 443).as_deref(), Some("https://a/"));
        assert_eq!(location("a", "/.well-known/acme-challenge/token", 443), None);
        assert_eq!(location("a", "/.well-known/acme-challenge", 443).as_deref(), Some("https://a/.well-known/acme-challenge"));
    }
}
