//! What of an answer goes to its client, as it comes: informational answers, the head, and the body.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::{HeaderValue, StatusCode};
use pingora::server::ShutdownWatch;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use crate::conn::Conn;
use crate::http1::plan::{Facts, Plan};
use crate::http1::socket::Stream;
use crate::http1::upload::Upload;
use crate::http1::{ENCODED, READ_LARGE, READ_SMALL, TURN};
use crate::pace::Pace;
use crate::rescue::Fault;
use crate::visit::Visit;
use crate::wire::Bounds;
use crate::wire::answer::{self, AnswerHead, Asked, Body, Coding, Reply};
use crate::wire::chunk::{self, Decoder, Piece};
use crate::wire::request::Room;

/// Informational answers to one request, at most.
const INFORMATIONAL_MAX: u32 = 64;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Of an answer that isn't the last word on its request.
const BARE: Reply<'_> = Reply { coding: Coding::Plain, is_last: false, says_keep_alive: false, hsts: None, request_id: None };

/// How it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// The answer is out.
    Done { upstream_is_reusable: bool, client_is_reusable: bool },
    /// The upstream has switched protocols, and the client was told so.
    Switched,
    /// The answer broke off; what came of it is out.
    Cut,
    /// The client left.
    Left,
    /// The upstream has ended without an answer, or with half a head of one.
    Lost {
        answer_began: bool,
        /// It was sent something of the request.
        was_sent: bool,
    },
}

/// What there is to know for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) conn: &'a Arc<Conn>,
    pub(crate) plan: &'a Plan,
    pub(crate) facts: Facts,
    pub(crate) shutdown: &'a ShutdownWatch,
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Download {
    receiving: Receiving,
    /// From the upstream.
    pub(crate) heard: BytesMut,
    /// To the client.
    outbox: BytesMut,
    has_heard: bool,
    is_last: bool,
    /// The upstream's connection isn't used again.
    upstream_closes: bool,
    /// Bytes were written to the client that aren't flushed.
    has_unflushed: bool,
    /// Bytes that were sent since others had a turn.
    turn: usize,
    pace: Pace,
}

#[derive(Debug)]
enum Receiving {
    Head {
        looked_at: usize,
        informational: u32,
    },
    Length(u64),
    Chunked {
        decoder: Box<Decoder>,
        coding: Coding,
        passes_trailers: bool,
    },
    UntilClose(Coding),
    /// All of it is in the outbox, or sent.
    Done,
    Switched,
    Broken,
}

