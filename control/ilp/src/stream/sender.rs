//! Paying a server that asked by a `Pay` header: the client end of one STREAM connection.
//!
//! ```text
//! test packets (can't be fulfilled) -> the rate -> empty packets -> what the server takes -> money, until it has it -> close
//! ```
//!
//! A connector on the way can't take more than `SLIPPAGE_PERCENT` of what the test packets promised: every packet says
//! how much must arrive, and the server refuses it otherwise.

use std::time::Duration;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{self, Instant};

use super::{
    crypto::{SharedSecret, StreamKeys, condition_of},
    frame::{Frame, StreamErrorCode},
    packet::{IlpType, StreamPacket},
};
use crate::{
    address::Address,
    ildcp::Account,
    link::Link,
    packet::{ErrorCode, Fulfill, Prepare, Reject},
};

/// The stream that is paid into.
const STREAM: u64 = 1;
/// What the rate may get worse by after the test packets, in per cent.
const SLIPPAGE_PERCENT: u128 = 1;
/// What must arrive for the rate to be seen well enough, to 1 %.
const PRECISE: u64 = 100;
/// Amounts of the test packets: the largest that gets through tells the rate best.
const TEST_AMOUNTS: [u64; 5] = [1, 1_000, 1_000_000, 1_000_000_000, 1_000_000_000_000];
/// How long a packet may be on its way.
const PACKET_EXPIRY: SignedDuration = SignedDuration::from_secs(30);
/// How long a payment may take in all.
const DEADLINE: Duration = Duration::from_secs(60);
/// Answers without any progress after which paying is given up.
const FUTILE_MAX: u32 = 5;
/// First wait after a temporary refusal; doubles each time.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Waits one after another, 25 s in all.
const WAITS_MAX: u32 = 8;
/// Packets with money in one payment.
const PACKETS_MAX: u32 = 10_000;
/// How long the farewell may take.
const CLOSE_EXPIRY: SignedDuration = SignedDuration::from_secs(2);

/// How far a payment has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// In the payer's smallest unit.
    pub sent: u64,
    /// In the payee's smallest unit.
    pub delivered: u64,
    /// The payee's asset code and scale, if it told.
    pub destination_asset: Option<(String, u8)>,
}

/// A payment that didn't go through. What was sent before is in `delivery`.
#[derive(Debug, thiserror::Error)]
#[error("the payment stopped after {} units", .delivery.sent)]
pub struct SendError {
    /// What was sent all the same.
    pub delivery: Delivery,
    /// Why it ended.
    #[source]
    pub reason: SendFailure,
}

/// Why a payment ended.
#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// A packet was refused for good.
    #[error("the payment was refused: {} {}", .0.code, .0.message)]
    Refused(Reject),
    /// Somebody on the way answered with a fulfillment that isn't the server's.
    #[error("a connector answered in the receiver's name")]
    Cheated,
    /// The server takes no (more) money, or not at this rate.
    #[error("the receiver doesn't take the money")]
    NotTaken,
    /// It took too long.
    #[error("the payment took longer than 60 seconds")]
    Timeout,
    /// No test packet came through.
    #[error("the receiver can't be reached: {} {}", .0.code, .0.message)]
    Unreachable(Reject),
}

/// Pays at most `amount_max` of the payer's units, and stops when the server has all it asks for. `progress` is told
/// after every packet that was paid.
///
/// Some servers (cog) take nothing before the HTTP request is repeated; they are asked again for 25 seconds, so repeat it
/// while this runs.
pub async fn send(
    link: &dyn Link,
    from: &Account,
    to: &Address,
    secret: &SharedSecret,
    amount_max: u64,
    progress: &mut (dyn FnMut(&Delivery) + Send),
) -> Result<Delivery, SendError> {
    let mut payment = Payment::new(link, from, to, secret.keys());
    let outcome = time::timeout(DEADLINE, payment.run(amount_max, progress)).await.unwrap_or(Err(SendFailure::Timeout));
    payment.close().await;
    let delivery = payment.delivery;
    outcome.map(|()| delivery.clone()).map_err(|reason| SendError { delivery, reason })
}

