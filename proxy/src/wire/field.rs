//! Which fields are passed on: not those that concern one hop (RFC 9110 section 7.6.1), that frame the message, or that only a proxy
//! may say. Names are compared in lower case; they are written in it, too.

use bytes::BufMut;

use super::syntax;

/// What is done with a field because of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Passed on, unless Connection nominates it.
    Passed,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Te,
    Trailer,
    Upgrade,
    Expect,
    Accept,
    /// Concerns one hop, and isn't needed here.
    HopByHop,
    /// X-Forwarded-For: a list a believed proxy's entries are kept of.
    ForwardedFor,
    /// Forwarded: the same.
    Forwarded,
    ForwardedProto,
    ForwardedHost,
    /// Any other that only a proxy may say: of its clients, or of what it has rewritten.
    Proxys,
    /// Nobody's is passed on: what CGI programs take for the proxy they are to use (CVE-2016-5385), what is the edge's to say, and what a
    /// server that knows no hyphens takes for one of these.
    Nobodys,
}

/// Longest name of a field that isn't simply passed on.
const NAME_MAX: usize = "x-original-forwarded-for".len();

impl Class {
    /// By a name as it came.
    pub(crate) fn of(name: &[u8]) -> Class {
        // Most names differ from all of these in length and first letter.
        if name.len() > NAME_MAX && !starts_with_forwarded(name) || !may_be_special(name) {
            return Class::Passed;
        }
        let mut lower = [0; NAME_MAX];
        let Some(lower) = lower.get_mut(..name.len()) else {
            // Only `X-Forwarded-` followed by something long.
            return if has_underscore(name) { Class::Nobodys } else { Class::Proxys };
        };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        if !has_underscore(lower) {
            return Class::of_lower(lower);
        }
        for byte in lower.iter_mut().filter(|byte| **byte == b'_') {
            *byte = b'-';
        }
        if Class::of_lower(lower) == Class::Passed || lower == b"accept" { Class::Passed } else { Class::Nobodys }
    }

    fn of_lower(name: &[u8]) -> Class {
        match name {
            b"host" => Class::Host,
            b"content-length" => Class::ContentLength,
            b"transfer-encoding" => Class::TransferEncoding,
            b"connection" => Class::Connection,
            b"te" => Class::Te,
            b"trailer" => Class::Trailer,
            b"upgrade" => Class::Upgrade,
            b"expect" => Class::Expect,
            b"accept" => Class::Accept,
            b"keep-alive" | b"proxy-connection" | b"proxy-authenticate" | b"proxy-authorization" | b"http2-settings" => Class::HopByHop,
            b"x-forwarded-for" => Class::ForwardedFor,
            b"x-forwarded-proto" => Class::ForwardedProto,
            b"x-forwarded-host" => Class::ForwardedHost,
            b"forwarded" => Class::Forwarded,
            b"proxy" | b"x-real-ip" | b"x-request-id" => Class::Nobodys,
            b"front-end-https"
            | b"true-client-ip"
            | b"x-client-ip"
            | b"x-cluster-client-ip"
            | b"x-forwarded"
            | b"x-original-for"
            | b"x-original-forwarded-for"
            | b"x-original-host"
            | b"x-original-method"
            | b"x-original-proto"
            | b"x-original-uri"
            | b"x-original-url"
            | b"x-rewrite-url" => Class::Proxys,
            _ if name.starts_with(b"x-forwarded-") => Class::Proxys,
            _ => Class::Passed,
        }
    }

    /// Whether it concerns one connection only (RFC 9110 section 7.6.1); besides those Connection names.
    pub(crate) fn is_hop_by_hop(self) -> bool {
        matches!(self, Class::Connection | Class::HopByHop | Class::Te | Class::TransferEncoding | Class::Upgrade)
    }

    /// Whether a trailer may not have this name: a server that merges trailers with the fields of the head would believe it
    /// (RFC 9110 section 6.5.1).
    pub(crate) fn is_barred_from_trailers(self) -> bool {
        !matches!(self, Class::Passed | Class::Accept)
    }
}

