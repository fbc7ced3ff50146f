//! Our sender pays our receiver over links that convert, cap, cheat and fail.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use codiusd_ilp::{
    link::Link,
    packet::{ErrorCode, Fulfill, Prepare, Reject, Reply},
    stream::{
        crypto::SharedSecret,
        frame::Frame,
        packet::{IlpType, StreamPacket},
        receiver::Receiver,
        sender::{Delivery, SendError, SendFailure, send},
    },
};
use jiff::Timestamp;
use proptest::prelude::*;

use crate::credit_sink::{MemoryLedger, SERVER_SECRET, account, receiver};

/// A connector with an exchange rate in front of a receiver.
#[derive(Debug)]
struct Path {
    receiver: Arc<Receiver>,
    /// What arrives: `amount * multiply / divide`.
    rate: Mutex<(u64, u64)>,
    /// F08 above this.
    packet_max: u64,
    /// Answers of the connector itself to packets with money, before it lets them through.
    refusals: Mutex<Vec<Reject>>,
    cheats: bool,
    packets: AtomicU32,
    paid: AtomicU64,
}

impl Path {
    fn new(ledger: &Arc<MemoryLedger>, rate: (u64, u64)) -> Self {
        Self {
            receiver: receiver(ledger),
            rate: Mutex::new(rate),
            packet_max: u64::MAX,
            refusals: Mutex::default(),
            cheats: false,
            packets: AtomicU32::new(0),
            paid: AtomicU64::new(0),
        }
    }

    async fn pay(&self, amount_max: u64) -> Result<Delivery, SendError> {
        pay_over(self, amount_max).await
    }
}

async fn pay_over(link: &dyn Link, amount_max: u64) -> Result<Delivery, SendError> {
    let to = "private.host.order".parse().unwrap();
    let secret = SharedSecret::derive(&SERVER_SECRET, "order");
    let mut told = Delivery::default();
    let mut progress = |delivery: &Delivery| {
        assert!(delivery.sent > told.sent, "progress is told once for each packet");
        told = delivery.clone();
    };
    let outcome = send(link, &account("private.payer"), &to, &secret, amount_max, &mut progress).await;
    let delivery = outcome.as_ref().unwrap_or_else(|error| &error.delivery);
    assert_eq!((delivery.sent, delivery.delivered), (told.sent, told.delivered), "progress has told everything");
    outcome
}

fn reject(code: ErrorCode) -> Reject {
    Reject { code, triggered_by: None, message: "by the path".to_owned(), data: Vec::new() }
}

#[async_trait]
impl Link for Path {
    async fn send(&self, mut prepare: Prepare) -> Reply {
        let count = self.packets.fetch_add(1, Relaxed);
        assert!(count < 5_000, "the sender spins");
        let sent = prepare.amount;
        if sent > self.packet_max {
            let data = [sent.to_be_bytes(), self.packet_max.to_be_bytes()].concat();
            return Err(Reject { data, ..reject(ErrorCode::F08_AMOUNT_TOO_LARGE) });
        }
        // Five test packets and an empty one come first.
        if count >= 6 && sent > 0 {
            if let Some(refusal) = self.refusals.lock().unwrap().pop() {
                return Err(refusal);
            }
            if self.cheats {
                return Ok(Fulfill { fulfillment: [0; 32], data: Vec::new() });
            }
        }
        let (multiply, divide) = *self.rate.lock().unwrap();
        prepare.amount = u64::try_from(u128::from(sent) * u128::from(multiply) / u128::from(divide)).unwrap();
        let reply = self.receiver.handle(&account("private.host"), prepare, Timestamp::now()).await;
        if reply.is_ok() {
            self.paid.fetch_add(sent, Relaxed);
        }
        reply
    }
}

fn failure(outcome: Result<Delivery, SendError>) -> SendFailure {
    outcome.expect_err("a failed payment").reason
}