/// What `sent` units arrive as.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    sent: u64,
    arrived: u64,
}

impl Rate {
    /// Units to send so that at least `wanted` arrive.
    fn to_deliver(self, wanted: u64) -> u64 {
        let units = (u128::from(wanted) * u128::from(self.sent)).div_ceil(u128::from(self.arrived.max(1)));
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// What `amount` arrives as.
    fn arrives(self, amount: u64) -> u128 {
        u128::from(amount) * u128::from(self.arrived) / u128::from(self.sent.max(1))
    }

    /// What must arrive of `amount`; nothing is paid for nothing.
    fn least(self, amount: u64) -> u64 {
        let arrives = self.arrives(amount);
        let least = arrives / 100 * (100 - SLIPPAGE_PERCENT) + arrives % 100 * (100 - SLIPPAGE_PERCENT) / 100;
        u64::try_from(least).unwrap_or(u64::MAX).max(1)
    }

    /// The rate by a packet that was refused: better known if it was a larger one, but never much worse.
    fn refined(self, sent: u64, arrived: u64) -> Self {
        if sent > self.sent && arrived >= self.least(sent) { Self { sent, arrived } } else { self }
    }
}

struct Payment<'a> {
    link: &'a dyn Link,
    from: &'a Account,
    to: &'a Address,
    keys: StreamKeys,
    sequence: u64,
    delivery: Delivery,
    /// What the server takes in all, and has.
    taken: (u64, u64),
    /// The server has said that the request may be repeated, or that the connection is over.
    ready: bool,
    closed: bool,
    /// Most a packet may carry on this path.
    packet_max: u64,
}

/// An answer of the server itself.
struct Answer {
    arrived: u64,
}

impl<'a> Payment<'a> {
    fn new(link: &'a dyn Link, from: &'a Account, to: &'a Address, keys: StreamKeys) -> Self {
        let (delivery, taken, packet_max) = (Delivery::default(), (0, 0), u64::MAX);
        Self { link, from, to, keys, sequence: 0, delivery, taken, ready: false, closed: false, packet_max }
    }

    async fn run(&mut self, amount_max: u64, progress: &mut (dyn FnMut(&Delivery) + Send)) -> Result<(), SendFailure> {
        // What was promised, by which least amounts are set, and what is seen, by which packets are made.
        let mut promised = self.find_rate().await?;
        let mut seen = promised;
        self.ask_what_is_taken().await?;
        let (mut futile, mut waits) = (0, 0);
        for _ in 0..PACKETS_MAX {
            let amount = seen.to_deliver(self.room()).min(amount_max - self.delivery.sent).min(self.packet_max);
            if promised.arrives(amount) == 0 {
                // Nothing is missing, or too little is left to arrive as anything.
                return Ok(());
            }
            let least = promised.least(amount);
            let prepare = self.money(amount, least);
            let fulfillment = self.keys.fulfillment(&prepare.data);
            let before = (self.taken, self.packet_max, promised);
            match self.link.send(prepare).await {
                Ok(fulfill) if fulfill.fulfillment == fulfillment => {
                    let arrived = self.count(amount, least, &fulfill);
                    if arrived >= PRECISE {
                        seen = Rate { sent: amount, arrived };
                    }
                    (futile, waits) = (0, 0);
                    progress(&self.delivery);
                }
                Ok(_) => return Err(SendFailure::Cheated),
                Err(reject) => {
                    if let Some(Answer { arrived }) = self.learn_from(&reject, amount) {
                        promised = promised.refined(amount, arrived);
                    }
                    let again = is_answered(&reject);
                    if (self.taken, self.packet_max, promised) == before {
                        futile += 1;
                    } else {
                        (futile, seen) = (0, promised);
                    }
                    if self.closed || (again && futile >= FUTILE_MAX) {
                        return Err(SendFailure::NotTaken);
                    }
                    if is_final(&reject) {
                        return Err(SendFailure::Refused(reject));
                    }
                    if !again {
                        wait_before(&mut waits, reject).await?;
                    }
                }
            }
        }
        Err(SendFailure::NotTaken)
    }

    /// What the server still takes.
    fn room(&self) -> u64 {
        self.taken.0.saturating_sub(self.taken.1)
    }

