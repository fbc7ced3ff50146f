//! The receiver's answers, check by check and in their order.

use std::sync::Arc;

use codiusd_ilp::{
    packet::{ErrorCode, Reply},
    stream::{
        credit_sink::Terms,
        frame::{Frame, StreamErrorCode},
        packet::IlpType,
        receiver::Receiver,
    },
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    credit_sink::{MemoryLedger, account, receiver},
    peer::{Heard, Peer, Sent},
};

const F99: Option<ErrorCode> = Some(ErrorCode::F99_APPLICATION_ERROR);

/// A receiver with one payment at `order`, and its client.
struct Bench {
    ledger: Arc<MemoryLedger>,
    receiver: Arc<Receiver>,
    peer: Peer,
    now: Timestamp,
}

impl Bench {
    fn new(price: u64) -> Self {
        let ledger = MemoryLedger::with(&["order"], price);
        let receiver = receiver(&ledger);
        Self { ledger, receiver, peer: Peer::new("order"), now: "2026-11-24T12:00:00Z".parse().unwrap() }
    }

    async fn send(&mut self, sent: Sent) -> Heard {
        let prepare = self.peer.prepare(&sent, self.now);
        let reply = self.receiver.handle(&account("private.host"), prepare.clone(), self.now).await;
        self.peer.read(&prepare, reply)
    }

    fn received(&self) -> u64 {
        self.ledger.terms("order").received
    }
}

fn code(reply: Reply) -> ErrorCode {
    reply.expect_err("a reject").code
}

#[tokio::test]
async fn takes_exactly_the_price_and_says_so() {
    let mut bench = Bench::new(1000);
    let test = bench.send(Sent::test(1000)).await;
    assert_eq!((test.code, test.introduces(), test.says_ready()), (F99, true, false));
    let tried = bench.send(Sent::money(2000)).await;
    assert_eq!((tried.code, tried.max_money(), tried.says_ready()), (F99, Some((1000, 0)), false));
    let paid = bench.send(Sent::money(1000)).await;
    assert_eq!((paid.is_paid(), paid.max_money(), paid.says_ready()), (true, Some((1000, 1000)), true));
    assert!(!paid.introduces(), "limits and asset are known by now");
    let blocked = bench.send(Sent::empty(0).with(Frame::StreamMoneyBlocked { stream_id: 1, send_max: 2000, total_sent: 1000 })).await;
    assert_eq!((blocked.is_paid(), blocked.max_money(), blocked.says_ready()), (true, Some((1000, 1000)), true));
    let more = bench.send(Sent::money(1)).await;
    assert_eq!((more.code, more.max_money(), more.closed()), (F99, Some((1000, 1000)), None));
    assert_eq!(bench.received(), 1000);
}

#[tokio::test]
async fn an_underpaying_client_is_sent_back_to_ask() {
    let mut bench = Bench::new(1000);
    let paid = bench.send(Sent::money(600)).await;
    assert_eq!((paid.is_paid(), paid.max_money(), paid.says_ready()), (true, Some((1000, 600)), false));
    assert!(bench.send(Sent::empty(0)).await.says_ready(), "it has no more, so it asks what is missing");
    let rest = bench.send(Sent::money(400)).await;
    assert_eq!((rest.is_paid(), rest.says_ready()), (true, true));
}

#[tokio::test]
async fn an_empty_packet_before_the_stream_opens_is_not_an_answer() {
    let mut bench = Bench::new(1000);
    assert!(!bench.send(Sent::empty(0)).await.says_ready(), "no stream is open");
    let open = Frame::StreamMaxData { stream_id: 1, max_offset: 16_384 };
    assert!(bench.send(Sent::empty(0).with(open)).await.says_ready());
    let mut free = Bench::new(0);
    assert!(free.send(Sent::empty(0)).await.says_ready(), "nothing is to be paid");
    assert_eq!(free.send(Sent::money(5)).await.max_money(), Some((0, 0)));
}

