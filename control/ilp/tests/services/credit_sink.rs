//! A ledger in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use codiusd_ilp::{
    ildcp::Account,
    stream::{
        credit_sink::{Credit, CreditError, CreditSink, Lookup, Terms},
        receiver::Receiver,
    },
};

/// The server secret of every receiver here.
pub(crate) const SERVER_SECRET: [u8; 32] = [7; 32];

#[derive(Debug, Default)]
pub(crate) struct MemoryLedger {
    payments: Mutex<HashMap<String, Payment>>,
}

#[derive(Debug)]
struct Payment {
    terms: Terms,
    credits: HashSet<[u8; 32]>,
    available: bool,
}

impl MemoryLedger {
    /// A ledger with one payment of `price` at each of `segments`.
    pub(crate) fn with(segments: &[&str], price: u64) -> Arc<Self> {
        let ledger = Arc::new(Self::default());
        segments.iter().for_each(|segment| ledger.open(segment, price));
        ledger
    }

    /// Opens a payment.
    pub(crate) fn open(&self, segment: &str, price: u64) {
        let terms = Terms { receive_max: price, received: 0, open: true };
        let payment = Payment { terms, credits: HashSet::new(), available: true };
        self.payments.lock().unwrap().insert(segment.to_owned(), payment);
    }

    /// Where a payment stands.
    pub(crate) fn terms(&self, segment: &str) -> Terms {
        self.payments.lock().unwrap()[segment].terms
    }

    /// Ends a payment before it is paid.
    pub(crate) fn expire(&self, segment: &str) {
        self.payments.lock().unwrap().get_mut(segment).unwrap().terms.open = false;
    }

    /// Whether a payment can be credited at the moment.
    pub(crate) fn set_available(&self, segment: &str, available: bool) {
        self.payments.lock().unwrap().get_mut(segment).unwrap().available = available;
    }
}

#[async_trait]
impl CreditSink for MemoryLedger {
    async fn lookup(&self, segment: &str, condition: &[u8; 32]) -> Option<Lookup> {
        let payments = self.payments.lock().unwrap();
        let payment = payments.get(segment)?;
        Some(Lookup { terms: payment.terms, credited: payment.credits.contains(condition) })
    }

    async fn credit(&self, credit: Credit) -> Result<Terms, CreditError> {
        let mut payments = self.payments.lock().unwrap();
        let payment = payments.get_mut(&credit.segment).unwrap();
        if !payment.available {
            return Err(CreditError::Unavailable);
        }
        if payment.credits.contains(&credit.condition) {
            return Ok(payment.terms);
        }
        if !payment.terms.open || !payment.terms.accepts(credit.amount, credit.slack) {
            return Err(CreditError::Refused(payment.terms));
        }
        payment.credits.insert(credit.condition);
        payment.terms.received += credit.amount;
        payment.terms.open = payment.terms.room() > 0;
        Ok(payment.terms)
    }
}

/// A receiver over a ledger.
pub(crate) fn receiver(ledger: &Arc<MemoryLedger>) -> Arc<Receiver> {
    Arc::new(Receiver::new(SERVER_SECRET, ledger.clone()))
}

/// An account in XRP drops' thousandths.
pub(crate) fn account(address: &str) -> Account {
    Account { address: address.parse().unwrap(), asset_code: "XRP".to_owned(), asset_scale: 9 }
}
