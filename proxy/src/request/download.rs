//! What of an answer goes to its client, as it comes: informational answers, the head, and the body.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::{HeaderValue, StatusCode};

use crate::request::client::{Beginning, Client, Sent};
use crate::request::error_response::Fault;
use crate::request::exchange::{End, Setting};
use crate::request::upload::Upload;
use crate::request::visit::Visit;
use crate::request::{READ_LARGE, READ_SMALL, TURN, give_way};
use crate::time::http_date;
use crate::upstream::pipe::Pipe;
use crate::upstream::socket::Stream;
use crate::wire::Bounds;
use crate::wire::answer::{self, AnswerHead, Asked, Body};
use crate::wire::chunk::{Decoder, Piece};

/// Bytes of the shortest content that is worth a pipe.
const PIPED_MIN: u64 = 256 * 1024;
/// Informational answers to one request, at most.
const INFORMATIONAL_MAX: u32 = 64;

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Download {
    receiving: Receiving,
    /// From the upstream.
    pub(crate) heard: BytesMut,
    has_heard: bool,
    /// The upstream's connection isn't used again.
    upstream_closes: bool,
    /// Between the two sockets, if content goes through the kernel alone.
    pipe: Option<Pipe>,
    /// Bytes that were sent since others had a turn.
    turn: usize,
}

#[derive(Debug)]
enum Receiving {
    Head {
        looked_at: usize,
        informational: u32,
    },
    Length(u64),
    Chunked(Box<Decoder>),
    UntilClose,
    /// The client has all of it, or will be sent it next.
    Done,
    Switched,
    Broken,
}

impl Download {
    pub(crate) fn new() -> Self {
        Self {
            receiving: Receiving::Head { looked_at: 0, informational: 0 },
            heard: BytesMut::new(),
            has_heard: false,
            upstream_closes: false,
            pipe: None,
            turn: 0,
        }
    }

