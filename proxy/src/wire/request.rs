//! The head of a request, and the head its upstream gets.

use std::mem::MaybeUninit;

use bytes::{BufMut, BytesMut};

use super::field::{self, Class, Field, Options};
use super::{BadHead, Bounds, Decided, FIELDS_MAX, Framing, syntax};

/// Where a request goes, as its line says (RFC 9112 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'b> {
    /// Of the absolute form.
    pub(crate) authority: Option<&'b [u8]>,
    /// Path and query, without a fragment. Of the absolute form it may lack its slash.
    pub(crate) path: &'b [u8],
}

/// What the head of a request says that decides what is done with it. It is read in one pass over its fields.
#[derive(Debug)]
pub(crate) struct RequestHead<'b> {
    pub(crate) method: &'b [u8],
    pub(crate) target: Target<'b>,
    /// The target is none that is served: HTTP/2 lets it be anything.
    pub(crate) has_odd_target: bool,
    /// HTTP/1.0.
    pub(crate) is_old: bool,
    pub(crate) host: Option<&'b [u8]>,
    /// Several Host fields.
    pub(crate) has_hosts: bool,
    pub(crate) framing: Framing,
    /// Whether the connection may be used for another request, as far as the client is concerned.
    pub(crate) keeps_alive: bool,
    /// That the client waits for 100 Continue before it sends its body (RFC 9110 section 10.1.1), as it says it.
    pub(crate) expect: Option<&'b [u8]>,
    /// Whether it takes trailers (RFC 9110 section 10.1.4).
    pub(crate) takes_trailers: bool,
    /// What it wants to upgrade to, if that can be passed on: Connection asks for it, it is one offer, and not HTTP/2 in clear, which
    /// would let a client speak past the edge's rules.
    pub(crate) upgrade: Option<&'b [u8]>,
    /// Trailers are announced.
    has_trailer: bool,
    nominates: bool,
    pub(crate) fields: Vec<Field<'b>>,
}

/// A head, and how many bytes it takes; none: there are more to come.
pub(crate) fn read(bytes: &[u8], bounds: Bounds) -> Result<Option<(RequestHead<'_>, usize)>, BadHead> {
    let mut request = httparse::Request::new(&mut []);
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let Some(room) = room.get_mut(..bounds.fields.min(FIELDS_MAX)) else { return Err(BadHead::TooManyFields) };
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, room);
    let length = match parsed.map_err(BadHead::of)? {
        httparse::Status::Complete(length) if length <= bounds.bytes => length,
        httparse::Status::Partial if bytes.len() <= bounds.bytes => return Ok(None),
        httparse::Status::Complete(_) | httparse::Status::Partial => return Err(BadHead::TooLong),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(BadHead::Malformed);
    };
    let (method, target) = (method.as_bytes(), target.as_bytes());
    let target =
        if method == b"CONNECT" { Target { authority: Some(target), path: b"" } } else { Target::of(target).ok_or(BadHead::Malformed)? };
    let head = RequestHead::of(method, target, version == 0, field::all(request.headers))?;
    Ok(Some((head, length)))
}

/// Whether an offer is HTTP/2 in clear.
fn is_plain_h2(offer: &[u8]) -> bool {
    syntax::elements(offer).any(|name| name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"h2")))
}

impl<'b> Target<'b> {
    /// None: it is of no form that is served. That of CONNECT is a name alone, and isn't looked at.
    fn of(text: &'b [u8]) -> Option<Target<'b>> {
        let text = text.split(|byte| *byte == b'#').next().unwrap_or_default();
        if text.starts_with(b"/") || text == b"*" {
            return Some(Target { authority: None, path: text });
        }
        let rest = ["http://", "https://"].iter().find_map(|scheme| {
            let (start, rest) = text.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
        })?;
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        (!authority.is_empty()).then_some(Target { authority: Some(authority), path })
    }
}

impl<'b> RequestHead<'b> {
    /// The head of a request of HTTP/2, which frames its content by itself: what no length is known of comes in chunks.
    pub(crate) fn of_http2(method: &'b [u8], target: Target<'b>, has_content: bool, fields: Vec<Field<'b>>) -> Result<Self, BadHead> {
        let mut head = Self::of(method, target, false, fields)?;
        head.host = head.host.or(target.authority);
        if head.framing == Framing::Unsaid && has_content {
            head.framing = Framing::Chunked;
        }
        Ok(head)
    }

