//! The head of an answer, and the head its client gets.

use std::mem::MaybeUninit;

use bytes::{BufMut, BytesMut};

use super::field::{self, Class, Field, Options};
use super::{BadHead, Bounds, Decided, FIELDS_MAX, Framing, syntax};

/// What follows the head of an answer (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing, whatever the fields say. What was announced all the same may still come, so the connection isn't used again.
    None {
        announced: bool,
    },
    Length(u64),
    Chunked,
    /// Everything until the connection ends.
    UntilClose,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct AnswerHead<'b> {
    pub(crate) status: u16,
    pub(crate) reason: &'b str,
    pub(crate) body: Body,
    /// A length for a body that doesn't follow: of HEAD.
    said: Option<u64>,
    /// Whether the connection may be used for another request.
    pub(crate) keeps_alive: bool,
    /// The protocol of a 101.
    pub(crate) upgrade: Option<&'b [u8]>,
    nominates: bool,
    pub(crate) fields: Vec<Field<'b>>,
}

/// What an answer is an answer to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) is_head: bool,
}

/// A head, and how many bytes it takes; none: there are more to come.
pub(crate) fn read(bytes: &[u8], bounds: Bounds, asked: Asked) -> Result<Option<(AnswerHead<'_>, usize)>, BadHead> {
    let mut answer = httparse::Response::new(&mut []);
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let Some(room) = room.get_mut(..bounds.fields.min(FIELDS_MAX)) else { return Err(BadHead::TooManyFields) };
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, bytes, room);
    let length = match parsed.map_err(BadHead::of)? {
        httparse::Status::Complete(length) if length <= bounds.bytes => length,
        httparse::Status::Partial if bytes.len() <= bounds.bytes => return Ok(None),
        httparse::Status::Complete(_) | httparse::Status::Partial => return Err(BadHead::TooLong),
    };
    let (Some(status), Some(version)) = (answer.code, answer.version) else { return Err(BadHead::Malformed) };
    let head = AnswerHead::of(status, answer.reason.unwrap_or_default(), version == 0, field::all(answer.headers), asked)?;
    Ok(Some((head, length)))
}

impl<'b> AnswerHead<'b> {
    fn of(status: u16, reason: &'b str, is_old: bool, fields: Vec<Field<'b>>, asked: Asked) -> Result<Self, BadHead> {
        if !(100..1000).contains(&status) {
            return Err(BadHead::Malformed);
        }
        let (mut offer, mut options) = (None, Options::default());
        for field in &fields {
            match field.class {
                Class::Connection => options.add(field.value),
                Class::Upgrade => offer = Some(field.value),
                _ => {}
            }
        }
        if options.are_too_many() {
            return Err(BadHead::Malformed);
        }
        let values = |class: Class| fields.iter().filter(move |field| field.class == class).map(|field| field.value);
        // A chunked answer's length is not the next hop's to see.
        let Decided { framing, .. } = Framing::decide(is_old, values(Class::ContentLength), values(Class::TransferEncoding))?;
        let said = if let Framing::Length(length) = framing { Some(length) } else { None };
        let body = match status {
            100..200 | 304 => Body::None { announced: false },
            204 => Body::None { announced: !matches!(framing, Framing::Unsaid | Framing::Length(0)) },
            // Others read it to the connection's end if it says nothing (RFC 9112 section 6.3 has no exception for it).
            205 => Body::None { announced: framing != Framing::Length(0) },
            _ if asked.is_head => Body::None { announced: false },
            _ => match framing {
                Framing::Length(length) => Body::Length(length),
                Framing::Chunked => Body::Chunked,
                Framing::Unsaid => Body::UntilClose,
            },
        };
        let is_reusable = !matches!(body, Body::None { announced: true } | Body::UntilClose);
        let upgrade = offer.filter(|_| options.upgrades && status == 101);
        Ok(Self {
            status,
            reason,
            body,
            said,
            keeps_alive: options.keep_alive(is_old) && is_reusable,
            upgrade,
            nominates: options.nominates,
            fields,
        })
    }