    /// Whether the client is told of an answer.
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.receiving, Receiving::Head { .. })
    }

    /// Passes on what can be passed on now.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Client,
        upstream: &mut Stream,
        setting: Setting<'_>,
        visit: &mut Visit,
        upload: &mut Upload,
    ) -> Poll<Result<End, Fault>> {
        loop {
            self.advance(client, setting, visit, upload)?;
            let direct = self.direct(client);
            let ends = matches!(self.receiving, Receiving::Length(left) if usize::try_from(left) == Ok(direct));
            match ready!(client.poll_send(&mut self.heard, direct, ends, cx)) {
                Ok(Sent { bytes: 0, .. }) => {}
                Ok(sent) => {
                    self.sent(sent, visit);
                    if self.is_turn_over(cx) {
                        return Poll::Pending;
                    }
                    continue;
                }
                Err(_) => return Poll::Ready(Ok(End::Left)),
            }
            if let Some(end) = self.end(upload) {
                return Poll::Ready(Ok(end));
            }
            if let Some(piped) = self.poll_piped(cx, client, upstream, visit) {
                match ready!(piped) {
                    Ok(()) if self.is_turn_over(cx) => return Poll::Pending,
                    Ok(()) => continue,
                    Err(_) => return Poll::Ready(Ok(End::Left)),
                }
            }
            let room = if self.has_begun() { READ_LARGE } else { READ_SMALL };
            match ready!(upstream.poll_read_into(&mut self.heard, room, cx)) {
                Ok(1..) => self.has_heard = true,
                ended => {
                    tracing::debug!(error = ended.as_ref().err().map(tracing::field::display), "upstream connection ended");
                    if !self.has_begun() {
                        setting.conn.edge.metrics.upstream.broken.inc();
                        return Poll::Ready(Ok(End::Lost { answer_began: self.has_heard, was_sent: upload.has_begun() }));
                    }
                    self.upstream_ended(client, ended.is_ok());
                }
            }
        }
    }

    /// Moves content through the pipe; none: it doesn't go there. An error: the client is gone.
    fn poll_piped(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Client,
        upstream: &Stream,
        visit: &mut Visit,
    ) -> Option<Poll<io::Result<()>>> {
        let (Receiving::Length(left), Some(pipe), Some(socket)) = (&self.receiving, &mut self.pipe, upstream.tcp()) else { return None };
        if pipe.is_empty() {
            match pipe.poll_fill(socket, *left, cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(ended) => {
                    self.upstream_ended(client, ended.is_ok());
                    return Some(Poll::Ready(Ok(())));
                }
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        let drained = client.poll_drain(pipe, cx);
        Some(drained.map_ok(|count| self.sent(Sent { bytes: count, direct: count }, visit)))
    }

    /// What is over once all is sent that can be.
    fn end(&self, upload: &Upload) -> Option<End> {
        match self.receiving {
            Receiving::Done => Some(End::Done {
                upstream_is_reusable: !self.upstream_closes && upload.is_done() && self.heard.is_empty(),
                request_is_complete: upload.is_done(),
            }),
            Receiving::Switched => Some(End::Switched),
            Receiving::Broken => Some(End::Cut),
            _ => None,
        }
    }

    /// Bytes of `heard` that go to the client as they are.
    fn direct(&self, client: &impl Client) -> usize {
        match self.receiving {
            Receiving::Length(left) => usize::try_from(left).map_or(self.heard.len(), |left| left.min(self.heard.len())),
            Receiving::UntilClose if client.takes_raw() => self.heard.len(),
            _ => 0,
        }
    }

    fn sent(&mut self, sent: Sent, visit: &mut Visit) {
        self.turn += sent.bytes;
        visit.sent(sent.direct);
        if let Receiving::Length(left) = &mut self.receiving {
            *left -= u64::try_from(sent.direct).unwrap_or_default();
        }
    }

    /// Whether others are to have a turn: a large body would keep small ones waiting on this thread.
    fn is_turn_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.turn < TURN {
            return false;
        }
        self.turn = 0;
        give_way(cx);
        true
    }

    /// Makes of what was heard what the client gets.
    fn advance(&mut self, client: &mut impl Client, setting: Setting<'_>, visit: &mut Visit, upload: &mut Upload) -> Result<(), Fault> {
        loop {
            let goes_on = match &self.receiving {
                Receiving::Head { looked_at, .. } => {
                    self.may_be_head(*looked_at, setting) && self.read_head(client, setting, visit, upload)?
                }
                Receiving::Length(0) => {
                    self.receiving = Receiving::Done;
                    false
                }
                Receiving::UntilClose if !client.takes_raw() && !self.heard.is_empty() => {
                    client.put(&self.heard);
                    visit.sent(self.heard.len());
                    self.heard.clear();
                    false
                }
                Receiving::Chunked(_) => !self.heard.is_empty() && client.has_room() && self.decode(client, visit),
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
    fn decode(&mut self, client: &mut impl Client, visit: &mut Visit) -> bool {
        let Self { receiving, heard, .. } = self;
        let Receiving::Chunked(decoder) = receiving else { return false };
        let mut input = &heard[..];
        let next = decoder.next(&mut input);
        let then = match next {
            Ok(Piece::Data(data)) => {
                visit.sent(data.len());
                client.put(data);
                None
            }
            Ok(Piece::More) => None,
            Ok(Piece::End) => {
                client.put_end(Some(decoder));
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
    fn read_head(&mut self, client: &mut impl Client, setting: Setting<'_>, visit: &mut Visit, upload: &mut Upload) -> Result<bool, Fault> {
        let Setting { conn, plan, facts } = setting;
        let limits = &conn.edge.limits;
        let bounds = Bounds { bytes: limits.header_bytes, fields: limits.header_fields };
        let broken = || {
            conn.edge.metrics.upstream.broken.inc();
            plan.target.broken()
        };
        let heard = std::mem::take(&mut self.heard);
        let read = answer::read(&heard, bounds, Asked { is_head: facts.is_head }).map_err(|_| broken());
        let passed = match &read {
            Ok(Some((head, length))) => self.pass_head(head, client, setting, visit, upload).map(|()| Some(*length)).ok_or_else(broken),
            Ok(None) => Ok(None),
            Err(fault) => Err(*fault),
        };
        drop(read);
        self.heard = heard;
        let Some(length) = passed? else {
            if let Receiving::Head { looked_at, .. } = &mut self.receiving {
                *looked_at = self.heard.len();
            }
            return Ok(false);
        };
        self.heard.advance(length);
        Ok(true)
    }

    /// Passes a head on to the client; none: it can't be.
    fn pass_head(
        &mut self,
        head: &AnswerHead<'_>,
        client: &mut impl Client,
        setting: Setting<'_>,
        visit: &mut Visit,
        upload: &mut Upload,
    ) -> Option<()> {
        let Receiving::Head { looked_at, informational } = &mut self.receiving else { return None };
        match head.status {
            101 => {
                head.upgrade.filter(|_| setting.plan.tunnel.is_some())?;
                client.inform(head);
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
                    client.inform(head);
                } else if upload.is_held() {
                    upload.release(setting.plan);
                    client.invite();
                }
            }
            _ => {
                visit.answered(StatusCode::from_u16(head.status).ok()?);
                self.begin(head, client, setting, visit, upload);
            }
        }
        Some(())
    }

    /// The head of the answer itself.
    fn begin(&mut self, head: &AnswerHead<'_>, client: &mut impl Client, setting: Setting<'_>, visit: &Visit, upload: &Upload) {
        let Setting { conn, plan, facts } = setting;
        self.upstream_closes |= !head.keeps_alive;
        let hsts = conn.hsts().filter(|_| !head.has("strict-transport-security"));
        let date = (!head.has("date")).then(http_date::now);
        let id = visit.went_to_control().then(|| visit.id().text());
        let beginning = Beginning {
            ends: matches!(head.body, Body::None { .. } | Body::Length(0)),
            request_is_complete: !facts.has_body || upload.is_done(),
            date: date.as_ref().map(|date| &date[..]),
            hsts: hsts.as_ref().map(HeaderValue::as_bytes),
            request_id: id.as_ref().map(|id| &id[..]),
        };
        client.begin(head, beginning);
        self.receiving = match head.body {
            Body::None { .. } => Receiving::Done,
            Body::Length(length) => {
                if length >= PIPED_MIN && plan.target.is_pod() && client.takes_pipes() {
                    self.pipe = Pipe::open(&conn.edge.pipes);
                }
                Receiving::Length(length)
            }
            Body::Chunked => Receiving::Chunked(Box::default()),
            Body::UntilClose => Receiving::UntilClose,
        };
    }

    /// The upstream's side has ended, in order or not.
    fn upstream_ended(&mut self, client: &mut impl Client, in_order: bool) {
        self.receiving = match self.receiving {
            Receiving::UntilClose if in_order => {
                client.put_end(None);
                Receiving::Done
            }
            _ => Receiving::Broken,
        };
    }
}
