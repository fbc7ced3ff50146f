//! What of a request goes to its upstream, and how fast its client sends it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use crate::admit;
use crate::http1::plan::Plan;
use crate::http1::socket::Stream;
use crate::http1::{ENCODED, READ_LARGE, READ_SMALL, TURN};
use crate::idle::Moment;
use crate::limits::Limits;
use crate::rescue::Fault;
use crate::visit::Visit;
use crate::wire::Framing;
use crate::wire::chunk::{self, Decoder, Piece};

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
    Chunked(Box<Decoder>),
    Done,
    /// The upstream takes no more.
    Dead,
}

/// Where it comes from, and where it goes.
pub(crate) struct Sides<'a, S> {
    pub(crate) client: &'a mut S,
    pub(crate) inbox: &'a mut BytesMut,
    pub(crate) upstream: &'a mut Stream,
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

impl Sending {
    fn of(framing: Framing) -> Sending {
        match framing {
            Framing::Unsaid => Sending::Done,
            Framing::Length(length) => Sending::Length(length),
            Framing::Chunked => Sending::Chunked(Box::default()),
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
    pub(crate) fn poll<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        sides: &mut Sides<'_, S>,
        plan: &Plan,
        visit: &mut Visit,
    ) -> Result<(), Fault> {
        loop {
            if self.turn >= TURN {
                self.turn = 0;
                cx.waker().wake_by_ref();
                return Ok(());
            }
            let goes_on = if self.head_sent < plan.head.len() {
                self.send(cx, sides, plan.head.get(self.head_sent..).unwrap_or_default(), |upload, count| upload.head_sent += count)
            } else if !self.encoded.is_empty() {
                let encoded = std::mem::take(&mut self.encoded);
                let mut sent = 0;
                let goes_on = self.send(cx, sides, &encoded, |_, count| sent = count);
                self.encoded = encoded;
                self.encoded.advance(sent);
                goes_on
            } else {
                match &mut self.sending {
                    Sending::Held { .. } | Sending::Done | Sending::Dead => false,
                    Sending::Length(0) => {
                        self.sending = Sending::Done;
                        true
                    }
                    Sending::Length(left) if !sides.inbox.is_empty() => {
                        let take = usize::try_from(*left).map_or(sides.inbox.len(), |left| left.min(sides.inbox.len()));
                        self.pass(cx, sides, take, plan, visit)?
                    }
                    Sending::Chunked(_) if !sides.inbox.is_empty() => {
                        self.encode(sides.inbox, plan, visit)?;
                        true
                    }
                    Sending::Length(_) | Sending::Chunked(_) => self.receive(cx, sides)?,
                }
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Writes to the upstream; false: it takes nothing now, or nothing any more.
    fn send<S>(&mut self, cx: &mut Context<'_>, sides: &mut Sides<'_, S>, bytes: &[u8], sent: impl FnOnce(&mut Self, usize)) -> bool {
        match Pin::new(&mut *sides.upstream).poll_write(cx, bytes) {
            Poll::Ready(Ok(count @ 1..)) => {
                self.turn += count;
                self.moved = Moment::now();
                sent(self, count);
                true
            }
            Poll::Ready(_) => {
                self.sending = Sending::Dead;
                self.encoded.clear();
                false
            }
            Poll::Pending => false,
        }
    }

    /// Bytes of the body, as they are.
    fn pass<S>(
        &mut self,
        cx: &mut Context<'_>,
        sides: &mut Sides<'_, S>,
        take: usize,
        plan: &Plan,
        visit: &mut Visit,
    ) -> Result<bool, Fault> {
        let inbox = std::mem::take(sides.inbox);
        let mut sent = 0;
        let goes_on = self.send(cx, sides, inbox.get(..take).unwrap_or_default(), |_, count| sent = count);
        *sides.inbox = inbox;
        sides.inbox.advance(sent);
        if let Sending::Length(left) = &mut self.sending {
            *left = left.saturating_sub(u64::try_from(sent).unwrap_or_default());
        }
        self.count(sent, plan, visit)?;
        Ok(goes_on)
    }

    /// Chunks of the client's become chunks of ours.
    fn encode(&mut self, inbox: &mut BytesMut, plan: &Plan, visit: &mut Visit) -> Result<(), Fault> {
        let Sending::Chunked(decoder) = &mut self.sending else { return Ok(()) };
        let mut input = &inbox[..];
        let (mut is_done, mut bytes) = (false, 0);
        while self.encoded.len() < ENCODED {
            match decoder.next(&mut input).map_err(|_| Fault::BadBody)? {
                Piece::Data(data) => {
                    chunk::put(&mut self.encoded, data);
                    bytes += data.len();
                }
                Piece::More => break,
                Piece::End => {
                    chunk::put_end(&mut self.encoded, plan.passes_trailers.then_some(&**decoder));
                    is_done = true;
                    break;
                }
            }
        }
        let used = inbox.len() - input.len();
        inbox.advance(used);
        if is_done {
            self.sending = Sending::Done;
        }
        self.count(bytes, plan, visit)
    }

    fn count(&mut self, bytes: usize, plan: &Plan, visit: &mut Visit) -> Result<(), Fault> {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        visit.received(bytes);
        if self.bytes > plan.body_max { Err(Fault::BodyTooLarge) } else { Ok(()) }
    }

    /// Reads from the client; false: it has sent nothing.
    fn receive<S: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, sides: &mut Sides<'_, S>) -> Result<bool, Fault> {
        let is_large = matches!(self.sending, Sending::Length(left) if usize::try_from(left).is_ok_and(|left| left > READ_SMALL));
        sides.inbox.reserve(if is_large { READ_LARGE } else { READ_SMALL });
        match poll_read_buf(Pin::new(&mut *sides.client), cx, sides.inbox) {
            Poll::Ready(Ok(1..)) => {
                let now = Moment::now();
                self.moved = now;
                if let Some(since) = self.waiting_since.take() {
                    self.waited = self.waited.saturating_add(now.since(since));
                }
                Ok(true)
            }
            Poll::Ready(_) => Err(Fault::BadBody),
            Poll::Pending => {
                self.waiting_since.get_or_insert_with(Moment::now);
                Ok(false)
            }
        }
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
