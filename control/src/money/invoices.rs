//! Every payment's state, and the sums that must agree. Pure: `(invoices, input, now) -> (answer, changes to make durable)`.
//!
//! ```text
//!            credit            credit >= price        begin              finish
//!  (402) -> Open ------> Open(partly paid) -----> paid ------> Consuming ------> Consumed (answer kept)
//! |             |                 |                   ^              |                  |
//! |             | unpaid_ttl      | credit_ttl        +-- give_back -+                  | answer_ttl
//!             v                 v                                                     v
//!          forgotten         forfeited                                            forgotten
//! ```
//!
//! # Who holds capacity
//!
//! Asking for a price holds nothing: otherwise free requests could keep everyone else out. A packet is credited only if capacity for the
//! pod it pays for is held at that moment: by this payment, by another payment for the same pod, by the pod itself, or because capacity
//! is free and becomes held with the credit, in one step ([`CapacityLedger::hold`]). So the last capacity goes to the payment that is paid
//! first, and every other payment is turned away before any of its money is taken: none of its packets is credited until its request
//! is repeated over HTTP.
//!
//! A payment holds capacity for [`Limits::hold_max`] at a time, and in total no longer than the run time it has paid for so far: holding
//! capacity costs as much as running there, and an abandoned hold expires. Money received before a hold expired
//! stays on the token; the payer can hold capacity again if it is free.
//!
//! "Paid" is `Open` with `received >= price`: there is no separate flag that could contradict the two numbers. A payment that has
//! received nothing is kept only in memory: asking for a price costs the host no disk write.
//!
//! After every step, for every asset: `received = earned + forfeited + credit on open payments`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use codiusd_ilp::stream::credit_sink::{Credit, Lookup, Terms};
use codiusd_runtime::{Machine, PodId};
use jiff::{SignedDuration, Timestamp};

use super::{
    Asset, Binding, TokenHash,
    tables::{CreditRow, InvoiceRow, InvoiceState, MoneyChange, Totals},
};
use crate::capacity::CapacityLedger;

/// Limits on time and number.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Unpaid payments kept at most; the oldest are evicted.
    pub unpaid_max: usize,
    /// How long an unpaid payment is kept.
    pub unpaid_ttl: SignedDuration,
    /// How long unused money stays on its token.
    pub credit_ttl: SignedDuration,
    /// How long the answer to a paid request is kept for repeated requests.
    pub answer_ttl: SignedDuration,
    /// How long a payment holds capacity for its pod at a time, at most.
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

/// The state of a token's payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvoiceStatus {
    /// The request was carried out, with this answer.
    Answered(String),
    /// Money is due.
    Due {
        /// Segment of the ILP address to pay at.
        segment: String,
        /// The price.
        required: u64,
        /// Amount received so far.
        received: u64,
        /// When the last STREAM packet arrived for it.
        last_packet: Option<Timestamp>,
    },
    /// The request is being carried out.
    InProgress,
    /// The price has been paid, and not been consumed.
    Paid {
        /// Identifies the payment.
        segment: String,
        /// Amount received.
        received: u64,
    },
}

/// The token was first used for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this Pay-Token belongs to another request")]
pub struct TokenReused;

/// The payment can't be used, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payment isn't there to be used")]
pub struct NotPaid;

/// Capacity a paid request needs, if it starts a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapacityNeed {
    /// The pod.
    pub pod: PodId,
    /// Its machine size.
    pub machine: Machine,
    /// Run time bought, in seconds.
    pub seconds: u32,
}

/// Capacity that the request of a payment needs.
#[derive(Clone, Debug)]
enum Need {
    /// Unknown for a payment from before the start, until its request is repeated.
    Unknown,
    /// Nothing: its pod holds its capacity already.
    Nothing,
    Capacity(CapacityNeed),
}

impl From<Option<CapacityNeed>> for Need {
    fn from(need: Option<CapacityNeed>) -> Self {
        need.map_or(Self::Nothing, Self::Capacity)
    }
}