    /// Whether it has such a field.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    fn is_nominated(&self, name: &[u8]) -> bool {
        let options = self.fields.iter().filter(|field| field.class == Class::Connection);
        self.nominates && options.flat_map(|field| syntax::elements(field.value)).any(|option| option.eq_ignore_ascii_case(name))
    }

    /// The length in the head the client gets, if there is one.
    pub(crate) fn length_passed(&self) -> Option<u64> {
        match (self.body, self.status) {
            (Body::Length(length), _) => Some(length),
            // A cache may know it, and needn't be told (RFC 9110 section 8.6).
            (Body::None { .. }, 100..200 | 204 | 304) => None,
            (Body::None { .. }, 205) => Some(0),
            (Body::None { .. }, _) => self.said,
            (Body::Chunked | Body::UntilClose, _) => None,
        }
    }

    /// The fields that are the client's, too, whatever it speaks. Of those of the pod's connection nothing is left.
    pub(crate) fn passed(&self, client: &Reply<'_>) -> impl Iterator<Item = (&'b [u8], &'b [u8])> {
        let fields = self.fields.iter().filter(|Field { name, class, .. }| match *class {
            Class::ContentLength => false,
            class if class.is_hop_by_hop() => false,
            Class::Trailer => client.coding == Coding::Chunked,
            // Ours is the one that is meant.
            Class::Nobodys if client.request_id.is_some() && name.eq_ignore_ascii_case(b"x-request-id") => false,
            _ => !self.is_nominated(name),
        });
        fields.map(|field| (field.name, field.value))
    }

    /// Writes the head a client of HTTP/1 gets.
    pub(crate) fn put(&self, out: &mut BytesMut, client: &Reply<'_>) {
        put_status_line(out, self.status, self.reason);
        self.passed(client).for_each(|(name, value)| field::put(out, name, value));
        client.put(out, self.length_passed(), self.upgrade);
    }
}

/// Appends `HTTP/1.1 200 OK`.
pub(crate) fn put_status_line(out: &mut BytesMut, status: u16, reason: &str) {
    out.put_slice(b"HTTP/1.1 ");
    syntax::put_decimal(out, status.into());
    out.put_u8(b' ');
    out.put_slice(reason.as_bytes());
    out.put_slice(b"\r\n");
}

/// How a body without a known length is sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Its length is known, or it has none.
    Plain,
    Chunked,
    /// To its end, which is the connection's: HTTP/1.0 knows no chunks.
    UntilClose,
}

/// What the head of an answer says of the client's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply<'a> {
    pub(crate) coding: Coding,
    /// It is the last one on its connection.
    pub(crate) is_last: bool,
    /// To a client of HTTP/1.0 that asked for it.
    pub(crate) says_keep_alive: bool,
    /// Date, unless the answer has that (RFC 9110 section 6.6.1).
    pub(crate) date: Option<&'a [u8]>,
    /// Strict-Transport-Security, unless the answer has that.
    pub(crate) hsts: Option<&'a [u8]>,
    /// Shown in what the control plane answers.
    pub(crate) request_id: Option<&'a [u8]>,
}

