//! Every payment's state, and the sums that must agree. Pure: `(book, input, now) -> (answer, changes to make durable)`.
//!
//! ```text
//!            credit            credit >= price        begin              finish
//!  (402) -> Open ------> Open(partly paid) -----> paid ------> Consuming ------> Consumed (answer kept)
//!             |                 |                   ^              |                  |
//!             | unpaid_ttl      | credit_ttl        +--- restore --+                  | answer_ttl
//!             v                 v                                                     v
//!          forgotten         forfeited                                            forgotten
//! ```
//!
//! # Who has a place
//!
//! A price that is asked for holds nothing: whoever may ask for free could keep everybody else out. A packet is credited only if the place
//! of the pod it pays for is held at that moment: by this payment, by another for the same pod, by the pod itself, or because it is free
//! and becomes held with the credit, in one step ([`CapacityLedger::hold`]). So the last place goes to who pays for it first, and whoever
//! can't have one is turned away before any of their money is taken: no packet of theirs is credited until they ask again over HTTP.
//!
//! A payment holds a place for [`Limits::hold_max`] at a time, and in all no longer than the run time it has paid for so far: holding a
//! place costs what running there costs, and what is held for someone who doesn't come back decays. What was paid before a hold has
//! lapsed stays on the token; who comes back gets the place if it is free.
//!
//! "Paid" is `Open` with `received >= price`: there is no third place where the two could disagree. A payment nobody has
//! paid into is only remembered, not stored: asking for a price costs the host no disk write.
//!
//! After every step, for every asset: `received = earned + forfeited + credit on open payments`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use codiusd_ilp::stream::ledger::{Credit, Lookup, Terms};
use codiusd_runtime::{Machine, PodId};
use jiff::{SignedDuration, Timestamp};

use super::{Asset, Binding, TokenHash};
use crate::{
    capacity::CapacityLedger,
    store::{CreditRow, PaymentRow, PaymentState, Totals, Write},
};

/// How long and how many.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Payments nobody has paid into, at most; the oldest make room.
    pub unpaid_max: usize,
    /// How long an unpaid payment is remembered.
    pub unpaid_ttl: SignedDuration,
    /// How long money that wasn't used stays on its token.
    pub credit_ttl: SignedDuration,
    /// How long the answer of a paid request is kept for a repeated one.
    pub answer_ttl: SignedDuration,
    /// How long a payment holds its pod's place at a time, at most.
    pub hold_max: SignedDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpaid_max: 100_000,
            unpaid_ttl: SignedDuration::from_mins(15),
            credit_ttl: SignedDuration::from_hours(7 * 24),
            answer_ttl: SignedDuration::from_hours(24),
            hold_max: SignedDuration::from_mins(1),
        }
    }
}

/// What a token's payment allows now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its request was carried out; this was the answer.
    Answered(String),
    /// Money is due.
    Due {
        /// Segment of the ILP address to pay at.
        segment: String,
        /// The price.
        required: u64,
        /// What has been paid of it.
        received: u64,
        /// When its last STREAM packet was seen.
        last_packet: Option<Timestamp>,
    },
    /// Its request is being carried out.
    InProgress,
    /// The price has been paid, and not been used.
    Paid {
        /// Names the payment.
        segment: String,
        /// What has been paid.
        received: u64,
    },
}

/// The token was first used for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this Pay-Token belongs to another request")]
pub struct Denied;

/// The payment is not (or no longer) there to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payment isn't there to be used")]
pub struct NotPaid;

/// What a paid request needs of the machine, if it starts a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The pod.
    pub pod: PodId,
    /// Its size.
    pub machine: Machine,
    /// What is bought of it, in seconds.
    pub seconds: u32,
}

/// What a payment's request needs of the machine.
#[derive(Clone, Debug)]
enum Need {
    /// Not known of a payment from before the start until its request comes again.
    Unknown,
    /// Nothing: its pod has its place.
    Nothing,
    Place(Place),
}

impl From<Option<Place>> for Need {
    fn from(place: Option<Place>) -> Self {
        place.map_or(Self::Nothing, Self::Place)
    }
}

/// A request that is to be paid for.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) token: TokenHash,
    pub(super) binding: Binding,
    pub(super) price: u64,
    pub(super) asset: Asset,
    /// The segment to use if this is the token's first request.
    pub(super) segment: String,
    pub(super) place: Option<Place>,
}

