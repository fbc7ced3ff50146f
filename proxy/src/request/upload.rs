//! What of a request goes to its upstream, and how fast its client sends it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use crate::policy::admit;
use crate::policy::limits::Limits;
use crate::request::client::{Client, Lack};
use crate::request::error_response::Fault;
use crate::request::plan::Plan;
use crate::request::visit::Visit;
use crate::request::{TURN, give_way};
use crate::time::timers::Moment;
use crate::upstream::socket::Stream;
use crate::wire::Framing;

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Upload {
    /// How much of the head is sent.
    head_sent: usize,
    sending: Sending,
    /// Chunks on their way.
    encoded: BytesMut,
    /// Taken from the client.
    bytes: u64,
    /// How long the client was waited for, the wait under way not counted.
    waited: Duration,
    waiting_since: Option<Moment>,
    moved: Moment,
    /// Bytes that were sent since others had a turn.
    turn: usize,
}

#[derive(Debug)]
enum Sending {
    /// The body is held back until the upstream wants it, or has said nothing for long enough.
    Held {
        since: Moment,
    },
    Length(u64),
    Chunked,
    Done,
    /// The upstream takes no more.
    Dead,
}

/// How the wait for an answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// To be looked at again at that moment.
    Until(Moment),
    /// The body was held back for long enough.
    Release,
    /// The client sends too little.
    TooSlow,
    /// It sends nothing.
    Stalled,
    /// The upstream says nothing.
    Unanswered,
}

/// Why no more of a request is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    Fault(Fault),
    /// The client has taken it back.
    Left,
}

impl From<Lack> for Stop {
    fn from(lack: Lack) -> Self {
        match lack {
            Lack::Malformed => Stop::Fault(Fault::BadBody),
            Lack::Left => Stop::Left,
        }
    }
}

impl Sending {
    fn of(framing: Framing) -> Sending {
        match framing {
            Framing::Unsaid => Sending::Done,
            Framing::Length(length) => Sending::Length(length),
            Framing::Chunked => Sending::Chunked,
        }
    }
}

impl Upload {
    pub(crate) fn new(plan: &Plan) -> Self {
        let now = Moment::now();
        let sending = match plan.framing {
            Framing::Unsaid | Framing::Length(0) => Sending::Done,
            _ if plan.waits_for_continue => Sending::Held { since: now },
            framing => Sending::of(framing),
        };
        Self { head_sent: 0, sending, encoded: BytesMut::new(), bytes: 0, waited: Duration::ZERO, waiting_since: None, moved: now, turn: 0 }
    }

    /// Whether the upstream was sent anything.
    pub(crate) fn has_begun(&self) -> bool {
        self.head_sent > 0
    }

