//! Which fields are passed on: not those that concern one hop (RFC 9110 section 7.6.1), that frame the message, or that only a proxy
//! may say. Names are compared in lower case; they are written in it, too.

use bytes::{BufMut, BytesMut};

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

/// Bytes of the longest Content-Length field.
const LENGTH_FIELD: usize = "content-length: 18446744073709551615\r\n".len();
/// Longest name of a field that isn't simply passed on.
const NAME_MAX: usize = "x-original-forwarded-for".len();
/// What more than one such field begins with.
const FORWARDED: &[u8] = b"x-forwarded-";

/// Of names that aren't simply passed on and begin with one letter: their lengths, as bits, and where in [`SPECIAL`] they are. Most
/// names are told apart by letter and length.
#[derive(Clone, Copy)]
struct Initial {
    lengths: u32,
    begin: usize,
    end: usize,
}

const INITIALS: [Initial; 26] = {
    let mut initials = [Initial { lengths: 0, begin: 0, end: 0 }; 26];
    let mut number = 0;
    while number < SPECIAL.len() {
        let name = SPECIAL[number].0.as_bytes();
        let initial = &mut initials[(name[0] - b'a') as usize];
        assert!(initial.lengths == 0 || initial.end == number, "names with one initial stand together");
        if initial.lengths == 0 {
            initial.begin = number;
        }
        initial.end = number + 1;
        initial.lengths |= 1 << name.len();
        number += 1;
    }
    initials
};

/// Names that aren't simply passed on, in lower case, those with one initial together.
const SPECIAL: [(&str, Class); 34] = [
    ("host", Class::Host),
    ("http2-settings", Class::HopByHop),
    ("accept", Class::Accept),
    ("content-length", Class::ContentLength),
    ("connection", Class::Connection),
    ("transfer-encoding", Class::TransferEncoding),
    ("te", Class::Te),
    ("trailer", Class::Trailer),
    ("true-client-ip", Class::Proxys),
    ("upgrade", Class::Upgrade),
    ("expect", Class::Expect),
    ("keep-alive", Class::HopByHop),
    ("proxy-connection", Class::HopByHop),
    ("proxy-authenticate", Class::HopByHop),
    ("proxy-authorization", Class::HopByHop),
    ("proxy", Class::Nobodys),
    ("x-forwarded-for", Class::ForwardedFor),
    ("x-forwarded-proto", Class::ForwardedProto),
    ("x-forwarded-host", Class::ForwardedHost),
    ("x-real-ip", Class::Nobodys),
    ("x-request-id", Class::Nobodys),
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
    ("forwarded", Class::Forwarded),
    ("front-end-https", Class::Proxys),
];

impl Class {
    /// By a name as it came.
    pub(crate) fn of(name: &[u8]) -> Class {
        let Some(first) = name.first().map(u8::to_ascii_lowercase) else { return Class::Passed };
        let Some(initial) = INITIALS.get(usize::from(first.wrapping_sub(b'a'))) else { return Class::Passed };
        let has_length = name.len() <= NAME_MAX && initial.lengths >> name.len() & 1 == 1;
        let special = SPECIAL.get(initial.begin..initial.end).filter(|_| has_length).unwrap_or_default();
        let class = match special.iter().find(|(special, _)| is_like(name, special.as_bytes())) {
            Some((_, class)) => *class,
            None if first == b'x' && name.get(..FORWARDED.len()).is_some_and(|start| is_like(start, FORWARDED)) => Class::Proxys,
            None => return Class::Passed,
        };
        match class {
            class if !name.contains(&b'_') => class,
            Class::Accept => Class::Passed,
            // A server that knows no hyphens takes it for one of these.
            _ => Class::Nobodys,
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
                () if option.eq_ignore_ascii_case(b"keep-alive") => self.keeps_alive = true,
                () if option.eq_ignore_ascii_case(b"close") => self.closes = true,
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

/// Whether a name is this one in lower case, underscores taken for hyphens. Of the bytes of tokens only letters become
/// others of a special name by that bit.
fn is_like(name: &[u8], special: &[u8]) -> bool {
    let same = |byte: u8, expected: u8| byte | 0x20 == expected || byte == b'_' && expected == b'-';
    name.len() == special.len() && name.iter().zip(special).all(|(byte, expected)| same(*byte, *expected))
}

/// Appends a whole field, its name in lower case.
pub(crate) fn put(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    let start = out.len();
    out.extend_from_slice(name);
    if let Some(name) = out.get_mut(start..) {
        name.make_ascii_lowercase();
    }
    out.put_slice(b": ");
    out.extend_from_slice(value);
    out.put_slice(b"\r\n");
}

/// Appends a Content-Length.
pub(crate) fn put_length(out: &mut BytesMut, length: u64) {
    out.reserve(LENGTH_FIELD);
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
