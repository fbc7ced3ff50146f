//! Pays a server that sent a `Pay` header: the client end of one STREAM connection.
//!
//! ```text
//! test packets (unfulfillable) -> rate -> empty packets -> amount the server asks for -> money, until it is paid -> close
//! ```
//!
//! A connector on the way can't take more than `SLIPPAGE_PERCENT` of the amount the test packets promised: every packet states
//! the minimum that must arrive, and the server rejects it otherwise.

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

/// The stream that is paid.
const STREAM: u64 = 1;
/// How much the rate may worsen after the test packets, in per cent.
const SLIPPAGE_PERCENT: u128 = 1;
/// Arriving amount from which a packet's rate is precise enough, to 1 %.
const PRECISE: u64 = 100;
/// Amounts of the test packets: the largest that gets through gives the best rate.
const TEST_AMOUNTS: [u64; 5] = [1, 1_000, 1_000_000, 1_000_000_000, 1_000_000_000_000];
/// Expiry of a packet.
const PACKET_EXPIRY: SignedDuration = SignedDuration::from_secs(30);
/// Time limit of a payment.
const DEADLINE: Duration = Duration::from_secs(60);
/// Consecutive replies without progress after which the payment is given up.
const FUTILE_MAX: u32 = 5;
/// First delay after a temporary reject; doubles each time.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Consecutive delays, 25 s in total.
const WAITS_MAX: u32 = 8;
/// Most money packets of one payment.
const PACKETS_MAX: u32 = 10_000;
/// Time limit of the closing packet.
const CLOSE_EXPIRY: SignedDuration = SignedDuration::from_secs(2);

/// Progress of a payment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// In the payer's smallest unit.
    pub sent: u64,
    /// In the payee's smallest unit.
    pub delivered: u64,
    /// The payee's asset code and scale, if it sent them.
    pub destination_asset: Option<(String, u8)>,
}

/// A failed payment. `delivery` is what was paid before.
#[derive(Debug, thiserror::Error)]
#[error("the payment stopped after {} units", .delivery.sent)]
pub struct SendError {
    /// What was paid nevertheless.
    pub delivery: Delivery,
    /// Why it ended.
    #[source]
    pub reason: SendFailure,
}

/// Why a payment ended.
#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// A packet was rejected for good.
    #[error("the payment was refused: {} {}", .0.code, .0.message)]
    Refused(Reject),
    /// A node on the way returned an invalid fulfillment.
    #[error("a connector answered in the receiver's name")]
    Cheated,
    /// The server accepts no (more) money, or not at this rate.
    #[error("the receiver doesn't take the money")]
    NotTaken,
    /// Timeout.
    #[error("the payment took longer than 60 seconds")]
    Timeout,
    /// No test packet reached the server.
    #[error("the receiver can't be reached: {} {}", .0.code, .0.message)]
    Unreachable(Reject),
}

/// Pays at most `amount_max` of the payer's units, and stops when the server has received all it asks for. Calls `progress`
/// after every packet that was paid.
///
/// Some servers (cog) accept nothing before the HTTP request is repeated; they are retried for 25 seconds, so repeat it
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

/// A rate: `sent` units arrive as `arrived`.
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

    /// Amount that arrives of `amount`.
    fn arrives(self, amount: u64) -> u128 {
        u128::from(amount) * u128::from(self.arrived) / u128::from(self.sent.max(1))
    }

    /// Minimum that must arrive of `amount`; at least 1, so that nothing is paid for nothing.
    fn least(self, amount: u64) -> u64 {
        let arrives = self.arrives(amount);
        let least = arrives / 100 * (100 - SLIPPAGE_PERCENT) + arrives % 100 * (100 - SLIPPAGE_PERCENT) / 100;
        u64::try_from(least).unwrap_or(u64::MAX).max(1)
    }

    /// The rate according to a rejected packet: used if the packet was larger, unless the rate is much worse.
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
    /// Total the server accepts, and what it has received.
    taken: (u64, u64),
    /// The server said that the request may be repeated; the server closed the connection.
    ready: bool,
    closed: bool,
    /// Largest packet amount on this path.
    packet_max: u64,
}

/// A reply from the server itself.
struct Answer {
    arrived: u64,
}

impl<'a> Payment<'a> {
    fn new(link: &'a dyn Link, from: &'a Account, to: &'a Address, keys: StreamKeys) -> Self {
        let (delivery, taken, packet_max) = (Delivery::default(), (0, 0), u64::MAX);
        Self { link, from, to, keys, sequence: 0, delivery, taken, ready: false, closed: false, packet_max }
    }