#[tokio::test(start_paused = true)]
async fn pays_what_is_asked_and_no_more() {
    let ledger = MemoryLedger::with(&["order"], 1000);
    let path = Path::new(&ledger, (1, 1));
    let delivery = path.pay(5000).await.unwrap();
    assert_eq!(delivery, Delivery { sent: 1000, delivered: 1000, destination_asset: Some(("XRP".to_owned(), 9)) });
    assert_eq!(path.pay(5000).await.unwrap().sent, 0, "it is paid");
    assert!(path.packets.load(Relaxed) < 20);
}

#[tokio::test(start_paused = true)]
async fn what_was_paid_too_little_is_paid_later() {
    let ledger = MemoryLedger::with(&["order"], 1000);
    let path = Path::new(&ledger, (1, 1));
    assert_eq!(path.pay(600).await.unwrap().sent, 600);
    assert_eq!(path.pay(5000).await.unwrap().sent, 400);
    assert_eq!(ledger.terms("order").received, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_connector_can_take_one_per_cent_and_not_five() {
    for (after, paid) in [((995, 1000), true), ((950, 1000), false)] {
        let ledger = MemoryLedger::with(&["order"], 100_000);
        let path = Path::new(&ledger, (1, 1));
        let switch = Switch { path: &path, after };
        let outcome = pay_over(&switch, 1_000_000).await;
        assert_eq!((outcome.is_ok(), ledger.terms("order").received >= 100_000), (paid, paid), "{after:?}: {outcome:?}");
        if !paid {
            assert!(matches!(failure(outcome), SendFailure::NotTaken));
            assert_eq!(path.paid.load(Relaxed), 0);
        }
    }
}

/// Another rate once the test packets are through.
#[derive(Debug)]
struct Switch<'a> {
    path: &'a Path,
    after: (u64, u64),
}

#[async_trait]
impl Link for Switch<'_> {
    async fn send(&self, prepare: Prepare) -> Reply {
        if self.path.packets.load(Relaxed) == 6 {
            *self.path.rate.lock().unwrap() = self.after;
        }
        self.path.send(prepare).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_false_fulfillment_is_noticed() {
    let ledger = MemoryLedger::with(&["order"], 1000);
    let path = Path { cheats: true, ..Path::new(&ledger, (1, 1)) };
    assert!(matches!(failure(path.pay(1000).await), SendFailure::Cheated));
}

#[tokio::test(start_paused = true)]
async fn temporary_refusals_are_waited_out_and_final_ones_are_not() {
    let refused = |code, times| {
        let ledger = MemoryLedger::with(&["order"], 1000);
        let path = Path::new(&ledger, (1, 1));
        *path.refusals.lock().unwrap() = vec![reject(code); times];
        (ledger, path)
    };
    for code in [ErrorCode::T00_INTERNAL_ERROR, ErrorCode::T04_INSUFFICIENT_LIQUIDITY, ErrorCode::R00_TRANSFER_TIMED_OUT] {
        let (ledger, path) = refused(code, 3);
        assert_eq!(path.pay(1000).await.unwrap().sent, 1000, "{code}");
        assert_eq!(ledger.terms("order").received, 1000);
        let (_ledger, path) = refused(code, 1_000);
        let SendFailure::Refused(last) = failure(path.pay(1000).await) else { panic!("{code}: not refused") };
        assert_eq!(last.code, code);
        assert!(path.packets.load(Relaxed) < 30, "{code}");
    }
    for code in [ErrorCode::F00_BAD_REQUEST, ErrorCode::F02_UNREACHABLE] {
        let (_ledger, path) = refused(code, 1);
        assert!(matches!(failure(path.pay(1000).await), SendFailure::Refused(reject) if reject.code == code));
    }
}

#[tokio::test(start_paused = true)]
async fn packets_get_as_small_as_they_must() {
    let ledger = MemoryLedger::with(&["order"], 1000);
    let path = Path { packet_max: 300, ..Path::new(&ledger, (1, 1)) };
    assert_eq!(path.pay(1000).await.unwrap().sent, 1000);
    assert!(path.packets.load(Relaxed) < 15, "{path:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_told() {
    let ledger = MemoryLedger::with(&["other"], 1000);
    let SendFailure::Unreachable(reject) = failure(Path::new(&ledger, (1, 1)).pay(1000).await) else { panic!("reachable") };
    assert_eq!(reject.code, ErrorCode::F02_UNREACHABLE);
    assert!(matches!(failure(pay_over(&Silence, 1000).await), SendFailure::Timeout));
}

#[derive(Debug)]
struct Silence;

#[async_trait]
impl Link for Silence {
    async fn send(&self, _: Prepare) -> Reply {
        std::future::pending().await
    }
}

/// A server as cog is: it takes nothing before the HTTP request is repeated.
#[derive(Debug)]
struct Late {
    empty_packets: AtomicU32,
    received: AtomicU64,
}

#[async_trait]
impl Link for Late {
    async fn send(&self, prepare: Prepare) -> Reply {
        let keys = SharedSecret::derive(&SERVER_SECRET, "order").keys();
        let asked = StreamPacket::decode(&keys.open(&prepare.data).unwrap()).unwrap();
        let fulfillment = keys.fulfillment(&prepare.data);
        let fulfilled = codiusd_ilp::stream::crypto::condition_of(&fulfillment) == prepare.condition;
        if fulfilled && prepare.amount == 0 {
            self.empty_packets.fetch_add(1, Relaxed);
        }
        let receive_max = if self.empty_packets.load(Relaxed) < 4 { 0 } else { 500 };
        let money = Frame::StreamMaxMoney { stream_id: 1, receive_max, total_received: self.received.load(Relaxed) };
        let answer = |ilp_type| {
            let (sequence, prepare_amount) = (asked.sequence, prepare.amount);
            keys.seal(StreamPacket { ilp_type, sequence, prepare_amount, frames: vec![money.clone()] }.encode())
        };
        if !fulfilled || prepare.amount > receive_max {
            return Err(Reject { data: answer(IlpType::Reject), ..reject(ErrorCode::F99_APPLICATION_ERROR) });
        }
        self.received.fetch_add(prepare.amount, Relaxed);
        Ok(Fulfill { fulfillment, data: answer(IlpType::Fulfill) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_late_is_asked_again() {
    let server = Late { empty_packets: AtomicU32::new(0), received: AtomicU64::new(0) };
    assert_eq!(pay_over(&server, 1000).await.unwrap().sent, 500);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn both_ends_agree_at_any_rate(
        price in 1_u64..1_000_000,
        amount_max in 0_u64..3_000_000,
        rate in (1_u64..5_000, 1_u64..5_000),
        smallest in prop::option::of(1_000_u64..100_000),
    ) {
        prop_assume!(smallest.is_none_or(|smallest| smallest * rate.0 >= rate.1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let ledger = MemoryLedger::with(&["order"], price);
        let path = Path { packet_max: smallest.unwrap_or(u64::MAX), ..Path::new(&ledger, rate) };
        let delivery = runtime.block_on(path.pay(amount_max)).unwrap();
        let terms = ledger.terms("order");
        prop_assert_eq!(delivery.delivered, terms.received);
        prop_assert_eq!(delivery.sent, path.paid.load(Relaxed));
        prop_assert!(delivery.sent <= amount_max);
        let unit = (rate.0 / rate.1).max(1);
        prop_assert!(terms.received <= price + price.div_ceil(100).max(unit));
        // Less only if the rest, or a packet, wouldn't arrive as anything.
        let left = (amount_max - delivery.sent).min(path.packet_max);
        prop_assert!(terms.received >= price || left * rate.0 / rate.1 == 0, "{:?} {}", delivery, left);
    }
}