impl Download {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            receiving: Receiving::Head { looked_at: 0, informational: 0 },
            heard: BytesMut::new(),
            outbox: BytesMut::new(),
            has_heard: false,
            is_last: !facts.keeps_alive,
            upstream_closes: false,
            has_unflushed: false,
            turn: 0,
            pace: Pace::default(),
        }
    }

    /// Whether the client is told of an answer.
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.receiving, Receiving::Head { .. })
    }

    /// The client may send its body.
    pub(crate) fn invite(&mut self) {
        self.outbox.extend_from_slice(CONTINUE);
    }

    /// Passes on what can be passed on now.
    pub(crate) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut S,
        upstream: &mut Stream,
        setting: Setting<'_>,
        visit: &mut Visit,
        upload: &mut Upload,
    ) -> Poll<Result<End, Fault>> {
        loop {
            self.advance(setting, visit, upload)?;
            match ready!(self.poll_write(cx, client, setting.conn, visit)) {
                Ok(true) if self.is_turn_over(cx) => return Poll::Pending,
                Ok(true) => continue,
                Ok(false) => {}
                Err(_) => return Poll::Ready(Ok(End::Left)),
            }
            if let Some(end) = self.end(setting.facts, upload) {
                return Poll::Ready(Ok(end));
            }
            let room = if self.has_begun() { READ_LARGE } else { READ_SMALL };
            if self.heard.capacity() - self.heard.len() < room / 4 {
                self.heard.reserve(room);
            }
            match ready!(poll_read_buf(Pin::new(&mut *upstream), cx, &mut self.heard)) {
                Ok(1..) => self.has_heard = true,
                ended => {
                    tracing::debug!(error = ended.as_ref().err().map(tracing::field::display), "upstream connection ended");
                    if !self.has_begun() {
                        setting.conn.edge.metrics.upstream.broken.inc();
                        return Poll::Ready(Ok(End::Lost { answer_began: self.has_heard, was_sent: upload.has_begun() }));
                    }
                    self.upstream_ended(ended.is_ok());
                }
            }
        }
    }

    /// What is over once all is written that can be.
    fn end(&self, facts: Facts, upload: &Upload) -> Option<End> {
        match self.receiving {
            Receiving::Done => Some(End::Done {
                upstream_is_reusable: !self.upstream_closes && upload.is_done() && self.heard.is_empty(),
                client_is_reusable: !self.is_last && (upload.is_done() || !facts.has_body),
            }),
            Receiving::Switched => Some(End::Switched),
            Receiving::Broken => Some(End::Cut),
            _ => None,
        }
    }

    /// Bytes of `heard` that go to the client as they are.
    fn direct(&self) -> usize {
        match self.receiving {
            Receiving::Length(left) => usize::try_from(left).map_or(self.heard.len(), |left| left.min(self.heard.len())),
            Receiving::UntilClose(Coding::UntilClose) => self.heard.len(),
            _ => 0,
        }
    }

    /// Writes to the client; false: all is written.
    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut S,
        conn: &Conn,
        visit: &mut Visit,
    ) -> Poll<io::Result<bool>> {
        let body = self.heard.get(..self.direct()).unwrap_or_default();
        if self.outbox.is_empty() && body.is_empty() {
            // TLS may hold back a part of what it has taken.
            if self.has_unflushed {
                ready!(self.pace.judge(Pin::new(client).poll_flush(cx), cx, conn))?;
                self.has_unflushed = false;
            }
            return Poll::Ready(Ok(false));
        }
        let is_both = !self.outbox.is_empty() && !body.is_empty() && client.is_write_vectored();
        let polled = match () {
            () if is_both => Pin::new(client).poll_write_vectored(cx, &[IoSlice::new(&self.outbox), IoSlice::new(body)]),
            () if self.outbox.is_empty() => Pin::new(client).poll_write(cx, body),
            () => Pin::new(client).poll_write(cx, &self.outbox),
        };
        let count = ready!(self.pace.judge(polled, cx, conn))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.has_unflushed = true;
        self.turn += count;
        let of_outbox = count.min(self.outbox.len());
        self.outbox.advance(of_outbox);
        let of_body = count - of_outbox;
        self.heard.advance(of_body);
        visit.sent(of_body);
        if let Receiving::Length(left) = &mut self.receiving {
            *left -= u64::try_from(of_body).unwrap_or_default();
        }
        Poll::Ready(Ok(true))
    }

    /// Whether others are to have a turn: a large body would keep small ones waiting on this thread.
    fn is_turn_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.turn < TURN {
            return false;
        }
        self.turn = 0;
        cx.waker().wake_by_ref();
        true
    }

    /// Makes of what was heard what the client gets.
    fn advance(&mut self, setting: Setting<'_>, visit: &mut Visit, upload: &mut Upload) -> Result<(), Fault> {
        loop {
            let goes_on = match &self.receiving {
                Receiving::Head { looked_at, .. } => self.may_be_head(*looked_at, setting) && self.read_head(setting, visit, upload)?,
                Receiving::Length(0) => {
                    self.receiving = Receiving::Done;
                    false
                }
                Receiving::UntilClose(Coding::Chunked) if !self.heard.is_empty() => {
                    chunk::put(&mut self.outbox, &self.heard);
                    visit.sent(self.heard.len());
                    self.heard.clear();
                    false
                }
                Receiving::Chunked { .. } => !self.heard.is_empty() && self.outbox.len() < ENCODED && self.recode(visit),
                _ => false,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Whether there is one more line than when it was last looked at, or too much for a head.
    fn may_be_head(&self, looked_at: usize, setting: Setting<'_>) -> bool {
        let has_line = self.heard.get(looked_at..).is_some_and(|new| memchr::memchr(b'\n', new).is_some());
        has_line || self.heard.len() > setting.conn.edge.limits.header_bytes
    }

    /// One more piece of a chunked answer; false: there is no more for now.
    fn recode(&mut self, visit: &mut Visit) -> bool {
        let Self { receiving, heard, outbox, .. } = self;
        let Receiving::Chunked { decoder, coding, passes_trailers } = receiving else { return false };
        let mut input = &heard[..];
        let next = decoder.next(&mut input);
        let then = match next {
            Ok(Piece::Data(data)) => {
                visit.sent(data.len());
                match coding {
                    Coding::Chunked => chunk::put(outbox, data),
                    Coding::Plain | Coding::UntilClose => outbox.extend_from_slice(data),
                }
                None
            }
            Ok(Piece::More) => None,
            Ok(Piece::End) => {
                if *coding == Coding::Chunked {
                    chunk::put_end(outbox, passes_trailers.then_some(&**decoder));
                }
                Some(Receiving::Done)
            }
            Err(_) => Some(Receiving::Broken),
        };
        let goes_on = then.is_none() && !matches!(next, Ok(Piece::More));
        let used = heard.len() - input.len();
        heard.advance(used);
        if let Some(then) = then {
            self.receiving = then;
        }
        goes_on
    }

    /// Reads a head, if it is there, and tells the client; false: it isn't.
    fn read_head(&mut self, setting: Setting<'_>, visit: &mut Visit, upload: &mut Upload) -> Result<bool, Fault> {
        let Setting { conn, plan, facts, .. } = setting;
        let limits = &conn.edge.limits;
        let bounds = Bounds { bytes: limits.header_bytes, fields: limits.header_fields };
        let broken = || {
            conn.edge.metrics.upstream.broken.inc();
            plan.target.broken()
        };
        let heard = std::mem::take(&mut self.heard);
        let mut room = Room::new();
        let read = answer::read(&heard, &mut room, bounds, Asked { is_head: facts.is_head }).map_err(|_| broken());
        let told = match &read {
            Ok(Some((head, length))) => self.told(head, setting, visit, upload).map(|()| Some(*length)).ok_or_else(broken),
            Ok(None) => Ok(None),
            Err(fault) => Err(*fault),
        };
        drop(read);
        self.heard = heard;
        let Some(length) = told? else {
            if let Receiving::Head { looked_at, .. } = &mut self.receiving {
                *looked_at = self.heard.len();
            }
            return Ok(false);
        };
        self.heard.advance(length);
        Ok(true)
    }

    /// What the client is told of a head; none: it can't be told that.
    fn told(&mut self, head: &AnswerHead<'_, '_>, setting: Setting<'_>, visit: &mut Visit, upload: &mut Upload) -> Option<()> {
        let Receiving::Head { looked_at, informational } = &mut self.receiving else { return None };
        match head.status {
            101 => {
                head.upgrade.filter(|_| setting.plan.tunnel.is_some())?;
                head.put(&mut self.outbox, &BARE);
                visit.answered(StatusCode::SWITCHING_PROTOCOLS);
                self.receiving = Receiving::Switched;
            }
            100..200 => {
                *looked_at = 0;
                *informational += 1;
                if *informational > INFORMATIONAL_MAX {
                    return None;
                }
                if head.status != 100 {
                    // HTTP/1.0 knows no such answers.
                    if !setting.facts.is_old {
                        head.put(&mut self.outbox, &BARE);
                    }
                } else if upload.is_held() {
                    upload.release(setting.plan);
                    self.invite();
                }
            }
            _ => {
                visit.answered(StatusCode::from_u16(head.status).ok()?);
                self.begin(head, setting, visit, upload);
            }
        }
        Some(())
    }

    /// The head of the answer itself.
    fn begin(&mut self, head: &AnswerHead<'_, '_>, setting: Setting<'_>, visit: &Visit, upload: &Upload) {
        let Setting { conn, facts, shutdown, .. } = setting;
        let coding = match head.body {
            Body::None { .. } | Body::Length(_) => Coding::Plain,
            Body::Chunked | Body::UntilClose if facts.is_old => Coding::UntilClose,
            Body::Chunked | Body::UntilClose => Coding::Chunked,
        };
        // What is left of the request may never come, or be anything.
        let is_incomplete = facts.has_body && !upload.is_done();
        self.is_last |= is_incomplete || coding == Coding::UntilClose || *shutdown.borrow();
        self.upstream_closes |= !head.keeps_alive;
        let hsts = conn.hsts().filter(|_| !head.has("strict-transport-security"));
        let id = visit.went_to_control().then(|| visit.id().text());
        let reply = Reply {
            coding,
            is_last: self.is_last,
            says_keep_alive: facts.is_old && !self.is_last,
            hsts: hsts.as_ref().map(HeaderValue::as_bytes),
            request_id: id.as_ref().map(|id| &id[..]),
        };
        head.put(&mut self.outbox, &reply);
        self.receiving = match head.body {
            Body::None { .. } => Receiving::Done,
            Body::Length(length) => Receiving::Length(length),
            Body::Chunked => {
                Receiving::Chunked { decoder: Box::default(), coding, passes_trailers: facts.takes_trailers && head.has("trailer") }
            }
            Body::UntilClose => Receiving::UntilClose(coding),
        };
    }

    /// The upstream's side has ended, in order or not.
    fn upstream_ended(&mut self, in_order: bool) {
        self.receiving = match self.receiving {
            Receiving::UntilClose(coding) if in_order => {
                if coding == Coding::Chunked {
                    chunk::put_end(&mut self.outbox, None);
                }
                Receiving::Done
            }
            _ => Receiving::Broken,
        };
    }
}
