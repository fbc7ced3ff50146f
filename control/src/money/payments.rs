//! The invoices, backed by the database: a result is returned only when it is durable.
//!
//! One lock, never held across an await: a place in the database's queue is reserved first, then the invoices are changed and the
//! change is sent while the lock is held, so the file sees changes in the order the invoices do.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use codiusd_ilp::{
    ildcp::Account,
    stream::credit_sink::{Credit, CreditError, CreditSink, Lookup, Terms},
};
use codiusd_supervisor::{StateGuard, StateLock};
use tokio::{sync::watch, time};

use super::{
    Asset, Binding, PayToken,
    invoices::{CapacityNeed, InvoiceStatus, Invoices, Limits, NotPaid, PaymentRequest, SumsDisagree, TokenReused},
    tables::{CreditRow, InvoiceRow, MoneyChange, Totals},
};
use crate::{
    capacity::CapacityLedger,
    clock::Clock,
    db::{Database, DatabaseFailed},
};

/// How long a repeated request waits for the rest of a payment whose packets are still arriving.
const REST_WAIT: time::Duration = time::Duration::from_secs(2);
/// Entropy of a payment's address segment, in bytes; it isn't derived from the token.
const SEGMENT_BYTES: usize = 16;

/// Why the state of a token can't be determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaymentsError {
    /// There is no Interledger connection to receive payments over.
    #[error("the host has no Interledger connection at the moment")]
    NoAccount,
    /// The token was first used for another request.
    #[error(transparent)]
    OtherRequest(#[from] TokenReused),
}

/// Receives payments and keeps their invoices; shared by the STREAM receiver and the paid requests.
#[derive(Debug)]
pub struct Payments {
    book: StateLock<Invoices>,
    capacity: Arc<CapacityLedger>,
    database: Database,
    clock: Arc<dyn Clock>,
    /// The asset payments are received in now; none while disconnected.
    asset: watch::Receiver<Option<Asset>>,
    changed: watch::Sender<()>,
}

impl Payments {
    /// Restores the invoices from the database. Payments hold capacity for their pods in `capacity`.
    pub fn new(
        payments: Vec<(InvoiceRow, Vec<CreditRow>)>,
        totals: Vec<(Asset, Totals)>,
        database: Database,
        clock: Arc<dyn Clock>,
        asset: watch::Receiver<Option<Asset>>,
        capacity: Arc<CapacityLedger>,
    ) -> Result<Self, SumsDisagree> {
        let book = Invoices::restore_from(payments, totals, Limits::default(), capacity.clone())?;
        let book = StateLock::new("payments", database.supervisor(), book);
        Ok(Self { book, capacity, database, clock, asset, changed: watch::Sender::new(()) })
    }

    /// The asset payments are received in now.
    pub fn asset(&self) -> Result<Asset, PaymentsError> {
        self.asset.borrow().clone().ok_or(PaymentsError::NoAccount)
    }

    /// Returns the state of a token's payment for its request. Waits while a copy of the request is being carried out and, for
    /// at most two seconds, while packets of the payment are still arriving.
    /// Once money is credited, the payment holds the capacity of `need`.
    pub async fn present(
        &self,
        token: &PayToken,
        binding: Binding,
        price: u64,
        asset: &Asset,
        need: Option<&CapacityNeed>,
    ) -> Result<InvoiceStatus, PaymentsError> {
        let claim = || {
            let segment = URL_SAFE_NO_PAD.encode(rand::random::<[u8; SEGMENT_BYTES]>());
            PaymentRequest { token: token.hash(), binding, price, asset: asset.clone(), segment, need: need.cloned() }
        };
        let mut changed = self.changed.subscribe();
        let patience = time::Instant::now() + REST_WAIT;
        loop {
            let now = self.clock.now();
            let status = self.book().present(claim(), now)?;
            let deadline = match &status {
                InvoiceStatus::InProgress => None,
                InvoiceStatus::Due { last_packet: Some(last), .. } if last.duration_until(now).unsigned_abs() < REST_WAIT => Some(patience),
                _ => return Ok(status),
            };
            let wait = changed.changed();
            let over = match deadline {
                None => wait.await.is_err(),
                Some(deadline) => time::timeout_at(deadline, wait).await.is_err(),
            };
            if over {
                return Ok(status);
            }
        }
    }

    /// The ledger in which payments and pods hold capacity.
    pub(crate) fn capacity(&self) -> &Arc<CapacityLedger> {
        &self.capacity
    }

    /// paid -> Consuming; the caller makes this durable in one commit with the change the payment is for.
    pub(crate) fn begin(&self, segment: &str) -> Result<MoneyChange, NotPaid> {
        self.book().begin(segment)
    }

    /// Consuming -> Consumed, to be made durable by the caller.
    pub(crate) fn finish(&self, segment: &str, answer: String) -> Result<Vec<MoneyChange>, NotPaid> {
        let now = self.clock.now();
        self.book().finish(segment, answer, now)
    }

    /// Consuming -> paid, to be made durable by the caller.
    pub(crate) fn give_back(&self, segment: &str) -> Result<MoneyChange, NotPaid> {
        self.book().give_back(segment)
    }

    /// Payments whose requests were being carried out when the process ended.
    pub(crate) fn consuming(&self) -> Vec<String> {
        self.book().consuming()
    }

    /// Totals of each asset (received, earned, forfeited), sorted by asset.
    pub fn totals(&self) -> Vec<(Asset, Totals)> {
        let mut totals = self.book().totals();
        totals.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        totals
    }

    /// Wakes requests that wait for a payment; call this once a change is durable.
    pub(crate) fn announce(&self) {
        self.changed.send_replace(());
    }

    /// Removes expired payments.
    pub async fn expire(&self) -> Result<(), DatabaseFailed> {
        let permit = self.database.reserve().await?;
        let durable = {
            let now = self.clock.now();
            let mut book = self.book();
            permit.send(book.expire(now))
        };
        durable.await
    }

    fn book(&self) -> StateGuard<'_, Invoices> {
        self.book.lock()
    }
}

#[async_trait]
impl CreditSink for Payments {
    async fn lookup(&self, segment: &str, condition: &[u8; 32]) -> Option<Lookup> {
        let asset = self.asset.borrow().clone()?;
        let now = self.clock.now();
        let lookup = self.book().lookup(segment, condition, &asset, now)?;
        if lookup.credited {
            // The first copy of this packet may still be waiting for its commit, and this fulfillment must not leave before that.
            self.database.barrier().await.ok()?;
        }
        Some(lookup)
    }

    async fn credit(&self, credit: Credit) -> Result<Terms, CreditError> {
        let asset = self.asset.borrow().clone().ok_or(CreditError::Unavailable)?;
        let permit = self.database.reserve().await.map_err(|_| CreditError::Unavailable)?;
        let (terms, durable) = {
            let now = self.clock.now();
            let mut book = self.book();
            let (terms, writes) = book.credit(&credit, &asset, now).map_err(|refused| match refused {
                Some(terms) => CreditError::Refused(terms),
                None => CreditError::Unavailable,
            })?;
            (terms, permit.send(writes))
        };
        durable.await.map_err(|DatabaseFailed| CreditError::Unavailable)?;
        self.announce();
        Ok(terms)
    }
}

/// The asset of an Interledger account.
pub fn asset_of(account: &Account) -> Asset {
    Asset { code: account.asset_code.clone(), scale: account.asset_scale }
}