    async fn run(&mut self, amount_max: u64, progress: &mut (dyn FnMut(&Delivery) + Send)) -> Result<(), SendFailure> {
        // `promised` sets the minimum that must arrive, `seen` the amounts of the packets.
        let mut promised = self.find_rate().await?;
        let mut seen = promised;
        self.ask_what_is_taken().await?;
        let (mut futile, mut waits) = (0, 0);
        for _ in 0..PACKETS_MAX {
            let amount = seen.to_deliver(self.room()).min(amount_max - self.delivery.sent).min(self.packet_max);
            if promised.arrives(amount) == 0 {
                // Everything is paid, or the rest is too small to arrive as anything.
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

    /// Amount the server still accepts.
    fn room(&self) -> u64 {
        self.taken.0.saturating_sub(self.taken.1)
    }

    /// Records a packet that was paid, and returns what arrived of it.
    fn count(&mut self, amount: u64, least: u64, fulfill: &Fulfill) -> u64 {
        let before = self.taken;
        // If the reply can't be read, only the minimum is certain: the server needed it to fulfill.
        let arrived = self.read(&fulfill.data, IlpType::Fulfill).map_or(least, |answer| answer.arrived.max(least));
        self.delivery.sent += amount;
        self.delivery.delivered = self.delivery.delivered.saturating_add(arrived);
        if self.taken == before {
            self.taken.1 = before.1.saturating_add(arrived);
        }
        arrived
    }

    /// Sends unfulfillable packets and measures what arrives of them.
    async fn find_rate(&mut self) -> Result<Rate, SendFailure> {
        let mut best = None;
        let mut refusal = self.test(&TEST_AMOUNTS, &mut best).await;
        if self.packet_max < u64::MAX && best.is_none_or(|best| best.sent < self.packet_max) {
            refusal = self.test(&[self.packet_max], &mut best).await.or(refusal);
        }
        let silence = || Reject { code: ErrorCode::F02_UNREACHABLE, triggered_by: None, message: String::new(), data: Vec::new() };
        best.ok_or_else(|| SendFailure::Unreachable(refusal.unwrap_or_else(silence)))
    }

    /// Sends test packets in parallel; the largest that arrives gives the best rate. Returns the last reject that isn't from the server.
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

    /// A packet without money opens the stream; its reply says how much the server accepts. A server that accepts nothing yet is
    /// asked again.
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

    /// Decrypts the server's reply, and records its frames.
    fn read(&mut self, sealed: &[u8], ilp_type: IlpType) -> Option<Answer> {
        let plaintext = self.keys.open(sealed).ok()?;
        let packet = StreamPacket::decode(&plaintext).ok().filter(|packet| packet.ilp_type == ilp_type)?;
        for frame in packet.frames {
            match frame {
                Frame::ConnectionAssetDetails { asset_code, asset_scale } => {
                    self.delivery.destination_asset = Some((asset_code, asset_scale));
                }
                Frame::StreamMaxMoney { stream_id: STREAM, receive_max, total_received } => {
                    // Replies may arrive out of order; both amounts only grow.
                    self.taken = (receive_max.max(self.taken.0), total_received.max(self.taken.1));
                }
                Frame::StreamData { stream_id: STREAM, .. } => self.ready = true,
                Frame::ConnectionClose { .. } | Frame::StreamClose { stream_id: STREAM, .. } => self.closed = true,
                _ => {}
            }
        }
        Some(Answer { arrived: packet.prepare_amount })
    }

    /// Evaluates a reject: the server's reply if it is from the server, otherwise a limit on the packet amount.
    fn learn_from(&mut self, reject: &Reject, amount: u64) -> Option<Answer> {
        match reject.code {
            ErrorCode::F99_APPLICATION_ERROR => return self.read(&reject.data, IlpType::Reject),
            ErrorCode::F08_AMOUNT_TOO_LARGE => self.packet_max = self.packet_max.min(largest(&reject.data, amount)).max(1),
            // Too little liquidity for this amount, but perhaps enough for less.
            ErrorCode::T04_INSUFFICIENT_LIQUIDITY => self.packet_max = self.packet_max.min(amount / 2).max(1),
            _ => {}
        }
        None
    }

    /// Best effort: the server drops an idle connection anyway.
    async fn close(&mut self) {
        let frame = Frame::ConnectionClose { code: StreamErrorCode::NO_ERROR, message: String::new() };
        let mut packet = self.packet(0, 0, vec![frame], false);
        let now = Timestamp::now();
        packet.expires_at = now.checked_add(CLOSE_EXPIRY).unwrap_or(now);
        let until = Instant::now() + CLOSE_EXPIRY.unsigned_abs();
        let _ = time::timeout_at(until, self.link.send(packet)).await;
    }
}

/// Whether another packet may be sent at once: the reject refers to this packet's amount.
fn is_answered(reject: &Reject) -> bool {
    [ErrorCode::F99_APPLICATION_ERROR, ErrorCode::F08_AMOUNT_TOO_LARGE].contains(&reject.code)
}

fn is_final(reject: &Reject) -> bool {
    !is_answered(reject) && !reject.code.is_temporary() && reject.code != ErrorCode::R00_TRANSFER_TIMED_OUT
}

/// Waits longer each time, and finally fails with the reject.
async fn wait_before(waits: &mut u32, reject: Reject) -> Result<(), SendFailure> {
    if *waits >= WAITS_MAX {
        return Err(SendFailure::Refused(reject));
    }
    time::sleep(BACK_OFF * 2_u32.pow(*waits)).await;
    *waits += 1;
    Ok(())
}

/// The largest amount an F08 allows instead of `amount`: `u64 received | u64 maximum`, in the rejecting node's unit.
fn largest(data: &[u8], amount: u64) -> u64 {
    let halves = data.split_first_chunk::<8>().and_then(|(received, rest)| Some((received, rest.first_chunk::<8>()?)));
    match halves.map(|(received, maximum)| (u64::from_be_bytes(*received), u64::from_be_bytes(*maximum))) {
        Some((received @ 1.., maximum)) if maximum < received => {
            u64::try_from(u128::from(amount) * u128::from(maximum) / u128::from(received)).unwrap_or(amount / 2)
        }
        _ => amount / 2,
    }
}