#[derive(Debug)]
struct Payment {
    row: PaymentRow,
    received: u64,
    conditions: HashSet<[u8; 32]>,
    last_packet: Option<Timestamp>,
    need: Need,
    /// Since when and until when it has held its place the last time.
    hold: Option<(Timestamp, Timestamp)>,
    /// How long it has held one before that.
    held: SignedDuration,
    /// There was no place at a packet's time: nothing is credited until the request comes again.
    turned_away: bool,
}

impl Payment {
    fn new(row: PaymentRow, need: Need) -> Self {
        let (conditions, held) = (HashSet::new(), SignedDuration::ZERO);
        Self { row, received: 0, conditions, last_packet: None, need, hold: None, held, turned_away: false }
    }

    fn is_paid(&self) -> bool {
        self.row.state == PaymentState::Open && self.received >= self.row.price
    }

    fn terms(&self, asset: &Asset) -> Terms {
        let is_due = self.row.state == PaymentState::Open && self.received < self.row.price;
        let open = is_due && self.row.asset == *asset && !self.turned_away;
        Terms { receive_max: self.row.price, received: self.received, open }
    }

    /// How much of the seconds it buys `received` pays for, rounded down to milliseconds.
    fn run_time(&self, seconds: u32, received: u64) -> SignedDuration {
        let milliseconds = u128::from(seconds) * 1000 * u128::from(received) / u128::from(self.row.price.max(1));
        SignedDuration::from_millis(i64::try_from(milliseconds).unwrap_or(i64::MAX))
    }

    /// Makes sure of the place for what `received` pays for; false if there is none.
    fn hold(&mut self, received: u64, hold_max: SignedDuration, capacity: &CapacityLedger, now: Timestamp) -> bool {
        let place = match &self.need {
            Need::Unknown => return false,
            Need::Nothing => return true,
            Need::Place(place) => place,
        };
        let (since, held) = match self.hold {
            Some((since, until)) if until > now => (since, self.held),
            Some((since, until)) => (now, self.held.saturating_add(since.duration_until(until))),
            None => (now, self.held),
        };
        let longest = self.run_time(place.seconds, received).saturating_sub(held).min(hold_max);
        let until = since.saturating_add(longest).unwrap_or(since);
        if capacity.hold(&self.row.segment, &place.pod, place.machine, until, now).is_err() {
            return false;
        }
        (self.hold, self.held) = (Some((since, until)), held);
        true
    }

    /// Money on it that hasn't been spent.
    fn credit(&self) -> u64 {
        if matches!(self.row.state, PaymentState::Consumed { .. }) { 0 } else { self.received }
    }
}

#[derive(Debug, Default)]
struct Sums {
    totals: Totals,
    credit: u64,
}

impl Sums {
    fn agree(&self) -> bool {
        self.totals.received == self.totals.earned + self.totals.forfeited + self.credit
    }
}

/// All payments of this host.
#[derive(Debug)]
pub(super) struct Book {
    payments: HashMap<String, Payment>,
    by_token: HashMap<TokenHash, String>,
    /// Segments of payments that were unpaid when they were opened, oldest first.
    unpaid: VecDeque<String>,
    sums: HashMap<Asset, Sums>,
    capacity: Arc<CapacityLedger>,
    limits: Limits,
}

/// The stored sums don't agree with the stored payments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored earnings in {0} don't agree with the stored credits")]
pub struct SumsDisagree(Asset);

impl Book {
    pub(super) fn restore_from(
        payments: Vec<(PaymentRow, Vec<CreditRow>)>,
        totals: Vec<(Asset, Totals)>,
        limits: Limits,
        capacity: Arc<CapacityLedger>,
    ) -> Result<Self, SumsDisagree> {
        let mut book =
            Self { payments: HashMap::new(), by_token: HashMap::new(), unpaid: VecDeque::new(), sums: HashMap::new(), capacity, limits };
        for (asset, totals) in totals {
            book.sums.insert(asset, Sums { totals, credit: 0 });
        }
        for (row, credits) in payments {
            let received = credits.iter().map(|credit| credit.amount).sum();
            let conditions = credits.iter().map(|credit| credit.condition).collect();
            let payment = Payment { received, conditions, ..Payment::new(row, Need::Unknown) };
            book.sums.entry(payment.row.asset.clone()).or_default().credit += payment.credit();
            book.by_token.insert(TokenHash(payment.row.token), payment.row.segment.clone());
            book.payments.insert(payment.row.segment.clone(), payment);
        }
        match book.sums.iter().find(|(_, sums)| !sums.agree()) {
            Some((asset, _)) => Err(SumsDisagree(asset.clone())),
            None => Ok(book),
        }
    }