#[tokio::test]
async fn what_is_not_a_packet_of_a_payment_is_told_nothing() {
    let mut bench = Bench::new(1000);
    let now = bench.now;
    let good = bench.peer.prepare(&Sent::money(1000), now);
    let own = account("private.host");
    let at = |destination: &str| {
        let mut prepare = good.clone();
        prepare.destination = destination.parse().unwrap();
        prepare
    };
    for elsewhere in ["private.host", "private.hosts.order", "private.host.other", "private.other.order"] {
        let reply = bench.receiver.handle(&own, at(elsewhere), now).await;
        assert_eq!(code(reply), ErrorCode::F02_UNREACHABLE, "{elsewhere}");
    }
    let mut short = good.clone();
    short.data.truncate(27);
    assert_eq!(code(bench.receiver.handle(&own, short, now).await), ErrorCode::F02_UNREACHABLE);
    let mut changed = good.clone();
    changed.data[40] ^= 1;
    let reject = bench.receiver.handle(&own, changed, now).await.unwrap_err();
    assert_eq!((reject.code, reject.data), (ErrorCode::F06_UNEXPECTED_PAYMENT, Vec::new()));
    let reply = bench.send(Sent { ilp_type: IlpType::Fulfill, ..Sent::money(1000) }).await;
    assert_eq!(reply, Heard { code: Some(ErrorCode::F06_UNEXPECTED_PAYMENT), stream: None }, "a stolen answer sent back");
    assert_eq!(bench.received(), 0);
    assert!(bench.receiver.handle(&own, at("private.host.order.more.of.it"), now).await.is_ok(), "what follows the segment is ignored");
}

#[tokio::test]
async fn money_nobody_can_be_credited_with_is_not_kept() {
    let money = |stream_id, shares| Frame::StreamMoney { stream_id, shares };
    let refused = [
        ("no stream", Sent::empty(500)),
        ("no shares", Sent::empty(500).with(money(1, 0))),
        ("two frames", Sent::money(500).with(money(1, 1))),
        ("less than the sender wants", Sent { least: 501, ..Sent::money(500) }),
        ("unfulfillable", Sent { fulfillable: false, ..Sent::money(500) }),
    ];
    for (why, sent) in refused {
        let mut bench = Bench::new(1000);
        assert_eq!(bench.send(sent).await.code, F99, "{why}");
        assert_eq!(bench.received(), 0, "{why}");
        assert!(bench.send(Sent::money(1000)).await.is_paid(), "{why}: the connection goes on");
    }
}

#[tokio::test]
async fn only_one_stream_may_be_used() {
    let mut bench = Bench::new(1000);
    let other = bench.send(Sent::empty(500).with(Frame::StreamMoney { stream_id: 3, shares: 1 })).await;
    assert_eq!((other.code, other.stream_closed()), (F99, Some((3, StreamErrorCode::STREAM_ID.0))));
    let even = bench.send(Sent::empty(500).with(Frame::StreamMoney { stream_id: 2, shares: 1 })).await;
    assert_eq!((even.code, even.closed()), (F99, Some(StreamErrorCode::PROTOCOL_VIOLATION.0)));
    let data = |bytes| Sent::empty(0).with(Frame::StreamData { stream_id: 1, offset: 0, data: vec![0; bytes] });
    assert!(bench.send(data(16_384)).await.is_paid());
    assert_eq!(bench.send(data(1)).await.closed(), Some(StreamErrorCode::FLOW_CONTROL.0));
    assert_eq!(bench.received(), 0);
}

#[tokio::test]
async fn what_could_not_be_collected_is_not_credited() {
    let mut bench = Bench::new(1000);
    for (milliseconds, credited) in [(-5, false), (0, false), (500, false), (501, true)] {
        let before = bench.received();
        let heard = bench.send(Sent { lasts: SignedDuration::from_millis(milliseconds), ..Sent::money(10) }).await;
        let code = if credited { None } else { Some(ErrorCode::R00_TRANSFER_TIMED_OUT) };
        assert_eq!((heard.code, bench.received() > before), (code, credited), "{milliseconds} ms left");
    }
}