    fn of(method: &'b [u8], target: Target<'b>, is_old: bool, fields: Vec<Field<'b>>) -> Result<Self, BadHead> {
        let mut head = RequestHead {
            method,
            target,
            has_odd_target: false,
            is_old,
            host: None,
            has_hosts: false,
            framing: Framing::Unsaid,
            keeps_alive: !is_old,
            expect: None,
            takes_trailers: false,
            upgrade: None,
            has_trailer: false,
            nominates: false,
            fields,
        };
        let (mut options, mut offer, mut offers) = (Options::default(), None, 0);
        let mut is_framed = false;
        for &Field { value, class, .. } in &head.fields {
            match class {
                Class::Host => {
                    head.has_hosts |= head.host.is_some();
                    head.host = Some(value);
                }
                Class::ContentLength | Class::TransferEncoding => is_framed = true,
                Class::Connection => options.add(value),
                Class::Te => {
                    head.takes_trailers |= syntax::elements(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
                }
                Class::Trailer => head.has_trailer = true,
                Class::Upgrade => {
                    offers += 1;
                    offer = Some(value);
                }
                Class::Expect if value.eq_ignore_ascii_case(b"100-continue") => head.expect = Some(value),
                _ => {}
            }
        }
        if options.are_too_many() {
            return Err(BadHead::Malformed);
        }
        head.keeps_alive = options.keep_alive(is_old);
        head.nominates = options.nominates;
        if is_framed {
            let Decided { framing, has_both } =
                Framing::decide(is_old, head.values(Class::ContentLength), head.values(Class::TransferEncoding))?;
            // Nobody who means well sends both, and whoever is in front of us may believe the other one.
            if has_both {
                return Err(BadHead::Ambiguous);
            }
            head.framing = framing;
        }
        let can_upgrade = !is_old && options.upgrades && offers == 1 && !head.has_body();
        head.upgrade = offer.filter(|offer| can_upgrade && !is_plain_h2(offer));
        Ok(head)
    }

    /// Whether its body comes when it is asked for.
    pub(crate) fn waits_for_continue(&self) -> bool {
        self.expect.is_some() && self.has_body() && !self.is_old
    }

    /// Whether something follows the head.
    pub(crate) fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::Unsaid | Framing::Length(0))
    }