    /// Where `claim`'s token stands; opens a payment at its first use.
    pub(super) fn present(&mut self, claim: Claim, now: Timestamp) -> Result<Standing, Denied> {
        let known = self.by_token.get(&claim.token).and_then(|segment| self.payments.get_mut(segment));
        let Some(payment) = known else { return Ok(self.open(claim, now)) };
        if payment.row.binding != claim.binding.0 {
            return Err(Denied);
        }
        (payment.need, payment.turned_away) = (claim.place.into(), false);
        if payment.received == 0 && payment.row.state == PaymentState::Open {
            // Nothing is paid yet: the price may still follow the asset of the uplink.
            (payment.row.price, payment.row.asset) = (claim.price, claim.asset);
        }
        Ok(match &payment.row.state {
            PaymentState::Consumed { answer } => Standing::Answered(answer.clone()),
            PaymentState::Consuming => Standing::InProgress,
            PaymentState::Open => standing(payment),
        })
    }

    fn open(&mut self, claim: Claim, now: Timestamp) -> Standing {
        self.make_room();
        let row = PaymentRow {
            segment: claim.segment.clone(),
            token: claim.token.0,
            binding: claim.binding.0,
            asset: claim.asset,
            price: claim.price,
            state: PaymentState::Open,
            expires_at: now.saturating_add(self.limits.unpaid_ttl).unwrap_or(Timestamp::MAX),
        };
        let payment = Payment::new(row, claim.place.into());
        let standing = standing(&payment);
        self.by_token.insert(claim.token, claim.segment.clone());
        self.unpaid.push_back(claim.segment.clone());
        self.payments.insert(claim.segment, payment);
        standing
    }

    /// Forgets the oldest unpaid payments when there are too many.
    fn make_room(&mut self) {
        while self.unpaid.len() >= self.limits.unpaid_max {
            let Some(segment) = self.unpaid.pop_front() else { return };
            if self.payments.get(&segment).is_some_and(|payment| payment.received == 0 && payment.row.state == PaymentState::Open) {
                self.remove(&segment);
            }
        }
    }

    /// The terms of a payment, for a packet that came for it.
    pub(super) fn lookup(&mut self, segment: &str, condition: &[u8; 32], asset: &Asset, now: Timestamp) -> Option<Lookup> {
        let payment = self.payments.get_mut(segment)?;
        payment.last_packet = Some(now);
        Some(Lookup { terms: payment.terms(asset), credited: payment.conditions.contains(condition) })
    }

    /// Credits one packet. Twice the same packet is one credit: the second time nothing is left to write.
    pub(super) fn credit(&mut self, credit: &Credit, asset: &Asset, now: Timestamp) -> Result<(Terms, Vec<Write>), Option<Terms>> {
        let payment = self.payments.get_mut(&credit.segment).ok_or(None)?;
        let terms = payment.terms(asset);
        if payment.conditions.contains(&credit.condition) {
            return Ok((terms, Vec::new()));
        }
        let sums = self.sums.entry(asset.clone()).or_default();
        let fits = [payment.received, sums.totals.received].iter().all(|sum| sum.checked_add(credit.amount).is_some_and(is_storable));
        if !terms.open || !terms.accepts(credit.amount, credit.slack) || !fits {
            return Err(Some(terms));
        }
        if !payment.hold(payment.received + credit.amount, self.limits.hold_max, &self.capacity, now) {
            payment.turned_away = true;
            return Err(Some(payment.terms(asset)));
        }
        payment.received += credit.amount;
        payment.conditions.insert(credit.condition);
        payment.row.expires_at = now.saturating_add(self.limits.credit_ttl).unwrap_or(Timestamp::MAX);
        sums.totals.received += credit.amount;
        sums.credit += credit.amount;
        assert!(sums.agree(), "received = earned + forfeited + credit, after a credit");
        let added = Totals { received: credit.amount, ..Totals::default() };
        let row = CreditRow { condition: credit.condition, amount: credit.amount };
        let writes = vec![
            Write::Payment(payment.row.clone()),
            Write::Credit { segment: credit.segment.clone(), credit: row },
            Write::Totals(asset.clone(), added),
        ];
        Ok((payment.terms(asset), writes))
    }

