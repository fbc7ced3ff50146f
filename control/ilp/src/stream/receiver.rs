//! Receives payments: the server end of STREAM connections, one per payment, request and response only.
//!
//! ```text
//! Prepare -> is it ours? -> decrypt -> seen before? -> frames -> arrived whole? -> fulfillable? -> in time? -> fits? -> credit -> Fulfill
//!              F02            F06       same Fulfill    F99         F99              F99            R00       F99     (durable)
//! ```
//!
//! Rejects after decryption are F99 with an encrypted packet (unless the packet is late, or can't be handled now): a JS sender gives up
//! silently on anything else. The receiver never sends a Prepare of its own: the byte clients wait for is in the Fulfill that completes the
//! payment. Connection state is volatile; a payment is found by its address segment alone.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    credit_sink::{Credit, CreditError, CreditSink, Terms},
    crypto::{self, SEALED_MIN, SharedSecret, StreamKeys},
    frame::Frame,
    packet::{IlpType, StreamPacket},
};
use crate::{
    address::{Address, BadAddress},
    ildcp::Account,
    packet::{ErrorCode, Fulfill, Prepare, Reject, Reply},
};

mod verdict;

use verdict::{Conn, DATA_MAX, Facts, PAID, STREAM, Verdict, give_up, introduces, judge, max_money};

/// Time a Fulfill needs to travel back: a packet that expires sooner isn't credited, because the money couldn't be collected.
const EXPIRY_MARGIN: SignedDuration = SignedDuration::from_millis(500);
/// Idle time after which a connection is dropped.
const IDLE: SignedDuration = SignedDuration::from_secs(60);
/// Most connections kept; beyond that a packet for a new one is rejected as temporary.
const CONNECTIONS_MAX: usize = 100_000;
/// Packets per second that belong to no payment or can't be decrypted; beyond that only packets of known connections are handled.
const FOREIGN_MAX: u32 = 1_000;
const FOREIGN_WINDOW: SignedDuration = SignedDuration::from_secs(1);
/// Data limit we announce for the connection, the same as JS servers.
const CONNECTION_DATA_MAX: u64 = 65_534;

/// Receives payments into a [`CreditSink`].
pub struct Receiver {
    server_secret: [u8; 32],
    ledger: Arc<dyn CreditSink>,
    connections: Mutex<Connections>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Connections {
    by_segment: HashMap<String, Conn>,
    swept_at: Option<Timestamp>,
    /// Packets since `foreign_since` that belong to no payment.
    foreign: u32,
    foreign_since: Option<Timestamp>,
}

impl Receiver {
    /// A receiver whose shared secrets all derive from `server_secret`.
    pub fn new(server_secret: [u8; 32], ledger: Arc<dyn CreditSink>) -> Self {
        Self { server_secret, ledger, connections: Mutex::default() }
    }

    /// The address and secret to pay with: the second and third word of a `Pay` header.
    pub fn pay_to(&self, account: &Account, segment: &str) -> Result<(Address, SharedSecret), BadAddress> {
        Ok((account.address.join(segment)?, SharedSecret::derive(&self.server_secret, segment)))
    }

