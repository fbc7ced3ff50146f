use proptest::prelude::*;

use super::*;

const TOKEN: TokenHash = TokenHash([1; 32]);

fn asset() -> Asset {
    Asset { code: "XRP".to_owned(), scale: 9 }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn book() -> Book {
    Book::restore_from(Vec::new(), Vec::new(), Limits::default()).unwrap()
}

fn claim(token: u8, binding: u8, price: u64) -> Claim {
    Claim {
        token: TokenHash([token; 32]),
        binding: Binding([binding; 32]),
        price,
        asset: asset(),
        segment: format!("segment-{token}"),
        place: None,
    }
}

fn packet(token: u8, condition: u8, amount: u64) -> Credit {
    Credit { segment: format!("segment-{token}"), condition: [condition; 32], amount, granularity: None }
}

#[test]
fn a_payment_goes_from_due_to_paid_to_answered() {
    let mut book = book();
    let due = |received| Standing::Due { segment: "segment-1".to_owned(), required: 1000, received, last_packet: None };
    assert_eq!(book.present(claim(1, 1, 1000), at(0)), Ok(due(0)));
    book.credit(&packet(1, 1, 600), &asset(), at(1)).unwrap();
    assert_eq!(book.present(claim(1, 1, 1000), at(1)), Ok(due(600)));
    assert_eq!(book.begin("segment-1"), Err(NotPaid), "600 of 1000");
    book.credit(&packet(1, 2, 400), &asset(), at(1)).unwrap();
    assert_eq!(book.present(claim(1, 1, 1000), at(1)), Ok(Standing::Paid { segment: "segment-1".to_owned() }));
    book.begin("segment-1").unwrap();
    assert_eq!(book.begin("segment-1"), Err(NotPaid), "one payment, one use");
    assert_eq!(book.present(claim(1, 1, 1000), at(1)), Ok(Standing::InProgress));
    book.finish("segment-1", "the answer".to_owned(), at(1)).unwrap();
    assert_eq!(book.present(claim(1, 1, 1000), at(2)), Ok(Standing::Answered("the answer".to_owned())));
    assert_eq!(book.begin("segment-1"), Err(NotPaid));
}

#[test]
fn a_failed_deed_gives_the_payment_back() {
    let mut book = book();
    book.present(claim(1, 1, 10), at(0)).unwrap();
    book.credit(&packet(1, 1, 10), &asset(), at(1)).unwrap();
    book.begin("segment-1").unwrap();
    book.give_back("segment-1").unwrap();
    assert_eq!(book.present(claim(1, 1, 10), at(2)), Ok(Standing::Paid { segment: "segment-1".to_owned() }));
}

#[test]
fn a_token_pays_for_the_request_it_came_with_only() {
    let mut book = book();
    book.present(claim(1, 1, 10), at(0)).unwrap();
    assert_eq!(book.present(claim(1, 2, 10), at(0)), Err(Denied));
}

#[test]
fn a_packet_is_credited_once_and_nothing_beyond_the_price() {
    let mut book = book();
    book.present(claim(1, 1, 1000), at(0)).unwrap();
    let (terms, writes) = book.credit(&packet(1, 1, 400), &asset(), at(0)).unwrap();
    assert_eq!((terms.received, writes.len()), (400, 3));
    let (terms, writes) = book.credit(&packet(1, 1, 400), &asset(), at(0)).unwrap();
    assert_eq!((terms.received, writes.len()), (400, 0), "a replay");
    assert!(book.lookup("segment-1", &[1; 32], &asset(), at(0)).unwrap().credited);
    let refused = book.credit(&packet(1, 2, 700), &asset(), at(0)).unwrap_err().unwrap();
    assert_eq!((refused.received, refused.receive_max), (400, 1000));
    book.credit(&packet(1, 3, 600), &asset(), at(0)).unwrap();
    assert!(!book.lookup("segment-1", &[9; 32], &asset(), at(0)).unwrap().terms.open, "paid");
    assert!(book.credit(&packet(1, 4, 1), &asset(), at(0)).is_err(), "paid");
    assert_eq!(book.credit(&packet(7, 1, 1), &asset(), at(0)), Err(None), "no such payment");
}

#[test]
fn a_payment_in_another_asset_than_quoted_is_not_taken() {
    let mut book = book();
    book.present(claim(1, 1, 1000), at(0)).unwrap();
    let other = Asset { code: "USD".to_owned(), scale: 2 };
    assert!(book.credit(&packet(1, 1, 1000), &other, at(0)).is_err());
    let mut quoted_again = claim(1, 1, 5);
    quoted_again.asset = other.clone();
    book.present(quoted_again, at(1)).unwrap();
    assert_eq!(book.credit(&packet(1, 1, 5), &other, at(1)).unwrap().0.received, 5);
}

#[test]
fn what_expires_is_forgotten_or_forfeited_but_never_in_the_middle_of_a_deed() {
    let mut book = book();
    book.present(claim(1, 1, 10), at(0)).unwrap();
    for token in [2, 3] {
        book.present(claim(token, 1, 10), at(0)).unwrap();
        book.credit(&packet(token, 1, 10), &asset(), at(0)).unwrap();
    }
    book.begin("segment-3").unwrap();
    assert!(book.expire(at(15 * 60)).is_empty(), "an unpaid payment was never written down");
    assert!(book.lookup("segment-1", &[0; 32], &asset(), at(0)).is_none());
    let week = 7 * 24 * 3600;
    assert_eq!(book.expire(at(week)).len(), 2, "payment and forfeited credit");
    assert_eq!(book.sums[&asset()].totals, Totals { received: 20, earned: 0, forfeited: 10 });
    assert_eq!(book.consuming(), ["segment-3"]);
}

#[test]
fn too_many_unpaid_payments_push_out_the_oldest_unpaid_one() {
    let limits = Limits { unpaid_max: 3, ..Limits::default() };
    let mut book = Book::restore_from(Vec::new(), Vec::new(), limits).unwrap();
    for token in 1..=3 {
        book.present(claim(token, 1, 10), at(0)).unwrap();
    }
    book.credit(&packet(1, 1, 4), &asset(), at(0)).unwrap();
    book.present(claim(4, 1, 10), at(0)).unwrap();
    book.present(claim(5, 1, 10), at(0)).unwrap();
    let known = |token: u8| book.payments.contains_key(&format!("segment-{token}"));
    assert_eq!([1, 2, 3, 4, 5].map(known), [true, false, true, true, true], "1 has been paid into, 2 is the oldest unpaid one");
    assert_eq!(book.by_token.len(), book.payments.len());
    assert!(book.by_token.contains_key(&TOKEN));
}

#[test]
fn a_file_whose_sums_disagree_is_refused() {
    let totals = vec![(asset(), Totals { received: 5, earned: 4, forfeited: 0 })];
    assert_eq!(Book::restore_from(Vec::new(), totals, Limits::default()).unwrap_err(), SumsDisagree(asset()));
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

proptest! {
    /// Whatever happens in whatever order: the sums agree (asserted in every step), what is read back from the written
    /// rows is what the book holds, and no payment takes more than its price and one per cent.
    #[test]
    fn money_is_conserved(steps in prop::collection::vec(step(), 1..60)) {
        let mut book = book();
        let mut file = crate::store::tests::Rows::default();
        for step in steps {
            let writes = match step {
                Step::Present(token) => { let _ = book.present(claim(token, 0, 1000), at(0)); Vec::new() }
                Step::Credit(token, condition, amount) => {
                    // Conditions differ between payments, as those of real packets do.
                    book.credit(&packet(token, condition, amount), &asset(), at(0)).map_or_else(|_| Vec::new(), |(_, writes)| writes)
                }
                Step::Begin(token) => book.begin(&format!("segment-{token}")).into_iter().collect(),
                Step::Finish(token) => book.finish(&format!("segment-{token}"), "{}".to_owned(), at(0)).unwrap_or_default(),
                Step::GiveBack(token) => book.give_back(&format!("segment-{token}")).into_iter().collect(),
                Step::Expire(second) => book.expire(at(second)),
            };
            file.apply(&writes);
            for payment in book.payments.values() {
                prop_assert!(payment.received <= 1010);
            }
        }
        let (payments, totals) = file.payments();
        let again = Book::restore_from(payments, totals, Limits::default());
        prop_assert!(again.is_ok(), "{again:?}");
        let (again, paid) = (again.unwrap(), |book: &Book| book.payments.values().map(Payment::credit).sum::<u64>());
        prop_assert_eq!(paid(&again), paid(&book));
    }
}

/// A pod of a size of its own, by which it is told from others.
fn place(number: u8, seconds: u32) -> Place {
    let pod = char::from(b'a' + number).to_string().repeat(PodId::LENGTH).parse().unwrap();
    Place { pod, machine: Machine { vcpus: number.into(), memory_bytes: 1, disk_bytes: 1 }, seconds }
}

#[test]
fn a_place_is_held_by_money_and_decays() {
    let mut book = book();
    let asked = |number, place| Claim { place: Some(place), ..claim(number, number, 1000) };
    let held = |book: &mut Book, second| {
        let mut held: Vec<u32> = book.held(at(second)).values().map(|machine| machine.vcpus).collect();
        held.sort_unstable();
        held
    };
    book.present(asked(1, place(1, 100)), at(0)).unwrap();
    assert_eq!(held(&mut book, 0), [0; 0], "who asks holds nothing");

    book.credit(&packet(1, 1, 100), &asset(), at(0)).unwrap();
    assert_eq!((held(&mut book, 9), held(&mut book, 10)), (vec![1], vec![]), "a tenth of 100 s is paid for");
    book.credit(&packet(1, 2, 200), &asset(), at(20)).unwrap();
    assert_eq!((held(&mut book, 20), held(&mut book, 30)), (vec![1], vec![]), "30 s from the first packet on");
    book.credit(&packet(1, 3, 699), &asset(), at(40)).unwrap();
    assert_eq!((held(&mut book, 59), held(&mut book, 60)), (vec![1], vec![]), "no more than a minute");
    book.credit(&packet(1, 4, 1), &asset(), at(100)).unwrap();
    assert_eq!(held(&mut book, 100), [0; 0], "and never again");

    book.present(asked(2, place(2, 3600)), at(200)).unwrap();
    book.credit(&packet(2, 1, 1000), &asset(), at(200)).unwrap();
    book.present(asked(3, place(2, 60)), at(200)).unwrap();
    book.credit(&packet(3, 1, 1000), &asset(), at(200)).unwrap();
    assert_eq!(held(&mut book, 200), [2], "two payments for one pod are for one place");
    book.begin("segment-2").unwrap();
    book.begin("segment-3").unwrap();
    assert_eq!(held(&mut book, 200), [0; 0], "the pod has it now");
}

#[test]
fn a_payment_that_is_forgotten_holds_nothing() {
    let limits = Limits { credit_ttl: SignedDuration::from_secs(5), ..Limits::default() };
    let mut book = Book::restore_from(Vec::new(), Vec::new(), limits).unwrap();
    book.present(Claim { place: Some(place(1, 3600)), ..claim(1, 1, 1000) }, at(0)).unwrap();
    book.credit(&packet(1, 1, 1000), &asset(), at(0)).unwrap();
    assert_eq!(book.held(at(5)).len(), 1);
    book.expire(at(5));
    assert_eq!(book.held(at(5)).len(), 0);
}
