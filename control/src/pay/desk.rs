//! The book over the store: what the desk says is durable.
//!
//! One lock, never held across an await: a place in the store's queue is reserved first, then the book is changed and the
//! change is sent while the lock is held, so the file sees changes in the book's order.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use codiusd_ilp::{
    ildcp::Account,
    stream::ledger::{Credit, CreditError, Ledger, Lookup, Terms},
};
use codiusd_runtime::{Machine, PodId};
use codiusd_supervisor::{StateGuard, StateLock};
use tokio::{sync::watch, time};

use super::{
    Asset, Binding, PayToken,
    book::{Book, Claim, Denied, Limits, NotPaid, Place, Standing, SumsDisagree},
};
use crate::{
    clock::Clock,
    store::{CreditRow, PaymentRow, Store, StoreFailed, Totals, Write},
};

/// How long a repeated request waits for the rest of a payment whose packets are still coming in.
const REST_WAIT: time::Duration = time::Duration::from_secs(2);
/// Entropy of the address segment of a payment, in bytes; it says nothing of the token.
const SEGMENT_BYTES: usize = 16;

/// The desk can't say how a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeskError {
    /// There is no Interledger connection to be paid over.
    #[error("the host has no Interledger connection at the moment")]
    NoAccount,
    /// The token was first used for another request.
    #[error(transparent)]
    OtherRequest(#[from] Denied),
}

/// Takes payments and keeps account of them; shared by the STREAM receiver and the paid requests.
#[derive(Debug)]
pub struct Desk {
    book: StateLock<Book>,
    store: Store,
    clock: Arc<dyn Clock>,
    /// What payments are received in at the moment, once connected.
    asset: watch::Receiver<Option<Asset>>,
    changed: watch::Sender<()>,
}

impl Desk {
    /// Opens the desk with what the store remembers.
    pub fn new(
        payments: Vec<(PaymentRow, Vec<CreditRow>)>,
        totals: Vec<(Asset, Totals)>,
        store: Store,
        clock: Arc<dyn Clock>,
        asset: watch::Receiver<Option<Asset>>,
    ) -> Result<Self, SumsDisagree> {
        let book = StateLock::new("payments", store.supervisor(), Book::restore_from(payments, totals, Limits::default())?);
        Ok(Self { book, store, clock, asset, changed: watch::Sender::new(()) })
    }

    /// The asset payments are received in now.
    pub fn asset(&self) -> Result<Asset, DeskError> {
        self.asset.borrow().clone().ok_or(DeskError::NoAccount)
    }

    /// Where a token stands with the request it comes with. A request that is being carried out is waited for, and so, for
    /// two seconds, is the rest of a payment whose packets are coming in.
    /// Once it is being paid for, a request holds `place`.
    pub async fn present(
        &self,
        token: &PayToken,
        binding: Binding,
        price: u64,
        asset: &Asset,
        place: Option<&Place>,
    ) -> Result<Standing, DeskError> {
        let claim = || {
            let segment = URL_SAFE_NO_PAD.encode(rand::random::<[u8; SEGMENT_BYTES]>());
            Claim { token: token.hash(), binding, price, asset: asset.clone(), segment, place: place.cloned() }
        };
        let mut changed = self.changed.subscribe();
        let patience = time::Instant::now() + REST_WAIT;
        loop {
            let now = self.clock.now();
            let standing = self.book().present(claim(), now)?;
            let deadline = match &standing {
                Standing::InProgress => None,
                Standing::Due { last_packet: Some(last), .. } if last.duration_until(now).unsigned_abs() < REST_WAIT => Some(patience),
                _ => return Ok(standing),
            };
            let wait = changed.changed();
            let over = match deadline {
                None => wait.await.is_err(),
                Some(deadline) => time::timeout_at(deadline, wait).await.is_err(),
            };
            if over {
                return Ok(standing);
            }
        }
    }

    /// The places that payments on their way hold now.
    pub(crate) fn held(&self) -> HashMap<PodId, Machine> {
        let now = self.clock.now();
        self.book().held(now)
    }

    /// paid -> Consuming; the caller makes the change durable together with what it does with the payment.
    pub(crate) fn begin(&self, segment: &str) -> Result<Write, NotPaid> {
        self.book().begin(segment)
    }

    /// Consuming -> Consumed, to be made durable by the caller.
    pub(crate) fn finish(&self, segment: &str, answer: String) -> Result<Vec<Write>, NotPaid> {
        let now = self.clock.now();
        self.book().finish(segment, answer, now)
    }

    /// Consuming -> paid, to be made durable by the caller.
    pub(crate) fn give_back(&self, segment: &str) -> Result<Write, NotPaid> {
        self.book().give_back(segment)
    }

    /// Payments that were being consumed when the process ended.
    pub(crate) fn consuming(&self) -> Vec<String> {
        self.book().consuming()
    }

    /// What was received in each asset, and what became of it, in the assets' order.
    pub fn totals(&self) -> Vec<(Asset, Totals)> {
        let mut totals = self.book().totals();
        totals.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        totals
    }

    /// Wakes requests that wait for a payment; call it when a change is durable.
    pub(crate) fn announce(&self) {
        self.changed.send_replace(());
    }

    /// Forgets what has expired.
    pub async fn expire(&self) -> Result<(), StoreFailed> {
        let permit = self.store.reserve().await?;
        let durable = {
            let now = self.clock.now();
            let mut book = self.book();
            permit.send(book.expire(now))
        };
        durable.await
    }

    fn book(&self) -> StateGuard<'_, Book> {
        self.book.lock()
    }
}

#[async_trait]
impl Ledger for Desk {
    async fn lookup(&self, segment: &str, condition: &[u8; 32]) -> Option<Lookup> {
        let asset = self.asset.borrow().clone()?;
        let now = self.clock.now();
        let lookup = self.book().lookup(segment, condition, &asset, now)?;
        if lookup.credited {
            // The first copy of this packet may still be on its way to the disk, and its fulfillment must not overtake it.
            self.store.barrier().await.ok()?;
        }
        Some(lookup)
    }

    async fn credit(&self, credit: Credit) -> Result<Terms, CreditError> {
        let asset = self.asset.borrow().clone().ok_or(CreditError::Unavailable)?;
        let permit = self.store.reserve().await.map_err(|_| CreditError::Unavailable)?;
        let (terms, durable) = {
            let now = self.clock.now();
            let mut book = self.book();
            let (terms, writes) = book.credit(&credit, &asset, now).map_err(|refused| match refused {
                Some(terms) => CreditError::Refused(terms),
                None => CreditError::Unavailable,
            })?;
            (terms, permit.send(writes))
        };
        durable.await.map_err(|StoreFailed| CreditError::Unavailable)?;
        self.announce();
        Ok(terms)
    }
}

/// The asset of an Interledger account.
pub fn asset_of(account: &Account) -> Asset {
    Asset { code: account.asset_code.clone(), scale: account.asset_scale }
}