/// A request to be paid for.
#[derive(Clone, Debug)]
pub(super) struct PaymentRequest {
    pub(super) token: TokenHash,
    pub(super) binding: Binding,
    pub(super) price: u64,
    pub(super) asset: Asset,
    /// The segment to use if this is the token's first request.
    pub(super) segment: String,
    pub(super) need: Option<CapacityNeed>,
}

#[derive(Debug)]
struct Invoice {
    row: InvoiceRow,
    received: u64,
    conditions: HashSet<[u8; 32]>,
    last_packet: Option<Timestamp>,
    need: Need,
    /// Begin and end of the latest capacity hold.
    hold: Option<(Timestamp, Timestamp)>,
    /// Total time of earlier holds.
    held: SignedDuration,
    /// No capacity was free when a packet arrived: nothing is credited until the request is repeated.
    turned_away: bool,
}

impl Invoice {
    fn new(row: InvoiceRow, need: Need) -> Self {
        let (conditions, held) = (HashSet::new(), SignedDuration::ZERO);
        Self { row, received: 0, conditions, last_packet: None, need, hold: None, held, turned_away: false }
    }

    fn is_paid(&self) -> bool {
        self.row.state == InvoiceState::Open && self.received >= self.row.price
    }

    fn terms(&self, asset: &Asset) -> Terms {
        let is_due = self.row.state == InvoiceState::Open && self.received < self.row.price;
        let open = is_due && self.row.asset == *asset && !self.turned_away;
        Terms { receive_max: self.row.price, received: self.received, open }
    }

    /// The run time that `received` pays for, rounded down to milliseconds.
    fn run_time(&self, seconds: u32, received: u64) -> SignedDuration {
        let milliseconds = u128::from(seconds) * 1000 * u128::from(received) / u128::from(self.row.price.max(1));
        SignedDuration::from_millis(i64::try_from(milliseconds).unwrap_or(i64::MAX))
    }

    /// Holds capacity for the run time that `received` pays for; false if none is free.
    fn hold(&mut self, received: u64, hold_max: SignedDuration, capacity: &CapacityLedger, now: Timestamp) -> bool {
        let need = match &self.need {
            Need::Unknown => return false,
            Need::Nothing => return true,
            Need::Capacity(need) => need,
        };
        let (since, held) = match self.hold {
            Some((since, until)) if until > now => (since, self.held),
            Some((since, until)) => (now, self.held.saturating_add(since.duration_until(until))),
            None => (now, self.held),
        };
        let longest = self.run_time(need.seconds, received).saturating_sub(held).min(hold_max);
        let until = since.saturating_add(longest).unwrap_or(since);
        if capacity.hold(&self.row.segment, &need.pod, need.machine, until, now).is_err() {
            return false;
        }
        (self.hold, self.held) = (Some((since, until)), held);
        true
    }

