//! The client's side of a request over HTTP/1.1: content as its head frames it, and the answer as bytes.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

use crate::context::conn::Conn;
use crate::downstream::pace::Pace;
use crate::request::client::{Beginning, Chunks, Client, Lack, Sent};
use crate::request::plan::Facts;
use crate::request::{ENCODED, HEAD_ROOM, READ_LARGE, READ_SMALL};
use crate::upstream::pipe::Pipe;
use crate::wire::answer::{AnswerHead, Body, Coding, Reply};
use crate::wire::chunk::{self, Decoder, Piece};

/// Bytes that are read of the next request while one is being answered.
const AHEAD: usize = 256;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One request of a connection.
pub(crate) struct Http1Client<'a, S> {
    conn: &'a Arc<Conn>,
    stream: &'a mut S,
    /// From the client.
    inbox: &'a mut BytesMut,
    decoder: Decoder,
    facts: Facts,
    shutdown: &'a ShutdownWatch,
    /// To the client.
    outbox: BytesMut,
    coding: Coding,
    passes_trailers: bool,
    is_last: bool,
    /// Bytes were written that aren't flushed.
    has_unflushed: bool,
    pace: Pace,
}

impl<'a, S> Http1Client<'a, S> {
    pub(crate) fn new(conn: &'a Arc<Conn>, stream: &'a mut S, inbox: &'a mut BytesMut, facts: Facts, shutdown: &'a ShutdownWatch) -> Self {
        Self {
            conn,
            stream,
            inbox,
            decoder: Decoder::default(),
            facts,
            shutdown,
            outbox: BytesMut::new(),
            coding: Coding::Plain,
            passes_trailers: false,
            is_last: !facts.keeps_alive,
            has_unflushed: false,
            pace: Pace::default(),
        }
    }

    /// Whether no other request follows.
    pub(crate) fn is_last(&self) -> bool {
        self.is_last
    }
}

/// Appends what there is to read, at most `N` bytes, for which the inbox gets room only when they have come.
pub(super) fn poll_read_few<const N: usize>(
    stream: &mut (impl AsyncRead + Unpin),
    inbox: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut room = [const { MaybeUninit::uninit() }; N];
    let mut buf = ReadBuf::uninit(&mut room);
    Pin::new(stream).poll_read(cx, &mut buf).map_ok(|()| {
        inbox.extend_from_slice(buf.filled());
        buf.filled().len()
    })
}

/// What a connection is made of.
pub(crate) trait ClientStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Its socket, if what is sent goes there as it is.
    fn plain(&self) -> Option<&TcpStream>;
}

