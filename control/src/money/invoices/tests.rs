use std::collections::BTreeMap;

use codiusd_ilp::stream::credit_sink::Slack;
use proptest::prelude::*;

use super::*;
use crate::capacity::Capacity;

const TOKEN: TokenHash = TokenHash([1; 32]);

pub(super) fn asset() -> Asset {
    Asset { code: "XRP".to_owned(), scale: 9 }
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Capacity that never runs out.
fn ample() -> Arc<CapacityLedger> {
    Arc::new(CapacityLedger::new(Capacity::of_memory(u64::MAX)))
}

fn invoices() -> Invoices {
    Invoices::restore_from(Vec::new(), Vec::new(), Limits::default(), ample()).unwrap()
}

fn claim(token: u8, binding: u8, price: u64) -> PaymentRequest {
    PaymentRequest {
        token: TokenHash([token; 32]),
        binding: Binding([binding; 32]),
        price,
        asset: asset(),
        segment: format!("segment-{token}"),
        need: None,
    }
}

fn packet(token: u8, condition: u8, amount: u64) -> Credit {
    Credit { segment: format!("segment-{token}"), condition: [condition; 32], amount, slack: Slack::Percent(0) }
}

#[test]
fn a_payment_goes_from_due_to_paid_to_answered() {
    let mut invoices = invoices();
    let due = |received| InvoiceStatus::Due { segment: "segment-1".to_owned(), required: 1000, received, last_packet: None };
    assert_eq!(invoices.present(claim(1, 1, 1000), at(0)), Ok(due(0)));
    invoices.credit(&packet(1, 1, 600), &asset(), at(1)).unwrap();
    assert_eq!(invoices.present(claim(1, 1, 1000), at(1)), Ok(due(600)));
    assert_eq!(invoices.begin("segment-1"), Err(NotPaid), "600 of 1000");
    invoices.credit(&packet(1, 2, 400), &asset(), at(1)).unwrap();
    assert_eq!(invoices.present(claim(1, 1, 1000), at(1)), Ok(InvoiceStatus::Paid { segment: "segment-1".to_owned(), received: 1000 }));
    invoices.begin("segment-1").unwrap();
    assert_eq!(invoices.begin("segment-1"), Err(NotPaid), "one payment, one use");
    assert_eq!(invoices.present(claim(1, 1, 1000), at(1)), Ok(InvoiceStatus::InProgress));
    invoices.finish("segment-1", "the answer".to_owned(), at(1)).unwrap();
    assert_eq!(invoices.present(claim(1, 1, 1000), at(2)), Ok(InvoiceStatus::Answered("the answer".to_owned())));
    assert_eq!(invoices.begin("segment-1"), Err(NotPaid));
}

#[test]
fn a_failed_deed_gives_the_payment_back() {
    let mut invoices = invoices();
    invoices.present(claim(1, 1, 10), at(0)).unwrap();
    invoices.credit(&packet(1, 1, 10), &asset(), at(1)).unwrap();
    invoices.begin("segment-1").unwrap();
    invoices.give_back("segment-1").unwrap();
    assert_eq!(invoices.present(claim(1, 1, 10), at(2)), Ok(InvoiceStatus::Paid { segment: "segment-1".to_owned(), received: 10 }));
}

#[test]
fn a_token_pays_for_the_request_it_came_with_only() {
    let mut invoices = invoices();
    invoices.present(claim(1, 1, 10), at(0)).unwrap();
    assert_eq!(invoices.present(claim(1, 2, 10), at(0)), Err(TokenReused));
}

#[test]
fn a_packet_is_credited_once_and_nothing_beyond_the_price() {
    let mut invoices = invoices();
    invoices.present(claim(1, 1, 1000), at(0)).unwrap();
    let (terms, writes) = invoices.credit(&packet(1, 1, 400), &asset(), at(0)).unwrap();
    assert_eq!((terms.received, writes.len()), (400, 3));
    let (terms, writes) = invoices.credit(&packet(1, 1, 400), &asset(), at(0)).unwrap();
    assert_eq!((terms.received, writes.len()), (400, 0), "a replay");
    assert!(invoices.lookup("segment-1", &[1; 32], &asset(), at(0)).unwrap().credited);
    let refused = invoices.credit(&packet(1, 2, 700), &asset(), at(0)).unwrap_err().unwrap();
    assert_eq!((refused.received, refused.receive_max), (400, 1000));
    invoices.credit(&packet(1, 3, 600), &asset(), at(0)).unwrap();
    assert!(!invoices.lookup("segment-1", &[9; 32], &asset(), at(0)).unwrap().terms.open, "paid");
    assert!(invoices.credit(&packet(1, 4, 1), &asset(), at(0)).is_err(), "paid");
    assert_eq!(invoices.credit(&packet(7, 1, 1), &asset(), at(0)), Err(None), "no such payment");
}

#[test]
fn a_payment_in_another_asset_than_quoted_is_not_taken() {
    let mut invoices = invoices();
    invoices.present(claim(1, 1, 1000), at(0)).unwrap();
    let other = Asset { code: "USD".to_owned(), scale: 2 };
    assert!(invoices.credit(&packet(1, 1, 1000), &other, at(0)).is_err());
    let mut quoted_again = claim(1, 1, 5);
    quoted_again.asset = other.clone();
    invoices.present(quoted_again, at(1)).unwrap();
    assert_eq!(invoices.credit(&packet(1, 1, 5), &other, at(1)).unwrap().0.received, 5);
}

#[test]
fn what_expires_is_forgotten_or_forfeited_but_never_in_the_middle_of_a_deed() {
    let mut invoices = invoices();
    invoices.present(claim(1, 1, 10), at(0)).unwrap();
    for token in [2, 3] {
        invoices.present(claim(token, 1, 10), at(0)).unwrap();
        invoices.credit(&packet(token, 1, 10), &asset(), at(0)).unwrap();
    }
    invoices.begin("segment-3").unwrap();
    assert!(invoices.expire(at(15 * 60)).is_empty(), "an unpaid payment was never written down");
    assert!(invoices.lookup("segment-1", &[0; 32], &asset(), at(0)).is_none());
    let week = 7 * 24 * 3600;
    assert_eq!(invoices.expire(at(week)).len(), 2, "payment and forfeited credit");
    assert_eq!(invoices.sums[&asset()].totals, Totals { received: 20, earned: 0, forfeited: 10 });
    assert_eq!(invoices.consuming(), ["segment-3"]);
}

#[test]
fn too_many_unpaid_payments_push_out_the_oldest_unpaid_one() {
    let limits = Limits { unpaid_max: 3, ..Limits::default() };
    let mut invoices = Invoices::restore_from(Vec::new(), Vec::new(), limits, ample()).unwrap();
    for token in 1..=3 {
        invoices.present(claim(token, 1, 10), at(0)).unwrap();
    }
    invoices.credit(&packet(1, 1, 4), &asset(), at(0)).unwrap();
    invoices.present(claim(4, 1, 10), at(0)).unwrap();
    invoices.present(claim(5, 1, 10), at(0)).unwrap();
    let known = |token: u8| invoices.payments.contains_key(&format!("segment-{token}"));
    assert_eq!([1, 2, 3, 4, 5].map(known), [true, false, true, true, true], "1 has been paid into, 2 is the oldest unpaid one");
    assert_eq!(invoices.by_token.len(), invoices.payments.len());
    assert!(invoices.by_token.contains_key(&TOKEN));
}

#[test]
fn a_file_whose_sums_disagree_is_refused() {
    let totals = vec![(asset(), Totals { received: 5, earned: 4, forfeited: 0 })];
    assert_eq!(Invoices::restore_from(Vec::new(), totals, Limits::default(), ample()).unwrap_err(), SumsDisagree(asset()));
}

#[derive(Clone, Debug)]
enum Step {
    Present(u8),
    Credit(u8, u8, u64),
    Begin(u8),
    Finish(u8),
    GiveBack(u8),
    Expire(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let token = 0_u8..4;
    prop_oneof![
        token.clone().prop_map(Step::Present),
        (token.clone(), 0_u8..6, 0_u64..1200).prop_map(|(token, condition, amount)| Step::Credit(token, condition, amount)),
        token.clone().prop_map(Step::Begin),
        token.clone().prop_map(Step::Finish),
        token.prop_map(Step::GiveBack),
        (0_i64..900_000).prop_map(Step::Expire),
    ]
}

/// A model of the tables: what the file should hold after some writes.
#[derive(Debug, Default)]
struct Rows {
    payments: BTreeMap<String, (InvoiceRow, Vec<CreditRow>)>,
    totals: Vec<(Asset, Totals)>,
}

/// Payments with their credits, and the totals: the input of `Invoices::restore_from`.
type Stored = (Vec<(InvoiceRow, Vec<CreditRow>)>, Vec<(Asset, Totals)>);

impl Rows {
    fn apply(&mut self, writes: &[MoneyChange]) {
        for write in writes {
            match write {
                MoneyChange::Invoice(row) => {
                    self.payments.entry(row.segment.clone()).or_insert_with(|| (row.clone(), Vec::new())).0 = row.clone();
                }
                MoneyChange::Credit { segment, credit } => self.payments.get_mut(segment).unwrap().1.push(*credit),
                MoneyChange::Remove(segment) => drop(self.payments.remove(segment)),
                MoneyChange::Totals(asset, added) => {
                    if !self.totals.iter().any(|(known, _)| known == asset) {
                        self.totals.push((asset.clone(), Totals::default()));
                    }
                    let (_, sums) = self.totals.iter_mut().find(|(known, _)| known == asset).unwrap();
                    sums.received += added.received;
                    sums.earned += added.earned;
                    sums.forfeited += added.forfeited;
                }
            }
        }
    }

    fn payments(&self) -> Stored {
        (self.payments.values().cloned().collect(), self.totals.clone())
    }
}

proptest! {
    /// For any sequence of operations: the sums agree (asserted in every step), restoring from the written
    /// rows gives the same invoices, and no payment takes more than its price plus one per cent.
    #[test]
    fn money_is_conserved(steps in prop::collection::vec(step(), 1..60)) {
        let mut invoices = invoices();
        let mut file = Rows::default();
        for step in steps {
            let writes = match step {
                Step::Present(token) => { let _ = invoices.present(claim(token, 0, 1000), at(0)); Vec::new() }
                Step::Credit(token, condition, amount) => {
                    // Conditions differ between payments, as those of real packets do.
                    invoices.credit(&packet(token, condition, amount), &asset(), at(0)).map_or_else(|_| Vec::new(), |(_, writes)| writes)
                }
                Step::Begin(token) => invoices.begin(&format!("segment-{token}")).into_iter().collect(),
                Step::Finish(token) => invoices.finish(&format!("segment-{token}"), "{}".to_owned(), at(0)).unwrap_or_default(),
                Step::GiveBack(token) => invoices.give_back(&format!("segment-{token}")).into_iter().collect(),
                Step::Expire(second) => invoices.expire(at(second)),
            };
            file.apply(&writes);
            for payment in invoices.payments.values() {
                prop_assert!(payment.received <= 1010);
            }
        }
        let (payments, totals) = file.payments();
        let again = Invoices::restore_from(payments, totals, Limits::default(), ample());
        prop_assert!(again.is_ok(), "{again:?}");
        let (again, paid) = (again.unwrap(), |invoices: &Invoices| invoices.payments.values().map(Invoice::credit).sum::<u64>());
        prop_assert_eq!(paid(&again), paid(&invoices));
    }
}

/// A need for one processor, for that many seconds.
fn place(letter: char, seconds: u32) -> CapacityNeed {
    let pod = letter.to_string().repeat(PodId::LENGTH).parse().unwrap();
    CapacityNeed { pod, machine: Machine { vcpus: 1, memory_bytes: 1, disk_bytes: 1 }, seconds }
}

/// Invoices on a machine with that many processors.
fn invoices_of(vcpus: u64) -> Invoices {
    let capacity = Arc::new(CapacityLedger::new(Capacity { vcpus, ..Capacity::of_memory(u64::MAX) }));
    Invoices::restore_from(Vec::new(), Vec::new(), Limits::default(), capacity).unwrap()
}

fn asked(number: u8, need: CapacityNeed) -> PaymentRequest {
    PaymentRequest { need: Some(need), ..claim(number, number, 1000) }
}

/// The first letters of the pods that have holds.
fn held(invoices: &Invoices, second: i64) -> String {
    let mut held: Vec<char> = invoices.capacity.holding(at(second)).iter().map(|pod| pod.as_str().chars().next().unwrap()).collect();
    held.sort_unstable();
    held.into_iter().collect()
}

#[test]
fn a_place_is_held_by_money_and_decays() {
    let mut invoices = invoices_of(9);
    invoices.present(asked(1, place('a', 100)), at(0)).unwrap();
    assert_eq!(held(&invoices, 0), "", "who asks holds nothing");

    invoices.credit(&packet(1, 1, 100), &asset(), at(0)).unwrap();
    assert_eq!((held(&invoices, 9), held(&invoices, 10)), ("a".into(), String::new()), "a tenth of 100 s is paid for");
    invoices.credit(&packet(1, 2, 200), &asset(), at(20)).unwrap();
    assert_eq!((held(&invoices, 39), held(&invoices, 40)), ("a".into(), String::new()), "30 s are paid for, and 10 s were held before");
    invoices.credit(&packet(1, 3, 699), &asset(), at(50)).unwrap();
    assert_eq!((held(&invoices, 109), held(&invoices, 110)), ("a".into(), String::new()), "no more than a minute at a time");

    invoices.present(asked(2, place('b', 3600)), at(200)).unwrap();
    invoices.credit(&packet(2, 1, 900), &asset(), at(200)).unwrap();
    invoices.credit(&packet(2, 2, 99), &asset(), at(259)).unwrap();
    assert_eq!((held(&invoices, 259), held(&invoices, 260)), ("b".into(), String::new()), "what comes meanwhile doesn't begin it anew");
    invoices.credit(&packet(2, 3, 1), &asset(), at(300)).unwrap();
    invoices.present(asked(3, place('b', 60)), at(300)).unwrap();
    invoices.credit(&packet(3, 1, 1000), &asset(), at(300)).unwrap();
    assert_eq!(held(&invoices, 300), "b");
    invoices.begin("segment-2").unwrap();
    assert_eq!(held(&invoices, 300), "b", "another payment holds it, too");
    invoices.begin("segment-3").unwrap();
    assert_eq!(held(&invoices, 300), "", "the pod has it now");
}

#[test]
fn who_cannot_have_a_place_is_turned_away_before_any_money_is_taken() {
    let mut invoices = invoices_of(1);
    for (number, letter) in [(1, 'a'), (2, 'b'), (3, 'a')] {
        invoices.present(asked(number, place(letter, 3600)), at(0)).unwrap();
    }
    invoices.present(claim(4, 4, 1000), at(0)).unwrap();
    invoices.credit(&packet(1, 1, 1000), &asset(), at(0)).unwrap();
    let refused = invoices.credit(&packet(2, 1, 1000), &asset(), at(1)).unwrap_err().unwrap();
    assert!(refused.is_over() && refused.received == 0, "{refused:?}");
    invoices.credit(&packet(3, 1, 1000), &asset(), at(1)).expect("it is for the same pod");
    invoices.credit(&packet(4, 1, 1000), &asset(), at(1)).expect("a pod that runs has its place");

    assert!(
        invoices.credit(&packet(2, 2, 500), &asset(), at(61)).unwrap_err().unwrap().is_over(),
        "it has to ask again, also if there is a place"
    );
    assert!(invoices.lookup("segment-2", &[2; 32], &asset(), at(61)).unwrap().terms.is_over());
    invoices.present(asked(2, place('b', 3600)), at(61)).unwrap();
    invoices.credit(&packet(2, 3, 500), &asset(), at(61)).expect("now there is one");
    assert_eq!(held(&invoices, 61), "b");

    invoices.present(asked(5, place('e', 3600)), at(122)).unwrap();
    invoices.credit(&packet(5, 1, 1), &asset(), at(122)).expect("what was held for b has lapsed");
    let refused = invoices.credit(&packet(2, 4, 500), &asset(), at(122)).unwrap_err().unwrap();
    assert!(refused.is_over() && refused.received == 500, "{refused:?}");
    assert_eq!(
        invoices.present(asked(2, place('b', 3600)), at(122)),
        Ok(InvoiceStatus::Due { segment: "segment-2".to_owned(), required: 1000, received: 500, last_packet: Some(at(61)) }),
        "what was paid before stays"
    );
}

#[test]
fn a_payment_from_before_the_start_is_asked_what_it_is_for() {
    let mut before = invoices_of(1);
    let mut file = Rows::default();
    before.present(asked(1, place('a', 3600)), at(0)).unwrap();
    file.apply(&before.credit(&packet(1, 1, 400), &asset(), at(0)).unwrap().1);
    let (payments, totals) = file.payments();
    let mut invoices = Invoices::restore_from(payments, totals, Limits::default(), before.capacity.clone()).unwrap();
    assert!(invoices.credit(&packet(1, 2, 600), &asset(), at(1)).unwrap_err().unwrap().is_over());
    invoices.present(asked(1, place('a', 3600)), at(2)).unwrap();
    assert_eq!(invoices.credit(&packet(1, 2, 600), &asset(), at(2)).unwrap().0.received, 1000);
}

#[test]
fn a_payment_that_is_forgotten_holds_nothing() {
    let limits = Limits { credit_ttl: SignedDuration::from_secs(5), ..Limits::default() };
    let mut invoices = Invoices::restore_from(Vec::new(), Vec::new(), limits, ample()).unwrap();
    invoices.present(asked(1, place('a', 3600)), at(0)).unwrap();
    invoices.credit(&packet(1, 1, 1000), &asset(), at(0)).unwrap();
    assert_eq!(held(&invoices, 4), "a");
    invoices.expire(at(5));
    assert_eq!(held(&invoices, 5), "");
}
