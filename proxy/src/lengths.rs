//! What hyper does not tell of a request: that its head has both Content-Length and Transfer-Encoding. hyper believes the latter and
//! drops the former, as it may (RFC 9112 section 6.3); but nobody who means well sends both, and whoever is in front of us may believe
//! the other one. So the bytes on their way to hyper are looked at, line by line, as long as they are heads.
//!
//! A head whose request has a body ends the look: what follows is body, and the next head is looked at from where it comes alone. One
//! that comes in the same read as the body before it is left to hyper, which closes the connection after such a request.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is looked for at the start of a line.
const LENGTH: &[u8] = b"content-length:";
const ENCODING: &[u8] = b"transfer-encoding:";
const LINE: usize = ENCODING.len();

/// The requests of a connection, counted, and which of them has two lengths.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    begun: AtomicU64,
    ambiguous: AtomicU64,
}

impl Requests {
    /// hyper hands over the next one.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the last one has two lengths.
    pub(crate) fn is_ambiguous(&self) -> bool {
        let ambiguous = self.ambiguous.load(Ordering::Relaxed);
        ambiguous != 0 && ambiguous == self.begun.load(Ordering::Relaxed)
    }
}

/// Heads as they come in.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    /// The current head's number, from 1; 0: what comes is no head.
    number: u64,
    /// How the current line begins, when it began in an earlier read.
    begun: [u8; LINE],
    begun_len: usize,
    has_line: bool,
    has_length: bool,
    has_encoding: bool,
}

impl Heads {
    /// A request ended before the bytes that come next: if those of an earlier one are not being looked at, these are.
    pub(crate) fn resume(&mut self, requests: &Requests) {
        if self.number == 0 {
            *self = Heads { number: requests.begun.load(Ordering::Relaxed) + 1, ..Heads::default() };
        }
    }

    /// Whether all that was read is known to be heads that hyper has handed over.
    pub(crate) fn is_between(&self, requests: &Requests) -> bool {
        self.number == requests.begun.load(Ordering::Relaxed) + 1 && !self.has_line && self.begun_len == 0
    }

    /// Looks at the bytes of one read.
    pub(crate) fn read(&mut self, bytes: &[u8], requests: &Requests) {
        if self.number == 0 {
            return;
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = bytes.get(start..end).unwrap_or_default();
            start = end + 1;
            if self.begun_len == 0 {
                self.line(line, requests);
            } else {
                self.keep(line);
                let (begun, len) = (self.begun, std::mem::take(&mut self.begun_len));
                self.line(begun.get(..len).unwrap_or_default(), requests);
            }
            if self.number == 0 {
                return;
            }
        }
        self.keep(bytes.get(start..).unwrap_or_default());
    }

    fn keep(&mut self, bytes: &[u8]) {
        let free = self.begun.get_mut(self.begun_len..).unwrap_or_default();
        let count = free.len().min(bytes.len());
        for (to, from) in free.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.begun_len += count;
    }

    fn line(&mut self, line: &[u8], requests: &Requests) {
        match line {
            // Empty lines before a request are none of it (RFC 9112 section 2.2).
            [] | [b'\r'] if !self.has_line => return,
            [] | [b'\r'] => return self.head_ended(requests),
            [b'c' | b'C', ..] => self.has_length |= starts_with(line, LENGTH),
            [b't' | b'T', ..] => self.has_encoding |= starts_with(line, ENCODING),
            _ => {}
        }
        self.has_line = true;
    }

    fn head_ended(&mut self, requests: &Requests) {
        if self.has_length && self.has_encoding {
            requests.ambiguous.store(self.number, Ordering::Relaxed);
        }
        let number = if self.has_length || self.has_encoding { 0 } else { self.number + 1 };
        *self = Heads { number, ..Heads::default() };
    }
}

fn starts_with(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the requests that come in these pieces are ambiguous: hyper takes each over as soon as its head is there.
    fn ambiguous(pieces: &[&[u8]]) -> bool {
        let (mut heads, requests) = (Heads::default(), Requests::default());
        heads.resume(&requests);
        for piece in pieces {
            heads.read(piece, &requests);
        }
        requests.begin();
        requests.is_ambiguous()
    }

    #[test]
    fn a_head_with_two_lengths_is_told_from_others() {
        let table: &[(&str, bool)] = &[
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nTRANSFER-encoding:chunked\r\nX: y\r\ncontent-LENGTH:4\r\n\r\n", true),
            ("\r\n\n\r\nPOST / HTTP/1.1\nContent-Length: 4\nTransfer-Encoding: chunked\n\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nContent-Length: 4\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nX-Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nContent-Lengths: 4\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nX: y\r\n\r\n", false),
        ];
        for (text, expected) in table {
            let bytes = text.as_bytes();
            assert_eq!(ambiguous(&[bytes]), *expected, "{text:?}");
            for cut in 1..bytes.len() {
                let (first, second) = bytes.split_at(cut);
                assert_eq!(ambiguous(&[first, second]), *expected, "{text:?} cut at {cut}");
            }
            assert_eq!(ambiguous(&bytes.chunks(1).collect::<Vec<_>>()), *expected, "{text:?} byte by byte");
        }
    }

    #[test]
    fn the_verdict_is_on_the_request_it_is_about() {
        let (mut heads, requests) = (Heads::default(), Requests::default());
        heads.resume(&requests);
        heads.read(b"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", &requests);
        for expected in [false, true, false] {
            requests.begin();
            assert_eq!(requests.is_ambiguous(), expected);
        }
        heads.resume(&requests);
        heads.read(b"GET / HTTP/1.1\r\n\r\n", &requests);
        requests.begin();
        assert!(!requests.is_ambiguous());
    }
}