#[tokio::test]
async fn a_packet_is_credited_once_however_often_it_comes() {
    let mut bench = Bench::new(1000);
    let prepare = bench.peer.prepare(&Sent::money(600), bench.now);
    let own = account("private.host");
    for restarted in [false, false, true] {
        if restarted {
            bench.receiver = receiver(&bench.ledger);
        }
        // Also long after it has expired: the same packet has the same answer.
        let reply = bench.receiver.handle(&own, prepare.clone(), bench.now).await;
        let heard = bench.peer.read(&prepare, reply);
        assert_eq!((heard.is_paid(), heard.max_money()), (true, Some((1000, 600))));
        assert_eq!(bench.received(), 600);
        bench.now += SignedDuration::from_mins(10);
    }
    let together = bench.peer.prepare(&Sent::money(400), bench.now);
    let once = || bench.receiver.handle(&own, together.clone(), bench.now);
    let (first, second) = tokio::join!(once(), once());
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(bench.received(), 1000);
}

#[tokio::test]
async fn a_credit_that_is_not_durable_is_not_fulfilled() {
    let mut bench = Bench::new(1000);
    bench.ledger.set_available("order", false);
    assert_eq!(bench.send(Sent::money(1000)).await.code, Some(ErrorCode::T00_INTERNAL_ERROR));
    bench.ledger.set_available("order", true);
    assert!(bench.send(Sent::money(1000)).await.is_paid());
}

/// Rate, price, what the client offers at first -> what is credited (3.6 of the measurements with JS clients).
#[tokio::test]
async fn accepts_what_js_clients_can_do_at_any_rate() {
    let table: [(u64, u64, u64, u64, u64, u64); 9] = [
        // rate as a fraction, price, amount_max, credited, refusals
        (1, 1, 1000, 2000, 1000, 1),
        (1, 1, 1000, 1005, 1000, 1),
        (1, 1, 1000, 600, 600, 0),
        (37, 10, 1000, 20_000, 1002, 1),
        (1000, 1, 1500, 20_000, 2000, 1),
        (1000, 1, 1500, 2, 2000, 1),
        (1000, 1, 1, 5, 1000, 1),
        (1, 2, 1000, 2900, 1000, 1),
        (37, 10_000, 1000, 10_000_000, 1000, 1),
    ];
    for (multiply, divide, price, amount_max, credited, refusals) in table {
        let mut bench = Bench::new(price);
        let arrives = |amount: u64| amount * multiply / divide;
        for amount in [1, 1000, 1_000_000] {
            bench.send(Sent::test(arrives(amount))).await;
        }
        // As JS does: everything first, then by the rate what the server says it takes.
        let (mut amount, mut refused) = (amount_max, 0);
        loop {
            let heard = bench.send(Sent::money(arrives(amount))).await;
            if heard.is_paid() {
                break;
            }
            refused += 1;
            assert!(refused < 5, "rate {multiply}/{divide}, price {price}: repeats for ever");
            let (max, has) = heard.max_money().unwrap();
            amount = ((max - has) * divide).div_ceil(multiply).min(amount_max);
        }
        assert_eq!((bench.received(), refused), (credited, refusals), "rate {multiply}/{divide}, price {price}, at most {amount_max}");
    }
}

#[tokio::test]
async fn the_smallest_test_packet_says_how_much_too_much_may_come() {
    let mut bench = Bench::new(1500);
    let close = Frame::ConnectionClose { code: StreamErrorCode::NO_ERROR, message: String::new() };
    bench.send(Sent::test(1).with(close)).await;
    bench.send(Sent::test(1000)).await;
    assert_eq!(bench.send(Sent::money(2500)).await.code, F99, "not at once: it may know better");
    assert!(bench.send(Sent::money(2500)).await.is_paid(), "a farewell isn't a test packet");
    let mut small = Bench::new(1500);
    for amount in [1000, 0] {
        small.send(Sent::test(amount)).await;
    }
    for _ in 0..2 {
        assert_eq!(small.send(Sent::money(2000)).await.code, F99, "nothing arrived of the smallest: less than one unit");
    }
}