    /// What kinds of content the client takes.
    pub(crate) fn accepts(&self) -> impl Iterator<Item = &'b [u8]> {
        self.values(Class::Accept)
    }

    /// Whom a proxy says it speaks for, the last one last.
    pub(crate) fn forwarded_for(&self) -> impl DoubleEndedIterator<Item = &'b [u8]> {
        self.values(Class::ForwardedFor)
    }

    /// Whether trailers may follow.
    pub(crate) fn has_trailer(&self) -> bool {
        self.has_trailer && self.framing == Framing::Chunked
    }

    /// A field of the client's own.
    pub(crate) fn value_of(&self, name: &str) -> Option<&'b [u8]> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }

    fn values(&self, class: Class) -> impl DoubleEndedIterator<Item = &'b [u8]> {
        self.fields.iter().filter(move |field| field.class == class).map(|field| field.value)
    }

    /// Whether Connection names this field.
    fn is_nominated(&self, name: &[u8]) -> bool {
        self.nominates && self.values(Class::Connection).flat_map(syntax::elements).any(|option| option.eq_ignore_ascii_case(name))
    }

    /// Writes the head its upstream gets, but for its end and the fields that `forwarded` has; those of strangers that only a proxy may
    /// send are left out.
    pub(crate) fn put(&self, out: &mut BytesMut, forwarded: &Forwarded<'_>) {
        out.put_slice(self.method);
        out.put_u8(b' ');
        if !self.target.path.starts_with(b"/") && self.target.path != b"*" {
            out.put_u8(b'/');
        }
        out.put_slice(self.target.path);
        out.put_slice(b" HTTP/1.1\r\n");
        // The field is demanded, even without a name (RFC 9112 section 3.2).
        field::put(out, b"host", forwarded.host.unwrap_or_default());
        for &Field { name, value, class } in &self.fields {
            let is_passed = match class {
                Class::Passed | Class::Accept => !self.is_nominated(name),
                Class::Trailer => self.framing == Framing::Chunked,
                Class::Proxys => forwarded.is_believed && self.values_named(name) == 1 && !self.is_nominated(name),
                _ => false,
            };
            if is_passed {
                field::put(out, name, value);
            }
        }
        self.put_forwarded(out, forwarded);
        field::put(out, b"x-request-id", forwarded.request_id);
        match (self.upgrade, self.takes_trailers) {
            (Some(protocol), _) => {
                field::put(out, b"upgrade", protocol);
                field::put(out, b"connection", b"upgrade");
            }
            (None, true) => {
                field::put(out, b"te", b"trailers");
                field::put(out, b"connection", b"te");
            }
            (None, false) => {}
        }
        if let Some(expect) = self.expect.filter(|_| self.waits_for_continue()) {
            field::put(out, b"expect", expect);
        }
        match self.framing {
            Framing::Unsaid => {}
            Framing::Length(length) => field::put_length(out, length),
            Framing::Chunked => field::put(out, b"transfer-encoding", b"chunked"),
        }
        out.put_slice(b"\r\n");
    }

    fn values_named(&self, name: &[u8]) -> usize {
        self.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count()
    }

    /// Of a stranger: what is known of this connection. Of a believed proxy: what it says of those before it, and this hop; what it
    /// doesn't say, or says twice, is said of this hop.
    fn put_forwarded(&self, out: &mut BytesMut, forwarded: &Forwarded<'_>) {
        // Of a list that isn't text nobody knows what it says.
        let list = |class: Class| {
            let values = forwarded.is_believed.then(|| self.values(class).map(syntax::text).collect::<Option<Vec<_>>>());
            values.flatten().unwrap_or_default()
        };
        out.put_slice(b"x-forwarded-for: ");
        put_joined(out, &list(Class::ForwardedFor));
        out.put_slice(forwarded.peer);
        out.put_slice(b"\r\n");
        let said = list(Class::Forwarded);
        if !said.is_empty() {
            out.put_slice(b"forwarded: ");
            put_joined(out, &said);
            out.put_slice(b"for=");
            let is_v6 = forwarded.peer.contains(&b':');
            out.put_slice(if is_v6 { b"\"[" } else { b"" });
            out.put_slice(forwarded.peer);
            out.put_slice(if is_v6 { b"]\"" } else { b"" });
            out.put_slice(b"\r\n");
        }
        let only = |class: Class| {
            let mut values = forwarded.is_believed.then(|| self.values(class))?;
            values.next().filter(|_| values.next().is_none())
        };
        let scheme = only(Class::ForwardedProto).filter(|scheme| matches!(*scheme, b"http" | b"https"));
        field::put(out, b"x-forwarded-proto", scheme.unwrap_or(if forwarded.is_secure { b"https" } else { b"http" }));
        if let Some(host) = only(Class::ForwardedHost).or(forwarded.host) {
            field::put(out, b"x-forwarded-host", host);
        }
    }
}

fn put_joined(out: &mut BytesMut, values: &[&str]) {
    for value in values {
        out.put_slice(value.as_bytes());
        out.put_slice(b", ");
    }
}

