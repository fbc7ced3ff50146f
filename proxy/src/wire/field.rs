//! Which fields are passed on: not those that concern one hop (RFC 9110 section 7.6.1), that frame the message, or that only a proxy
//! may say. Names are compared in lower case; they are written in it, too.

use bytes::BufMut;

use super::syntax;

/// Bytes of a name that are made lower case at once.
const NAME_PART: usize = 32;

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

/// A field of a head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'b> {
    pub(crate) name: &'b [u8],
    pub(crate) value: &'b [u8],
    pub(crate) class: Class,
}

impl<'b> Field<'b> {
    pub(crate) fn new(name: &'b [u8], value: &'b [u8]) -> Self {
        Self { name, value, class: Class::of(name) }
    }
}

/// The fields of a head, with what is done with each.
pub(super) fn all<'b>(headers: &[httparse::Header<'b>]) -> Vec<Field<'b>> {
    headers.iter().map(|header| Field::new(header.name.as_bytes(), header.value)).collect()
}

/// Longest name of a field that isn't simply passed on.
const NAME_MAX: usize = "x-original-forwarded-for".len();
/// What more than one such field begins with.
const FORWARDED: &[u8] = b"x-forwarded-";

/// The lengths, as bits, of names that aren't simply passed on, by their first letter: most names are told apart by these two.
const LENGTHS: [u32; 26] = {
    let mut lengths = [0; 26];
    let mut number = 0;
    while number < SPECIAL.len() {
        let name = SPECIAL[number].0.as_bytes();
        lengths[(name[0] - b'a') as usize] |= 1 << name.len();
        number += 1;
    }
    lengths
};

/// Names that aren't simply passed on, in lower case.
const SPECIAL: [(&str, Class); 34] = [
    ("host", Class::Host),
    ("accept", Class::Accept),
    ("content-length", Class::ContentLength),
    ("transfer-encoding", Class::TransferEncoding),
    ("connection", Class::Connection),
    ("te", Class::Te),
    ("trailer", Class::Trailer),
    ("upgrade", Class::Upgrade),
    ("expect", Class::Expect),
    ("keep-alive", Class::HopByHop),
    ("proxy-connection", Class::HopByHop),
    ("proxy-authenticate", Class::HopByHop),
    ("proxy-authorization", Class::HopByHop),
    ("http2-settings", Class::HopByHop),
    ("x-forwarded-for", Class::ForwardedFor),
    ("x-forwarded-proto", Class::ForwardedProto),
    ("x-forwarded-host", Class::ForwardedHost),
    ("forwarded", Class::Forwarded),
    ("proxy", Class::Nobodys),
    ("x-real-ip", Class::Nobodys),
    ("x-request-id", Class::Nobodys),
    ("front-end-https", Class::Proxys),
    ("true-client-ip", Class::Proxys),
    ("x-client-ip", Class::Proxys),
    ("x-cluster-client-ip", Class::Proxys),
    ("x-forwarded", Class::Proxys),
    ("x-original-for", Class::Proxys),
    ("x-original-forwarded-for", Class::Proxys),
    ("x-original-host", Class::Proxys),
    ("x-original-method", Class::Proxys),
    ("x-original-proto", Class::Proxys),
    ("x-original-uri", Class::Proxys),
    ("x-original-url", Class::Proxys),
    ("x-rewrite-url", Class::Proxys),
];

impl Class {
    /// By a name as it came.
    pub(crate) fn of(name: &[u8]) -> Class {
        let Some(first) = name.first().map(u8::to_ascii_lowercase) else { return Class::Passed };
        let lengths = LENGTHS.get(usize::from(first.wrapping_sub(b'a'))).copied().unwrap_or_default();
        let may_be_special = name.len() <= NAME_MAX && lengths >> name.len() & 1 == 1;
        if may_be_special || first == b'x' && starts_with_forwarded(name) { Class::of_special(name) } else { Class::Passed }
    }

    fn of_special(name: &[u8]) -> Class {
        let has_underscore = name.contains(&b'_');
        let mut lower = [0; NAME_MAX];
        let Some(lower) = lower.get_mut(..name.len()) else {
            // Only `X-Forwarded-` followed by something long.
            return if has_underscore { Class::Nobodys } else { Class::Proxys };
        };
        lower.copy_from_slice(name);
        lower.iter_mut().for_each(|byte| *byte = hyphened(byte.to_ascii_lowercase()));
        match Class::of_lower(lower) {
            class if !has_underscore => class,
            Class::Passed | Class::Accept => Class::Passed,
            // A server that knows no hyphens takes it for one of these.
            _ => Class::Nobodys,
        }
    }

    fn of_lower(name: &[u8]) -> Class {
        let special = SPECIAL.iter().find(|(special, _)| special.as_bytes() == name);
        let others = if name.starts_with(FORWARDED) { Class::Proxys } else { Class::Passed };
        special.map_or(others, |(_, class)| *class)
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

fn starts_with_forwarded(name: &[u8]) -> bool {
    let start = name.get(..FORWARDED.len()).unwrap_or_default();
    !start.is_empty() && start.iter().zip(FORWARDED).all(|(byte, expected)| hyphened(byte.to_ascii_lowercase()) == *expected)
}

fn hyphened(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// Appends a whole field, its name in lower case.
pub(crate) fn put(out: &mut impl BufMut, name: &[u8], value: &[u8]) {
    for part in name.chunks(NAME_PART) {
        let mut lower = [0; NAME_PART];
        if let Some(lower) = lower.get_mut(..part.len()) {
            lower.copy_from_slice(part);
            lower.make_ascii_lowercase();
            out.put_slice(lower);
        }
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