#[tokio::test]
async fn a_client_that_repeats_itself_is_closed_and_another_is_not() {
    let mut bench = Bench::new(1000);
    for count in 1..=49 {
        assert_eq!(bench.send(Sent::money(5000)).await.closed(), None, "refusal {count}");
    }
    for _ in 0..2 {
        let last = bench.send(Sent::money(5000)).await;
        assert_eq!((last.code, last.says_ready(), last.closed()), (F99, true, Some(StreamErrorCode::NO_ERROR.0)));
    }
    assert_eq!(bench.send(Sent::money(1000)).await.code, F99, "closed is closed");
    let address = Frame::ConnectionNewAddress { source_account: "private.other".parse().unwrap() };
    assert!(bench.send(Sent::test(1).with(address)).await.introduces());
    assert!(bench.send(Sent::money(1000)).await.is_paid(), "a new client on the same payment");
}

#[tokio::test]
async fn after_a_farewell_no_money_is_taken_until_somebody_comes() {
    for farewell in [
        Frame::ConnectionClose { code: StreamErrorCode::NO_ERROR, message: String::new() },
        Frame::StreamClose { stream_id: 1, code: StreamErrorCode::NO_ERROR, message: "bye".to_owned() },
    ] {
        let mut bench = Bench::new(1000);
        assert!(bench.send(Sent::money(600)).await.is_paid());
        bench.send(Sent::empty(0).with(farewell)).await;
        assert_eq!(bench.send(Sent::money(400)).await.code, F99);
        bench.send(Sent::test(1)).await;
        assert!(bench.send(Sent::money(400)).await.is_paid());
    }
}

#[tokio::test]
async fn an_expired_payment_sends_the_client_back_to_ask() {
    let mut bench = Bench::new(1000);
    bench.ledger.expire("order");
    let heard = bench.send(Sent::money(1000)).await;
    assert_eq!((heard.code, heard.says_ready(), heard.closed()), (F99, true, Some(StreamErrorCode::NO_ERROR.0)));
    assert_eq!(bench.ledger.terms("order"), Terms { receive_max: 1000, received: 0, open: false });
}

#[tokio::test]
async fn a_connection_has_ten_thousand_packets_and_a_minute_of_silence() {
    let mut bench = Bench::new(1000);
    for _ in 0..10_000 {
        bench.send(Sent::test(1)).await;
    }
    let heard = bench.send(Sent::money(1000)).await;
    assert_eq!((heard.code, heard.says_ready(), heard.closed().is_some()), (F99, true, true));
    bench.now += SignedDuration::from_secs(61);
    let heard = bench.send(Sent::money(1000)).await;
    assert_eq!((heard.is_paid(), heard.introduces()), (true, true), "forgotten, and begun anew");
}

#[tokio::test]
async fn a_flood_of_foreign_packets_does_not_keep_payments_from_being_made() {
    let mut bench = Bench::new(1000);
    bench.ledger.open("late", 1000);
    assert!(bench.send(Sent::money(600)).await.is_paid());
    let own = account("private.host");
    let now = bench.now;
    let mut foreign = bench.peer.prepare(&Sent::money(1), now);
    foreign.destination = "private.host.nobody".parse().unwrap();
    for count in 0..1_001 {
        let expected = if count < 1_000 { ErrorCode::F02_UNREACHABLE } else { ErrorCode::T05_RATE_LIMITED };
        assert_eq!(code(bench.receiver.handle(&own, foreign.clone(), now).await), expected, "packet {count}");
    }
    let mut late = Peer::new("late");
    let prepare = late.prepare(&Sent::money(1000), now);
    assert_eq!(code(bench.receiver.handle(&own, prepare.clone(), now).await), ErrorCode::T05_RATE_LIMITED, "asked to come again");
    assert!(bench.send(Sent::money(400)).await.is_paid(), "a connection that was there goes on");
    let later = now + SignedDuration::from_secs(1);
    assert!(bench.receiver.handle(&own, prepare, later).await.is_ok());
}

#[test]
fn the_server_secret_is_not_shown() {
    let shown = format!("{:?}", Bench::new(1).receiver);
    assert!(!shown.contains('7'), "{shown}");
}