impl Reply<'_> {
    /// Nothing besides what the pod has said.
    pub(crate) const BARE: Reply<'static> =
        Reply { coding: Coding::Plain, is_last: false, says_keep_alive: false, date: None, hsts: None, request_id: None };

    fn put(&self, out: &mut BytesMut, length: Option<u64>, upgrade: Option<&[u8]>) {
        if let Some(date) = self.date {
            field::put(out, b"date", date);
        }
        if let Some(hsts) = self.hsts {
            field::put(out, b"strict-transport-security", hsts);
        }
        if let Some(id) = self.request_id {
            field::put(out, b"x-request-id", id);
        }
        if let Some(protocol) = upgrade {
            field::put(out, b"upgrade", protocol);
            field::put(out, b"connection", b"upgrade");
        } else if self.is_last {
            field::put(out, b"connection", b"close");
        } else if self.says_keep_alive {
            field::put(out, b"connection", b"keep-alive");
        }
        if let Some(length) = length {
            field::put_length(out, length);
        }
        if self.coding == Coding::Chunked {
            field::put(out, b"transfer-encoding", b"chunked");
        }
        out.put_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 16 * 1024, fields: 100 };

    fn seen<T>(text: &str, is_head: bool, look: impl FnOnce(&AnswerHead<'_>) -> T) -> Result<Option<T>, BadHead> {
        Ok(read(text.as_bytes(), BOUNDS, Asked { is_head })?.map(|(head, _)| look(&head)))
    }

    #[test]
    fn bodies_end_where_everybody_says() {
        let none = Body::None { announced: false };
        type Row = (&'static str, &'static str, bool, Result<(Body, bool), BadHead>);
        let table: [Row; 21] = [
            ("1.1 200 OK", "Content-Length: 3\r\n", false, Ok((Body::Length(3), true))),
            ("1.1 200 OK", "Content-Length: 3\r\nContent-Length: 3\r\n", false, Ok((Body::Length(3), true))),
            ("1.1 200 OK", "Content-Length: 3\r\nContent-Length: 4\r\n", false, Err(BadHead::Malformed)),
            ("1.1 200 OK", "Content-Length: x\r\n", false, Err(BadHead::Malformed)),
            ("1.1 200 OK", "Transfer-Encoding: chunked\r\n", false, Ok((Body::Chunked, true))),
            ("1.1 200 OK", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", false, Ok((Body::Chunked, true))),
            ("1.1 200 OK", "Transfer-Encoding: gzip, chunked\r\n", false, Err(BadHead::Ambiguous)),
            ("1.0 200 OK", "Transfer-Encoding: chunked\r\n", false, Err(BadHead::Malformed)),
            ("1.1 200 OK", "", false, Ok((Body::UntilClose, false))),
            ("1.1 200 OK", "Connection: close\r\nContent-Length: 3\r\n", false, Ok((Body::Length(3), false))),
            ("1.0 200 OK", "Content-Length: 3\r\n", false, Ok((Body::Length(3), false))),
            ("1.0 200 OK", "Connection: keep-alive\r\nContent-Length: 3\r\n", false, Ok((Body::Length(3), true))),
            ("1.1 200 OK", "Content-Length: 3\r\n", true, Ok((none, true))),
            ("1.1 304 Not Modified", "Content-Length: 3\r\n", false, Ok((none, true))),
            ("1.1 204 No Content", "", false, Ok((none, true))),
            ("1.1 204 No Content", "Content-Length: 4\r\n", false, Ok((Body::None { announced: true }, false))),
            ("1.1 205 Reset Content", "Transfer-Encoding: chunked\r\n", false, Ok((Body::None { announced: true }, false))),
            ("1.1 205 Reset Content", "", false, Ok((Body::None { announced: true }, false))),
            ("1.1 205 Reset Content", "Content-Length: 0\r\n", false, Ok((none, true))),
            ("1.1 103 Early Hints", "Link: </a>\r\n", false, Ok((none, true))),
            ("1.1 099 Odd", "", false, Err(BadHead::Malformed)),
        ];
        for (line, fields, is_head, expected) in table {
            let found = seen(&format!("HTTP/{line}\r\n{fields}\r\n"), is_head, |head| (head.body, head.keeps_alive));
            assert_eq!(found, expected.map(Some), "{line} {fields:?} {is_head}");
        }
    }

    #[test]
    fn the_client_gets_what_is_meant_for_it() {
        let text = "HTTP/1.1 200 Fine\r\nConnection: x-hop, close\r\nX-Hop: 1\r\nServer: pod\r\nContent-Length: 3\r\nKeep-Alive: 5\r\n\r\n";
        let told = |text: &str, is_head: bool, client: Reply<'_>| {
            let mut out = BytesMut::new();
            seen(text, is_head, |head| head.put(&mut out, &client)).unwrap().expect("a whole head");
            String::from_utf8(out.into()).unwrap()
        };
        assert_eq!(told(text, false, Reply::BARE), "HTTP/1.1 200 Fine\r\nserver: pod\r\ncontent-length: 3\r\n\r\n");
        assert_eq!(told(text, true, Reply::BARE), "HTTP/1.1 200 Fine\r\nserver: pod\r\ncontent-length: 3\r\n\r\n", "of HEAD");
        assert_eq!(told("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", false, Reply::BARE), "HTTP/1.1 204 No Content\r\n\r\n");
        let chunked = Reply { coding: Coding::Chunked, is_last: true, ..Reply::BARE };
        let text = "HTTP/1.1 200 OK\r\nTrailer: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(told(text, false, chunked), "HTTP/1.1 200 OK\r\ntrailer: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
        let known = Reply { request_id: Some(b"ours"), ..Reply::BARE };
        let text = "HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(told(text, false, known), "HTTP/1.1 200 OK\r\nx-request-id: ours\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(told(text, false, Reply::BARE), "HTTP/1.1 200 OK\r\nx-request-id: theirs\r\ncontent-length: 0\r\n\r\n");
        let text = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(told(text, false, Reply::BARE), "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
    }
}
