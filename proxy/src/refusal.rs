//! What hyper answers on its own account (400, 414, 431: a head it can't read) gets the name of who answers: hyper has no place to say
//! it.
//!
//! Such an answer is told from all others by when it is written: while the head of a request is awaited, and with nothing written before
//! it that isn't flushed. A refusal behind an answer that the client hasn't taken yet (it sent both requests at once) goes out as hyper
//! made it: to look into what is written would be to guess, and the bytes are a pod's.

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Goes behind the status line.
const NAME: &[u8] = b"server: codiusd\r\n";
const LINE_END: &[u8] = b"\r\n";

/// Watches the writes of a connection for it.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    /// Something was written that isn't flushed.
    unflushed: bool,
    /// What is left of an answer that goes out in place of hyper's.
    named: Bytes,
}

impl Refusal {
    /// All that hyper had to write was written.
    pub(crate) fn flushed(&mut self) {
        self.unflushed = false;
    }

    /// Writes `buf` with our name in it, if it is an answer of hyper's own; otherwise it is left to be written as it is.
    pub(crate) fn poll_write(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        buf: &[u8],
        is_in_head: bool,
    ) -> Option<Poll<io::Result<usize>>> {
        let is_first = !mem::replace(&mut self.unflushed, true);
        if self.named.is_empty() {
            self.named = is_first.then_some(buf).filter(|_| is_in_head).and_then(named)?;
        }
        while !self.named.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, &self.named) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(count)) => self.named.advance(count),
                other => return Some(other),
            }
        }
        Some(Poll::Ready(Ok(buf.len())))
    }
}

fn named(answer: &[u8]) -> Option<Bytes> {
    let is_refusal = answer.starts_with(b"HTTP/1.") && answer.get(8..10) == Some(b" 4") && answer.ends_with(b"\r\n\r\n");
    let line = answer.windows(LINE_END.len()).position(|bytes| bytes == LINE_END).filter(|_| is_refusal)?;
    let (line, rest) = answer.split_at_checked(line + LINE_END.len())?;
    Some([line, NAME, rest].concat().into())
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    #[test]
    fn only_a_first_answer_while_a_head_is_awaited_is_named() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut written = |refusal: &mut Refusal, bytes: &[u8], is_in_head| {
            let mut out = Vec::new();
            let polled = refusal.poll_write(&mut out, &mut cx, bytes, is_in_head)?;
            assert!(matches!(polled, Poll::Ready(Ok(count)) if count == bytes.len()));
            Some(String::from_utf8(out).unwrap())
        };
        let named = written(&mut Refusal::default(), ANSWER, true).unwrap();
        assert!(named.starts_with("HTTP/1.1 400 Bad Request\r\nserver: codiusd\r\nconnection: close\r\n"), "{named}");
        assert_eq!(named.len(), ANSWER.len() + NAME.len());
        assert_eq!(written(&mut Refusal::default(), ANSWER, false), None, "a request is being answered");
        assert_eq!(written(&mut Refusal::default(), b"HTTP/1.1 200 OK\r\n\r\n", true), None);
        let mut refusal = Refusal::default();
        assert_eq!(written(&mut refusal, b"the rest of an answer", true), None);
        assert_eq!(written(&mut refusal, ANSWER, true), None, "it may be that answer's");
        refusal.flushed();
        assert!(written(&mut refusal, ANSWER, true).is_some());
    }
}