    /// paid -> Consuming. From here on nobody else can use the payment.
    pub(super) fn begin(&mut self, segment: &str) -> Result<Write, NotPaid> {
        let payment = self.payments.get_mut(segment).filter(|payment| payment.is_paid()).ok_or(NotPaid)?;
        payment.row.state = PaymentState::Consuming;
        // From here on the pod itself holds it.
        self.capacity.let_go(segment);
        Ok(Write::Payment(payment.row.clone()))
    }

    /// Consuming -> Consumed: the money is earned.
    pub(super) fn finish(&mut self, segment: &str, answer: String, now: Timestamp) -> Result<Vec<Write>, NotPaid> {
        let payment = self.payments.get_mut(segment).filter(|payment| payment.row.state == PaymentState::Consuming).ok_or(NotPaid)?;
        payment.row.state = PaymentState::Consumed { answer };
        payment.row.expires_at = now.saturating_add(self.limits.answer_ttl).unwrap_or(Timestamp::MAX);
        let asset = payment.row.asset.clone();
        let sums = self.sums.entry(asset.clone()).or_default();
        sums.credit -= payment.received;
        sums.totals.earned += payment.received;
        assert!(sums.agree(), "received = earned + forfeited + credit, after a payment was used");
        let added = Totals { earned: payment.received, ..Totals::default() };
        Ok(vec![Write::Payment(payment.row.clone()), Write::Totals(asset, added)])
    }

    /// Consuming -> paid: what was to be paid for didn't happen.
    pub(super) fn give_back(&mut self, segment: &str) -> Result<Write, NotPaid> {
        let payment = self.payments.get_mut(segment).filter(|payment| payment.row.state == PaymentState::Consuming).ok_or(NotPaid)?;
        payment.row.state = PaymentState::Open;
        Ok(Write::Payment(payment.row.clone()))
    }

    /// What was received in each asset, and what became of it.
    pub(super) fn totals(&self) -> Vec<(Asset, Totals)> {
        self.sums.iter().map(|(asset, sums)| (asset.clone(), sums.totals)).collect()
    }

    /// Payments that were being consumed when the store was last written.
    pub(super) fn consuming(&self) -> Vec<String> {
        let consuming = self.payments.values().filter(|payment| payment.row.state == PaymentState::Consuming);
        consuming.map(|payment| payment.row.segment.clone()).collect()
    }

    /// Forgets what has expired; credit on it is forfeited.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<Write> {
        let expired = |payment: &&Payment| payment.row.expires_at <= now && payment.row.state != PaymentState::Consuming;
        let segments: Vec<String> = self.payments.values().filter(expired).map(|payment| payment.row.segment.clone()).collect();
        let mut writes = Vec::new();
        for segment in segments {
            let Some(payment) = self.remove(&segment) else { continue };
            let sums = self.sums.entry(payment.row.asset.clone()).or_default();
            let forfeited = payment.credit();
            sums.credit -= forfeited;
            sums.totals.forfeited += forfeited;
            assert!(sums.agree(), "received = earned + forfeited + credit, after a payment expired");
            if payment.received > 0 || payment.row.price == 0 {
                writes.push(Write::ForgetPayment(segment));
                writes.push(Write::Totals(payment.row.asset, Totals { forfeited, ..Totals::default() }));
            }
        }
        self.unpaid.retain(|segment| self.payments.contains_key(segment));
        writes
    }

    fn remove(&mut self, segment: &str) -> Option<Payment> {
        let payment = self.payments.remove(segment)?;
        self.capacity.let_go(segment);
        self.by_token.remove(&TokenHash(payment.row.token));
        Some(payment)
    }
}

/// Where a payment stands whose request hasn't been carried out.
fn standing(payment: &Payment) -> Standing {
    let (segment, received) = (payment.row.segment.clone(), payment.received);
    if payment.is_paid() {
        return Standing::Paid { segment, received };
    }
    Standing::Due { segment, required: payment.row.price, received, last_packet: payment.last_packet }
}

/// The store counts in signed 64-bit integers.
fn is_storable(sum: u64) -> bool {
    i64::try_from(sum).is_ok()
}

#[cfg(test)]
mod places;
#[cfg(test)]
mod tests;