impl ClientStream for TcpStream {
    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl ClientStream for Box<TlsStream<TcpStream>> {
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

impl<S: ClientStream> Client for Http1Client<'_, S> {
    fn content(&self) -> &[u8] {
        self.inbox
    }

    fn take(&mut self, count: usize) {
        self.inbox.advance(count);
    }

    fn take_chunks(&mut self, out: &mut BytesMut, passes_trailers: bool) -> Result<Chunks, Lack> {
        let mut input = &self.inbox[..];
        let mut chunks = Chunks { bytes: 0, is_done: false };
        while out.len() < ENCODED {
            match self.decoder.next(&mut input).map_err(|_| Lack::Malformed)? {
                Piece::Data(data) => {
                    chunk::put(out, data);
                    chunks.bytes += data.len();
                }
                Piece::More => break,
                Piece::End => {
                    chunk::put_end(out, passes_trailers.then(|| self.decoder.trailers()).into_iter().flatten());
                    chunks.is_done = true;
                    break;
                }
            }
        }
        let used = self.inbox.len() - input.len();
        self.inbox.advance(used);
        Ok(chunks)
    }

    fn poll_content(&mut self, left: Option<u64>, cx: &mut Context<'_>) -> Poll<Result<(), Lack>> {
        let is_large = left.is_some_and(|left| usize::try_from(left).is_ok_and(|left| left > READ_SMALL));
        self.inbox.reserve(if is_large { READ_LARGE } else { READ_SMALL });
        match ready!(poll_read_buf(Pin::new(&mut *self.stream), cx, self.inbox)) {
            Ok(1..) => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(Lack::Malformed)),
        }
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Who has sent more requests waits for those, too.
        if !self.inbox.is_empty() {
            return Poll::Pending;
        }
        match ready!(poll_read_few::<AHEAD>(self.stream, self.inbox, cx)) {
            Ok(1..) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    fn is_heard_apart(&self) -> bool {
        false
    }

    fn invite(&mut self) {
        self.outbox.extend_from_slice(CONTINUE);
    }

    fn inform(&mut self, head: &AnswerHead<'_>) {
        // HTTP/1.0 knows no such answers.
        if !self.facts.is_old {
            head.put(&mut self.outbox, &Reply::BARE);
        }
    }

    fn begin(&mut self, head: &AnswerHead<'_>, beginning: Beginning<'_>) {
        self.coding = match head.body {
            Body::None { .. } | Body::Length(_) => Coding::Plain,
            Body::Chunked | Body::UntilClose if self.facts.is_old => Coding::UntilClose,
            Body::Chunked | Body::UntilClose => Coding::Chunked,
        };
        self.passes_trailers = self.facts.takes_trailers && head.has("trailer");
        // What is left of the request may never come, or be anything.
        self.is_last |= !beginning.request_is_complete || self.coding == Coding::UntilClose || *self.shutdown.borrow();
        let reply = Reply {
            coding: self.coding,
            is_last: self.is_last,
            says_keep_alive: self.facts.is_old && !self.is_last,
            date: beginning.date,
            hsts: beginning.hsts,
            request_id: beginning.request_id,
        };
        self.outbox.reserve(HEAD_ROOM);
        head.put(&mut self.outbox, &reply);
    }

    fn takes_raw(&self) -> bool {
        self.coding == Coding::UntilClose
    }

    fn has_room(&self) -> bool {
        self.outbox.len() < ENCODED
    }

    fn put(&mut self, content: &[u8]) {
        match self.coding {
            Coding::Chunked => chunk::put(&mut self.outbox, content),
            Coding::Plain | Coding::UntilClose => self.outbox.extend_from_slice(content),
        }
    }

    fn put_end(&mut self, trailers: Option<&Decoder>) {
        if self.coding == Coding::Chunked {
            let trailers = trailers.filter(|_| self.passes_trailers);
            chunk::put_end(&mut self.outbox, trailers.into_iter().flat_map(Decoder::trailers));
        }
    }

    fn poll_send(&mut self, heard: &mut BytesMut, direct: usize, _: bool, cx: &mut Context<'_>) -> Poll<io::Result<Sent>> {
        let content = heard.get(..direct).unwrap_or_default();
        let stream = Pin::new(&mut *self.stream);
        if self.outbox.is_empty() && content.is_empty() {
            // TLS may hold back a part of what it has taken.
            if self.has_unflushed {
                ready!(self.pace.judge(stream.poll_flush(cx), cx, self.conn))?;
                self.has_unflushed = false;
            }
            return Poll::Ready(Ok(Sent { bytes: 0, direct: 0 }));
        }
        let is_both = !self.outbox.is_empty() && !content.is_empty() && stream.is_write_vectored();
        let polled = match () {
            () if is_both => stream.poll_write_vectored(cx, &[IoSlice::new(&self.outbox), IoSlice::new(content)]),
            () if self.outbox.is_empty() => stream.poll_write(cx, content),
            () => stream.poll_write(cx, &self.outbox),
        };
        let bytes = ready!(self.pace.judge(polled, cx, self.conn))?;
        if bytes == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.has_unflushed = true;
        let of_outbox = bytes.min(self.outbox.len());
        self.outbox.advance(of_outbox);
        heard.advance(bytes - of_outbox);
        Poll::Ready(Ok(Sent { bytes, direct: bytes - of_outbox }))
    }

    fn takes_pipes(&self) -> bool {
        self.stream.plain().is_some()
    }

    fn poll_drain(&mut self, pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(socket) = self.stream.plain() else { return Poll::Ready(Err(io::ErrorKind::Unsupported.into())) };
        let polled = pipe.poll_drain(socket, cx);
        self.pace.judge(polled, cx, self.conn)
    }
}