    /// Counts a packet that was paid, and says what arrived of it.
    fn count(&mut self, amount: u64, least: u64, fulfill: &Fulfill) -> u64 {
        let before = self.taken;
        // If the answer can't be read we know nothing but what the server must have had to fulfil it.
        let arrived = self.read(&fulfill.data, IlpType::Fulfill).map_or(least, |answer| answer.arrived.max(least));
        self.delivery.sent += amount;
        self.delivery.delivered = self.delivery.delivered.saturating_add(arrived);
        if self.taken == before {
            self.taken.1 = before.1.saturating_add(arrived);
        }
        arrived
    }

    /// Sends packets nobody can fulfil and sees what arrives of them.
    async fn find_rate(&mut self) -> Result<Rate, SendFailure> {
        let mut best = None;
        let mut refusal = self.test(&TEST_AMOUNTS, &mut best).await;
        if self.packet_max < u64::MAX && best.is_none_or(|best| best.sent < self.packet_max) {
            refusal = self.test(&[self.packet_max], &mut best).await.or(refusal);
        }
        let silence = || Reject { code: ErrorCode::F02_UNREACHABLE, triggered_by: None, message: String::new(), data: Vec::new() };
        best.ok_or_else(|| SendFailure::Unreachable(refusal.unwrap_or_else(silence)))
    }

    /// Sends test packets at once; a larger one that arrives tells the rate better. Returns the last refusal of somebody else.
    async fn test(&mut self, amounts: &[u64], best: &mut Option<Rate>) -> Option<Reject> {
        let introduction = Frame::ConnectionAssetDetails { asset_code: self.from.asset_code.clone(), asset_scale: self.from.asset_scale };
        let packets: Vec<_> = amounts.iter().map(|amount| self.packet(*amount, 0, vec![introduction.clone()], false)).collect();
        let replies = join_all(packets.into_iter().map(|packet| self.link.send(packet))).await;
        let mut refusal = None;
        for (&sent, reply) in amounts.iter().zip(replies) {
            let Err(reject) = reply else { continue };
            match self.learn_from(&reject, sent) {
                Some(Answer { arrived }) if arrived > 0 => *best = Some(Rate { sent, arrived }),
                _ => refusal = Some(reject),
            }
        }
        refusal
    }

    /// A packet without money opens the stream; its answer says what the server takes. One that takes nothing yet is asked
    /// again.
    async fn ask_what_is_taken(&mut self) -> Result<(), SendFailure> {
        let mut waits = 0;
        loop {
            let prepare = self.packet(0, 0, vec![Frame::StreamMaxMoney { stream_id: STREAM, receive_max: 0, total_received: 0 }], true);
            let refusal = match self.link.send(prepare).await {
                Ok(fulfill) => {
                    self.read(&fulfill.data, IlpType::Fulfill);
                    None
                }
                Err(reject) if is_final(&reject) => return Err(SendFailure::Unreachable(reject)),
                Err(reject) => {
                    self.read(&reject.data, IlpType::Reject);
                    Some(reject)
                }
            };
            if self.ready || self.room() > 0 {
                return Ok(());
            }
            if self.closed {
                return Err(SendFailure::NotTaken);
            }
            match refusal {
                Some(reject) => wait_before(&mut waits, reject).await?,
                None if waits < WAITS_MAX => {
                    time::sleep(BACK_OFF * 2_u32.pow(waits)).await;
                    waits += 1;
                }
                None => return Err(SendFailure::NotTaken),
            }
        }
    }

    fn money(&mut self, amount: u64, least: u64) -> Prepare {
        self.packet(amount, least, vec![Frame::StreamMoney { stream_id: STREAM, shares: amount }], true)
    }

    fn packet(&mut self, amount: u64, least: u64, frames: Vec<Frame>, fulfillable: bool) -> Prepare {
        self.sequence += 1;
        let packet = StreamPacket { ilp_type: IlpType::Prepare, sequence: self.sequence, prepare_amount: least, frames };
        let data = self.keys.seal(packet.encode());
        let condition = if fulfillable { condition_of(&self.keys.fulfillment(&data)) } else { rand::random() };
        let now = Timestamp::now();
        let expires_at = now.checked_add(PACKET_EXPIRY).unwrap_or(now);
        Prepare { amount, expires_at, condition, destination: self.to.clone(), data }
    }