    /// Answers a Prepare for `account` or an address below it.
    pub async fn handle(&self, account: &Account, prepare: Prepare, now: Timestamp) -> Reply {
        let plain = |code, message| Reject::new(code, &account.address, message);
        let unknown = || plain(ErrorCode::F02_UNREACHABLE, "no such payment");
        let below = account.address.strip_prefix_of(&prepare.destination).ok_or_else(unknown)?;
        let segment = below.split('.').next().unwrap_or_default();
        if prepare.data.len() < SEALED_MIN {
            return Err(unknown());
        }
        if !self.connections().listens_to(segment, now) {
            return Err(plain(ErrorCode::T05_RATE_LIMITED, "too many packets that can't be read"));
        }
        let Some(lookup) = self.ledger.lookup(segment, &prepare.condition).await else {
            self.connections().count_foreign();
            return Err(unknown());
        };
        let keys = SharedSecret::derive(&self.server_secret, segment).keys();
        let Some(packet) = open(&keys, &prepare.data) else {
            self.connections().count_foreign();
            return Err(plain(ErrorCode::F06_UNEXPECTED_PAYMENT, ""));
        };

        let fulfillment = keys.fulfillment(&prepare.data);
        let answer = Answer { account, keys: &keys, packet: &packet, arrived: prepare.amount };
        let fulfillable = crypto::condition_of(&fulfillment) == prepare.condition;
        if lookup.credited && fulfillable {
            return Ok(answer.fulfill(fulfillment, paid_frames(&lookup.terms, lookup.terms.room() == 0)));
        }
        let in_time = prepare.expires_at > soon(now);
        let (verdict, mut frames) = {
            let mut connections = self.connections();
            let Some(conn) = connections.get(segment, now) else {
                return Err(plain(ErrorCode::T05_RATE_LIMITED, "too many connections"));
            };
            let frames = base_frames(account, &packet, conn.is_new(), fulfillable);
            let facts = Facts { arrived: prepare.amount, fulfillable, in_time, terms: lookup.terms };
            (judge(conn, &packet, facts), frames)
        };
        match verdict {
            Verdict::Decline(more) => Err(answer.decline(frames, more)),
            Verdict::Late => Err(plain(ErrorCode::R00_TRANSFER_TIMED_OUT, "expires too soon")),
            Verdict::Fulfill { ask_again } => {
                frames.extend(paid_frames(&lookup.terms, ask_again));
                Ok(answer.fulfill(fulfillment, frames))
            }
            Verdict::Credit { slack } => {
                let segment = segment.to_owned();
                let credit = Credit { segment, condition: prepare.condition, amount: prepare.amount, slack };
                // A credited packet is fulfilled even if it has expired meanwhile: the previous hop won't pay us then, but without a
                // fulfillment the payer would believe that the credited money was never paid.
                match self.ledger.credit(credit).await {
                    Ok(terms) => {
                        frames.extend(paid_frames(&terms, terms.room() == 0));
                        Ok(answer.fulfill(fulfillment, frames))
                    }
                    Err(CreditError::Refused(terms)) => {
                        let last = if terms.is_over() { give_up(&terms) } else { vec![max_money(&terms)] };
                        Err(answer.decline(frames, last))
                    }
                    Err(CreditError::Unavailable) => Err(plain(ErrorCode::T00_INTERNAL_ERROR, "can't be credited now")),
                }
            }
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// Whether a packet for a segment is handled. Packets of known connections always are; others only while
    /// few of them turn out to be invalid, so that a flood of those doesn't block payments.
    fn listens_to(&mut self, segment: &str, now: Timestamp) -> bool {
        if self.foreign_since.is_none_or(|since| since.duration_until(now).abs() >= FOREIGN_WINDOW) {
            (self.foreign, self.foreign_since) = (0, Some(now));
        }
        self.foreign < FOREIGN_MAX || self.by_segment.contains_key(segment)
    }

    fn count_foreign(&mut self) {
        self.foreign = self.foreign.saturating_add(1);
    }

    /// The connection at a segment, created by its first packet; none if there are too many.
    fn get(&mut self, segment: &str, now: Timestamp) -> Option<&mut Conn> {
        if self.swept_at.is_none_or(|at| at.duration_until(now) >= IDLE) {
            self.by_segment.retain(|_, conn| conn.last_packet.duration_until(now) < IDLE);
            self.swept_at = Some(now);
        }
        if self.by_segment.len() >= CONNECTIONS_MAX && !self.by_segment.contains_key(segment) {
            return None;
        }
        let conn = self.by_segment.entry(segment.to_owned()).or_insert_with(|| Conn::new(now));
        if conn.last_packet.duration_until(now) >= IDLE {
            *conn = Conn::new(now);
        }
        conn.last_packet = now;
        Some(conn)
    }
}

/// Builds and seals the replies to one packet.
struct Answer<'a> {
    account: &'a Account,
    keys: &'a StreamKeys,
    packet: &'a StreamPacket,
    arrived: u64,
}

impl Answer<'_> {
    fn fulfill(&self, fulfillment: [u8; 32], frames: Vec<Frame>) -> Fulfill {
        Fulfill { fulfillment, data: self.seal(IlpType::Fulfill, frames) }
    }

    fn decline(&self, mut frames: Vec<Frame>, more: Vec<Frame>) -> Reject {
        frames.extend(more);
        let mut reject = Reject::new(ErrorCode::F99_APPLICATION_ERROR, &self.account.address, "");
        reject.data = self.seal(IlpType::Reject, frames);
        reject
    }

    fn seal(&self, ilp_type: IlpType, frames: Vec<Frame>) -> Vec<u8> {
        let packet = StreamPacket { ilp_type, sequence: self.packet.sequence, prepare_amount: self.arrived, frames };
        self.keys.seal(packet.encode())
    }
}

fn open(keys: &StreamKeys, sealed: &[u8]) -> Option<StreamPacket> {
    let plaintext = keys.open(sealed).ok()?;
    StreamPacket::decode(&plaintext).ok().filter(|packet| packet.ilp_type == IlpType::Prepare)
}

fn soon(now: Timestamp) -> Timestamp {
    now.checked_add(EXPIRY_MARGIN).unwrap_or(Timestamp::MAX)
}

/// Frames of every reply. Limits and asset are repeated while a client may not know them: on the connection's first
/// packet, when it announces its address, and on test packets; any of these replies may get lost.
fn base_frames(account: &Account, packet: &StreamPacket, new: bool, fulfillable: bool) -> Vec<Frame> {
    let mut frames = vec![Frame::ConnectionMaxData { max_offset: CONNECTION_DATA_MAX }];
    if new || introduces(packet, fulfillable) {
        frames.push(Frame::ConnectionMaxStreamId { max_stream_id: 2 });
        let (asset_code, asset_scale) = (account.asset_code.clone(), account.asset_scale);
        frames.push(Frame::ConnectionAssetDetails { asset_code, asset_scale });
    }
    frames
}

/// Money frames of a Fulfill, with the byte that makes clients repeat their HTTP request if `ask_again`.
fn paid_frames(terms: &Terms, ask_again: bool) -> Vec<Frame> {
    let mut frames = vec![max_money(terms), Frame::StreamMaxData { stream_id: STREAM, max_offset: DATA_MAX }];
    if ask_again {
        frames.push(Frame::StreamData { stream_id: STREAM, offset: 0, data: PAID.to_vec() });
    }
    frames
}