    /// Received money that hasn't been spent.
    fn credit(&self) -> u64 {
        if matches!(self.row.state, InvoiceState::Consumed { .. }) { 0 } else { self.received }
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
pub(super) struct Invoices {
    payments: HashMap<String, Invoice>,
    by_token: HashMap<TokenHash, String>,
    /// Segments of payments opened since the start, oldest first; includes those paid since.
    unpaid: VecDeque<String>,
    sums: HashMap<Asset, Sums>,
    capacity: Arc<CapacityLedger>,
    limits: Limits,
}

/// The stored sums don't agree with the stored payments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored earnings in {0} don't agree with the stored credits")]
pub struct SumsDisagree(Asset);

impl Invoices {
    pub(super) fn restore_from(
        payments: Vec<(InvoiceRow, Vec<CreditRow>)>,
        totals: Vec<(Asset, Totals)>,
        limits: Limits,
        capacity: Arc<CapacityLedger>,
    ) -> Result<Self, SumsDisagree> {
        let mut invoices =
            Self { payments: HashMap::new(), by_token: HashMap::new(), unpaid: VecDeque::new(), sums: HashMap::new(), capacity, limits };
        for (asset, totals) in totals {
            invoices.sums.insert(asset, Sums { totals, credit: 0 });
        }
        for (row, credits) in payments {
            let received = credits.iter().map(|credit| credit.amount).sum();
            let conditions = credits.iter().map(|credit| credit.condition).collect();
            let payment = Invoice { received, conditions, ..Invoice::new(row, Need::Unknown) };
            invoices.sums.entry(payment.row.asset.clone()).or_default().credit += payment.credit();
            invoices.by_token.insert(TokenHash(payment.row.token), payment.row.segment.clone());
            invoices.payments.insert(payment.row.segment.clone(), payment);
        }
        match invoices.sums.iter().find(|(_, sums)| !sums.agree()) {
            Some((asset, _)) => Err(SumsDisagree(asset.clone())),
            None => Ok(invoices),
        }
    }

    /// Returns the state of the token's payment; opens a payment at the token's first use.
    pub(super) fn present(&mut self, claim: PaymentRequest, now: Timestamp) -> Result<InvoiceStatus, TokenReused> {
        let known = self.by_token.get(&claim.token).and_then(|segment| self.payments.get_mut(segment));
        let Some(payment) = known else { return Ok(self.open(claim, now)) };
        if payment.row.binding != claim.binding.0 {
            return Err(TokenReused);
        }
        (payment.need, payment.turned_away) = (claim.need.into(), false);
        if payment.received == 0 && payment.row.state == InvoiceState::Open {
            // Nothing has been received yet, so the price may still follow the uplink's asset.
            (payment.row.price, payment.row.asset) = (claim.price, claim.asset);
        }
        Ok(match &payment.row.state {
            InvoiceState::Consumed { answer } => InvoiceStatus::Answered(answer.clone()),
            InvoiceState::Consuming => InvoiceStatus::InProgress,
            InvoiceState::Open => status(payment),
        })
    }

    fn open(&mut self, claim: PaymentRequest, now: Timestamp) -> InvoiceStatus {
        self.make_room();
        let row = InvoiceRow {
            segment: claim.segment.clone(),
            token: claim.token.0,
            binding: claim.binding.0,
            asset: claim.asset,
            price: claim.price,
            state: InvoiceState::Open,
            expires_at: now.saturating_add(self.limits.unpaid_ttl).unwrap_or(Timestamp::MAX),
        };
        let payment = Invoice::new(row, claim.need.into());
        let status = status(&payment);
        self.by_token.insert(claim.token, claim.segment.clone());
        self.unpaid.push_back(claim.segment.clone());
        self.payments.insert(claim.segment, payment);
        status
    }

    /// Evicts the oldest unpaid payments when there are too many.
    fn make_room(&mut self) {
        while self.unpaid.len() >= self.limits.unpaid_max {
            let Some(segment) = self.unpaid.pop_front() else { return };
            if self.payments.get(&segment).is_some_and(|payment| payment.received == 0 && payment.row.state == InvoiceState::Open) {
                self.remove(&segment);
            }
        }
    }

    /// The terms of a payment, for an incoming packet.
    pub(super) fn lookup(&mut self, segment: &str, condition: &[u8; 32], asset: &Asset, now: Timestamp) -> Option<Lookup> {
        let payment = self.payments.get_mut(segment)?;
        payment.last_packet = Some(now);
        Some(Lookup { terms: payment.terms(asset), credited: payment.conditions.contains(condition) })
    }

    /// Credits one packet. Idempotent: a repeated packet changes and writes nothing.
    pub(super) fn credit(&mut self, credit: &Credit, asset: &Asset, now: Timestamp) -> Result<(Terms, Vec<MoneyChange>), Option<Terms>> {
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
            MoneyChange::Invoice(payment.row.clone()),
            MoneyChange::Credit { segment: credit.segment.clone(), credit: row },
            MoneyChange::Totals(asset.clone(), added),
        ];
        Ok((payment.terms(asset), writes))
    }

    /// paid -> Consuming. From here on no other request can use the payment.
    pub(super) fn begin(&mut self, segment: &str) -> Result<MoneyChange, NotPaid> {
        let payment = self.payments.get_mut(segment).filter(|payment| payment.is_paid()).ok_or(NotPaid)?;
        payment.row.state = InvoiceState::Consuming;
        // From here on the pod itself holds the capacity.
        self.capacity.let_go(segment);
        Ok(MoneyChange::Invoice(payment.row.clone()))
    }

    /// Consuming -> Consumed: the money is earned.
    pub(super) fn finish(&mut self, segment: &str, answer: String, now: Timestamp) -> Result<Vec<MoneyChange>, NotPaid> {
        let payment = self.payments.get_mut(segment).filter(|payment| payment.row.state == InvoiceState::Consuming).ok_or(NotPaid)?;
        payment.row.state = InvoiceState::Consumed { answer };
        payment.row.expires_at = now.saturating_add(self.limits.answer_ttl).unwrap_or(Timestamp::MAX);
        let asset = payment.row.asset.clone();
        let sums = self.sums.entry(asset.clone()).or_default();
        sums.credit -= payment.received;
        sums.totals.earned += payment.received;
        assert!(sums.agree(), "received = earned + forfeited + credit, after a payment was used");
        let added = Totals { earned: payment.received, ..Totals::default() };
        Ok(vec![MoneyChange::Invoice(payment.row.clone()), MoneyChange::Totals(asset, added)])
    }

    /// Consuming -> paid: the request wasn't carried out.
    pub(super) fn give_back(&mut self, segment: &str) -> Result<MoneyChange, NotPaid> {
        let payment = self.payments.get_mut(segment).filter(|payment| payment.row.state == InvoiceState::Consuming).ok_or(NotPaid)?;
        payment.row.state = InvoiceState::Open;
        Ok(MoneyChange::Invoice(payment.row.clone()))
    }

    /// Totals of each asset: received, earned, forfeited.
    pub(super) fn totals(&self) -> Vec<(Asset, Totals)> {
        self.sums.iter().map(|(asset, sums)| (asset.clone(), sums.totals)).collect()
    }

    /// Payments whose requests are being carried out.
    pub(super) fn consuming(&self) -> Vec<String> {
        let consuming = self.payments.values().filter(|payment| payment.row.state == InvoiceState::Consuming);
        consuming.map(|payment| payment.row.segment.clone()).collect()
    }

    /// Removes expired payments; their credit is forfeited.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<MoneyChange> {
        let expired = |payment: &&Invoice| payment.row.expires_at <= now && payment.row.state != InvoiceState::Consuming;
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
                writes.push(MoneyChange::Remove(segment));
                writes.push(MoneyChange::Totals(payment.row.asset, Totals { forfeited, ..Totals::default() }));
            }
        }
        self.unpaid.retain(|segment| self.payments.contains_key(segment));
        writes
    }

    fn remove(&mut self, segment: &str) -> Option<Invoice> {
        let payment = self.payments.remove(segment)?;
        self.capacity.let_go(segment);
        self.by_token.remove(&TokenHash(payment.row.token));
        Some(payment)
    }
}

/// The state of a payment whose request hasn't been carried out.
fn status(payment: &Invoice) -> InvoiceStatus {
    let (segment, received) = (payment.row.segment.clone(), payment.received);
    if payment.is_paid() {
        return InvoiceStatus::Paid { segment, received };
    }
    InvoiceStatus::Due { segment, required: payment.row.price, received, last_packet: payment.last_packet }
}

/// SQLite integers are signed 64-bit.
fn is_storable(sum: u64) -> bool {
    i64::try_from(sum).is_ok()
}

#[cfg(test)]
mod contention;
#[cfg(test)]
mod tests;