    /// Reads what the server says in an answer, and remembers it.
    fn read(&mut self, sealed: &[u8], ilp_type: IlpType) -> Option<Answer> {
        let plaintext = self.keys.open(sealed).ok()?;
        let packet = StreamPacket::decode(&plaintext).ok().filter(|packet| packet.ilp_type == ilp_type)?;
        for frame in packet.frames {
            match frame {
                Frame::ConnectionAssetDetails { asset_code, asset_scale } => {
                    self.delivery.destination_asset = Some((asset_code, asset_scale));
                }
                Frame::StreamMaxMoney { stream_id: STREAM, receive_max, total_received } => {
                    // Answers may come out of order; what is taken and what has been received only grow.
                    self.taken = (receive_max.max(self.taken.0), total_received.max(self.taken.1));
                }
                Frame::StreamData { stream_id: STREAM, .. } => self.ready = true,
                Frame::ConnectionClose { .. } | Frame::StreamClose { stream_id: STREAM, .. } => self.closed = true,
                _ => {}
            }
        }
        Some(Answer { arrived: packet.prepare_amount })
    }

    /// What a refusal says: the server's answer if it is its own, and how much a packet may carry if somebody else's.
    fn learn_from(&mut self, reject: &Reject, amount: u64) -> Option<Answer> {
        match reject.code {
            ErrorCode::F99_APPLICATION_ERROR => return self.read(&reject.data, IlpType::Reject),
            ErrorCode::F08_AMOUNT_TOO_LARGE => self.packet_max = self.packet_max.min(largest(&reject.data, amount)).max(1),
            // Not enough for so much, but perhaps for less.
            ErrorCode::T04_INSUFFICIENT_LIQUIDITY => self.packet_max = self.packet_max.min(amount / 2).max(1),
            _ => {}
        }
        None
    }

    /// Best effort: the server forgets an idle connection anyway.
    async fn close(&mut self) {
        let frame = Frame::ConnectionClose { code: StreamErrorCode::NO_ERROR, message: String::new() };
        let mut packet = self.packet(0, 0, vec![frame], false);
        let now = Timestamp::now();
        packet.expires_at = now.checked_add(CLOSE_EXPIRY).unwrap_or(now);
        let until = Instant::now() + CLOSE_EXPIRY.unsigned_abs();
        let _ = time::timeout_at(until, self.link.send(packet)).await;
    }
}

/// Whether another packet may be sent at once: the refusal is an answer to how much this one carried.
fn is_answered(reject: &Reject) -> bool {
    [ErrorCode::F99_APPLICATION_ERROR, ErrorCode::F08_AMOUNT_TOO_LARGE].contains(&reject.code)
}

fn is_final(reject: &Reject) -> bool {
    !is_answered(reject) && !reject.code.is_temporary() && reject.code != ErrorCode::R00_TRANSFER_TIMED_OUT
}

/// Waits longer each time, and in the end gives up with the refusal.
async fn wait_before(waits: &mut u32, reject: Reject) -> Result<(), SendFailure> {
    if *waits >= WAITS_MAX {
        return Err(SendFailure::Refused(reject));
    }
    time::sleep(BACK_OFF * 2_u32.pow(*waits)).await;
    *waits += 1;
    Ok(())
}

/// What an F08 says may be sent instead of `amount`: `u64 received | u64 maximum`, in the unit of whoever refused.
fn largest(data: &[u8], amount: u64) -> u64 {
    let halves = data.split_first_chunk::<8>().and_then(|(received, rest)| Some((received, rest.first_chunk::<8>()?)));
    match halves.map(|(received, maximum)| (u64::from_be_bytes(*received), u64::from_be_bytes(*maximum))) {
        Some((received @ 1.., maximum)) if maximum < received => {
            u64::try_from(u128::from(amount) * u128::from(maximum) / u128::from(received)).unwrap_or(amount / 2)
        }
        _ => amount / 2,
    }
}