/// Options of Connection that a head may have: each field is held against each of them.
pub(crate) const OPTIONS_MAX: usize = 64;

/// What the Connection fields of a head say (RFC 9110 section 7.6.1).
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Options {
    count: usize,
    closes: bool,
    keeps_alive: bool,
    /// Something is switched to, if Upgrade says what.
    pub(crate) upgrades: bool,
    /// Fields are named that concern this hop.
    pub(crate) nominates: bool,
}

impl Options {
    /// One more field.
    pub(crate) fn add(&mut self, value: &[u8]) {
        for option in syntax::elements(value) {
            self.count += 1;
            match () {
                () if option.eq_ignore_ascii_case(b"close") => self.closes = true,
                () if option.eq_ignore_ascii_case(b"keep-alive") => self.keeps_alive = true,
                () if option.eq_ignore_ascii_case(b"upgrade") => self.upgrades = true,
                () if option.eq_ignore_ascii_case(b"te") => {}
                () => self.nominates = true,
            }
        }
    }

    pub(crate) fn are_too_many(&self) -> bool {
        self.count > OPTIONS_MAX
    }

    /// Whether the connection may be used again (RFC 9112 section 9.3).
    pub(crate) fn keep_alive(&self, is_old: bool) -> bool {
        !self.closes && (!is_old || self.keeps_alive)
    }
}

fn has_underscore(name: &[u8]) -> bool {
    name.contains(&b'_')
}

fn starts_with_forwarded(name: &[u8]) -> bool {
    const START: &[u8] = b"x-forwarded-";
    name.get(..START.len())
        .is_some_and(|start| start.iter().zip(START).all(|(byte, expected)| hyphened(byte.to_ascii_lowercase()) == *expected))
}

fn hyphened(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// By first letter.
fn may_be_special(name: &[u8]) -> bool {
    let first = name.first().map_or(0, u8::to_ascii_lowercase);
    matches!(first, b'a' | b'c' | b'e' | b'f' | b'h' | b'k' | b'p' | b't' | b'u' | b'x')
}

/// Appends a whole field, its name in lower case.
pub(crate) fn put(out: &mut impl BufMut, name: &[u8], value: &[u8]) {
    for byte in name {
        out.put_u8(byte.to_ascii_lowercase());
    }
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Appends a Content-Length.
pub(crate) fn put_length(out: &mut impl BufMut, length: u64) {
    out.put_slice(b"content-length: ");
    syntax::put_decimal(out, length);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_done() {
        let table = [
            ("Host", Class::Host),
            ("CONTENT-LENGTH", Class::ContentLength),
            ("Content_Length", Class::Nobodys),
            ("Transfer_Encoding", Class::Nobodys),
            ("content-lengths", Class::Passed),
            ("Cookie", Class::Passed),
            ("Keep-Alive", Class::HopByHop),
            ("Keep_Alive", Class::Nobodys),
            ("Proxy", Class::Nobodys),
            ("X-Request-ID", Class::Nobodys),
            ("X_Request-ID", Class::Nobodys),
            ("X-Forwarded-For", Class::ForwardedFor),
            ("X_Forwarded_For", Class::Nobodys),
            ("X-Forwarded-For-Anything-That-Is-Long-Enough", Class::Proxys),
            ("X_Forwarded-For-Anything-That-Is-Long-Enough", Class::Nobodys),
            ("X-Forwarded", Class::Proxys),
            ("x-original-forwarded-for", Class::Proxys),
            ("True-Client-IP", Class::Proxys),
            ("x_y", Class::Passed),
            ("Accept", Class::Accept),
            ("Accept-Language", Class::Passed),
            ("Trailer", Class::Trailer),
            ("Expect", Class::Expect),
            ("", Class::Passed),
        ];
        for (name, expected) in table {
            assert_eq!(Class::of(name.as_bytes()), expected, "{name}");
        }
    }
}