/// What the upstream is told of where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarded<'a> {
    /// The host as the client wrote it; only HTTP/1.0 may leave it out.
    pub(crate) host: Option<&'a [u8]>,
    /// Whoever opened the connection: an address.
    pub(crate) peer: &'a [u8],
    /// Whether the peer is a proxy that is believed.
    pub(crate) is_believed: bool,
    /// Whether the connection is encrypted.
    pub(crate) is_secure: bool,
    pub(crate) request_id: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::super::field::OPTIONS_MAX;
    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 16 * 1024, fields: 100 };

    fn seen<T>(text: &str, look: impl FnOnce(&RequestHead<'_>) -> T) -> Result<Option<T>, BadHead> {
        Ok(read(text.as_bytes(), BOUNDS)?.map(|(head, _)| look(&head)))
    }

    /// The head an upstream gets.
    fn passed(text: &str, is_believed: bool) -> String {
        let forwarded = Forwarded { host: Some(b"h"), peer: b"1.2.3.4", is_believed, is_secure: false, request_id: b"id" };
        let mut out = BytesMut::new();
        seen(text, |head| head.put(&mut out, &forwarded)).unwrap().expect("a whole head");
        String::from_utf8(out.into()).unwrap()
    }

    #[test]
    fn framing_is_decided_once_and_strictly() {
        let table: [(&str, Result<Framing, BadHead>); 30] = [
            ("", Ok(Framing::Unsaid)),
            ("Content-Length: 0\r\n", Ok(Framing::Length(0))),
            ("Content-Length: 5\r\n", Ok(Framing::Length(5))),
            ("content-length:\t5 \r\n", Ok(Framing::Length(5))),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Ok(Framing::Length(5))),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(BadHead::Malformed)),
            ("Content-Length: 5, 5\r\n", Err(BadHead::Malformed)),
            ("Content-Length: +5\r\n", Err(BadHead::Malformed)),
            ("Content-Length: \r\n", Err(BadHead::Malformed)),
            ("Content-Length: 18446744073709551615\r\n", Err(BadHead::Malformed)),
            ("Transfer-Encoding: chunked\r\n", Ok(Framing::Chunked)),
            ("TRANSFER-ENCODING: Chunked\r\n", Ok(Framing::Chunked)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(BadHead::Ambiguous)),
            ("Content-Length: nonsense\r\nTransfer-Encoding: chunked\r\n", Err(BadHead::Ambiguous)),
            ("Content-Length: 5\nTransfer-Encoding: chunked\n", Err(BadHead::Ambiguous)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(BadHead::Ambiguous)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(BadHead::Ambiguous)),
            ("Transfer-Encoding: chunked,\r\n", Err(BadHead::Ambiguous)),
            ("Transfer-Encoding: identity\r\n", Err(BadHead::Ambiguous)),
            ("Transfer-Encoding:\r\n", Err(BadHead::Ambiguous)),
            ("Transfer-Encoding: \x0bchunked\r\n", Err(BadHead::Malformed)),
            ("Transfer-Encoding: \"chunked\"\r\n", Err(BadHead::Ambiguous)),
            ("Transfer-Encoding : chunked\r\n", Err(BadHead::Malformed)),
            ("Transfer-Encoding:\r\n chunked\r\n", Err(BadHead::Malformed)),
            (" Transfer-Encoding: chunked\r\n", Err(BadHead::Malformed)),
            ("X: y\rTransfer-Encoding: chunked\r\n", Err(BadHead::Malformed)),
            ("X: y\0\r\n", Err(BadHead::Malformed)),
            ("X Y: z\r\n", Err(BadHead::Malformed)),
            (": z\r\n", Err(BadHead::Malformed)),
            ("X\r\n", Err(BadHead::Malformed)),
        ];
        for (fields, expected) in table {
            let found = seen(&format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"), |head| head.framing);
            assert_eq!(found, expected.map(Some), "{fields:?}");
        }
        let options = |many| seen(&format!("GET / HTTP/1.1\r\nConnection: {}\r\n\r\n", "a,".repeat(many)), |_| ());
        assert_eq!((options(OPTIONS_MAX), options(OPTIONS_MAX + 1)), (Ok(Some(())), Err(BadHead::Malformed)));
        assert_eq!(seen("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", |_| ()), Err(BadHead::Malformed));
    }

    #[test]
    fn targets_have_a_form_or_are_refused() {
        type Row = (&'static str, Option<(Option<&'static str>, &'static str)>);
        let table: [Row; 14] = [
            ("/", Some((None, "/"))),
            ("/a?b=c", Some((None, "/a?b=c"))),
            ("/a?b#c", Some((None, "/a?b"))),
            ("/\"<>{}|\\^`", Some((None, "/\"<>{}|\\^`"))),
            ("/\u{e4}", Some((None, "/\u{e4}"))),
            ("//x@y/", Some((None, "//x@y/"))),
            ("*", Some((None, "*"))),
            ("http://h", Some((Some("h"), ""))),
            ("HTTPS://h:1/a?b", Some((Some("h:1"), "/a?b"))),
            ("http://h?b", Some((Some("h"), "?b"))),
            ("http://", None),
            ("http:///a", None),
            ("ftp://h/", None),
            ("h:80", None),
        ];
        for (text, expected) in table {
            let found = Target::of(text.as_bytes());
            let expected = expected.map(|(authority, path)| Target { authority: authority.map(str::as_bytes), path: path.as_bytes() });
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_head_is_read_when_it_is_whole_wherever_it_is_cut() {
        let text = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
        let whole = text.len() - 3;
        for end in 0..=text.len() {
            let found = read(&text.as_bytes()[..end], BOUNDS).unwrap();
            assert_eq!(found.map(|(_, length)| length), (end >= whole).then_some(whole), "{end}");
        }
        let long = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(BOUNDS.bytes));
        assert_eq!(seen(&long, |_| ()), Err(BadHead::TooLong));
        assert_eq!(seen(&format!("{long}\r\n\r\n"), |_| ()), Err(BadHead::TooLong));
        assert_eq!(seen(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101)), |_| ()), Err(BadHead::TooManyFields));
    }

    #[test]
    fn what_concerns_this_hop_or_is_a_proxys_to_say_stays_here() {
        let text = "GET http://h/a HTTP/1.1\r\nHost: h\r\nConnection: close, X-Mine, host\r\nX-Mine: 1\r\nX-Yours: 2\r\nKeep-Alive: 5\r\n\
                    X-Forwarded-For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nProxy: x\r\nX-Original-URL: /b\r\nTE: gzip, trailers\r\n\r\n";
        let expected = "GET /a HTTP/1.1\r\nhost: h\r\nx-yours: 2\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: http\r\n\
                        x-forwarded-host: h\r\nx-request-id: id\r\nte: trailers\r\nconnection: te\r\n\r\n";
        assert_eq!(passed(text, false), expected);
        assert_eq!(seen(text, |head| head.keeps_alive), Ok(Some(false)));
    }

    #[test]
    fn a_believed_proxys_words_are_added_to() {
        let text = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nForwarded: for=6.6.6.6\r\n\
                    X-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\nX-Original-URL: /b\r\nX-Client-IP: 1\r\nX-Client-IP: 2\r\n\r\n";
        let expected = "GET / HTTP/1.1\r\nhost: h\r\nx-original-url: /b\r\nx-forwarded-for: 6.6.6.6, 7.7.7.7, 1.2.3.4\r\n\
                        forwarded: for=6.6.6.6, for=1.2.3.4\r\nx-forwarded-proto: https\r\nx-forwarded-host: h\r\nx-request-id: id\r\n\r\n";
        assert_eq!(passed(text, true), expected);
    }

    #[test]
    fn a_list_that_is_no_text_says_nothing_and_what_connection_names_stays_here() {
        let text = "GET / HTTP/1.1\r\nHost: h\r\nConnection: x-original-url\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: \u{e4}\r\n\
                    Forwarded: for=\u{e4}\r\nX-Original-URL: /b\r\n\r\n";
        let expected = "GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: http\r\nx-forwarded-host: h\r\n\
                        x-request-id: id\r\n\r\n";
        assert_eq!(passed(text, true), expected);
    }

    #[test]
    fn an_upgrade_is_one_offer_that_connection_asks_for() {
        let table = [
            ("Connection: Upgrade\r\nUpgrade: websocket\r\n", Some("websocket")),
            ("Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n", Some("websocket")),
            ("Upgrade: websocket\r\n", None),
            ("Connection: upgrade\r\nUpgrade: h2c\r\n", None),
            ("Connection: upgrade\r\nUpgrade: websocket, H2C\r\n", None),
            ("Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n", None),
            ("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", None),
        ];
        for (fields, expected) in table {
            let found = seen(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"), |head| head.upgrade.map(<[u8]>::to_vec));
            assert_eq!(found, Ok(Some(expected.map(|name| name.as_bytes().to_vec()))), "{fields:?}");
        }
    }
}