    /// Whether all of the request is on its way.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.sending, Sending::Done) && self.encoded.is_empty()
    }

    /// Whether nothing more of it will be sent.
    pub(crate) fn is_over(&self) -> bool {
        self.is_done() || matches!(self.sending, Sending::Dead)
    }

    pub(crate) fn is_held(&self) -> bool {
        matches!(self.sending, Sending::Held { .. })
    }

    /// The body isn't held back any more.
    pub(crate) fn release(&mut self, plan: &Plan) {
        if self.is_held() {
            self.sending = Sending::of(plan.framing);
            self.moved = Moment::now();
        }
    }

    /// Sends what can be sent now.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Client,
        upstream: &mut Stream,
        plan: &Plan,
        visit: &mut Visit,
    ) -> Result<(), Stop> {
        loop {
            if self.turn >= TURN {
                self.turn = 0;
                give_way(cx);
                return Ok(());
            }
            let head = plan.head.get(self.head_sent..).unwrap_or_default();
            let goes_on = if !head.is_empty() {
                let sent = self.send(cx, upstream, head);
                self.head_sent += sent;
                sent > 0
            } else if !self.encoded.is_empty() {
                let encoded = std::mem::take(&mut self.encoded);
                let sent = self.send(cx, upstream, &encoded);
                self.encoded = encoded;
                self.encoded.advance(sent);
                sent > 0
            } else {
                match self.sending {
                    Sending::Held { .. } | Sending::Done | Sending::Dead => false,
                    Sending::Length(0) => {
                        self.sending = Sending::Done;
                        true
                    }
                    Sending::Length(left) => self.pass(cx, client, upstream, left, plan, visit)?,
                    Sending::Chunked => self.encode(cx, client, plan, visit)?,
                }
            };
            if !goes_on {
                if matches!(self.sending, Sending::Dead) {
                    self.encoded.clear();
                }
                return Ok(());
            }
        }
    }

    /// Writes to the upstream; how much, which is nothing if it takes nothing now, or nothing any more.
    fn send(&mut self, cx: &mut Context<'_>, upstream: &mut Stream, bytes: &[u8]) -> usize {
        match Pin::new(upstream).poll_write(cx, bytes) {
            Poll::Ready(Ok(count @ 1..)) => {
                self.turn += count;
                self.moved = Moment::now();
                count
            }
            Poll::Ready(_) => {
                self.sending = Sending::Dead;
                0
            }
            Poll::Pending => 0,
        }
    }

    /// Content of known length, as it is.
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Client,
        upstream: &mut Stream,
        left: u64,
        plan: &Plan,
        visit: &mut Visit,
    ) -> Result<bool, Stop> {
        let content = client.content();
        if content.is_empty() {
            return self.receive(cx, client, Some(left));
        }
        let content = content.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(content);
        let sent = self.send(cx, upstream, content);
        client.take(sent);
        if let Sending::Length(left) = &mut self.sending {
            *left = left.saturating_sub(u64::try_from(sent).unwrap_or_default());
        }
        self.count(sent, plan, visit)?;
        Ok(sent > 0)
    }

    /// Content of unknown length becomes chunks.
    fn encode(&mut self, cx: &mut Context<'_>, client: &mut impl Client, plan: &Plan, visit: &mut Visit) -> Result<bool, Stop> {
        let chunks = client.take_chunks(&mut self.encoded, plan.passes_trailers)?;
        if chunks.is_done {
            self.sending = Sending::Done;
        }
        self.count(chunks.bytes, plan, visit)?;
        if self.encoded.is_empty() && !chunks.is_done { self.receive(cx, client, None) } else { Ok(true) }
    }

    fn count(&mut self, bytes: usize, plan: &Plan, visit: &mut Visit) -> Result<(), Stop> {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        visit.received(bytes);
        if self.bytes > plan.body_max { Err(Stop::Fault(Fault::BodyTooLarge)) } else { Ok(()) }
    }

    /// Waits for the client; false: it has sent nothing.
    fn receive(&mut self, cx: &mut Context<'_>, client: &mut impl Client, left: Option<u64>) -> Result<bool, Stop> {
        if client.poll_content(left, cx)?.is_pending() {
            self.waiting_since.get_or_insert_with(Moment::now);
            return Ok(false);
        }
        let now = Moment::now();
        self.moved = now;
        if let Some(since) = self.waiting_since.take() {
            self.waited = self.waited.saturating_add(now.since(since));
        }
        Ok(true)
    }

    /// How the wait for an answer stands: bounded while nothing moves, and by what the client sends.
    pub(crate) fn wait(&self, now: Moment, patience: Duration, limits: &Limits) -> Wait {
        if let Sending::Held { since } = self.sending {
            let until = since.after(limits.continue_wait);
            return if now >= until { Wait::Release } else { Wait::Until(until) };
        }
        let until = self.moved.after(patience);
        let Some(since) = self.waiting_since else { return if now >= until { Wait::Unanswered } else { Wait::Until(until) } };
        let allowed = admit::body_allowance(self.bytes, limits.body_grace, limits.body_bytes_per_second);
        let too_slow = since.after(allowed.saturating_sub(self.waited));
        match () {
            () if now >= too_slow => Wait::TooSlow,
            () if now >= until => Wait::Stalled,
            () => Wait::Until(until.min(too_slow)),
        }
    }
}
