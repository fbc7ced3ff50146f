//! Who keeps the money, and when an amount is accepted.

use async_trait::async_trait;

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The price: what is taken in all.
    pub receive_max: u64,
    /// What has been taken.
    pub received: u64,
    /// Whether more is taken: it is neither paid, nor used, nor expired.
    pub open: bool,
}

impl Terms {
    /// What is missing.
    pub fn room(&self) -> u64 {
        self.receive_max.saturating_sub(self.received)
    }

    /// Whether a packet of `amount` may be credited: what is missing and 1 % more, so that a sender whose rate isn't 1 can
    /// meet it. `granularity` is the size one of the sender's units arrives as; it is known only after a refusal on this
    /// connection, and then one unit too much is accepted: a sender that can't do better would repeat its packet for ever.
    pub fn accepts(&self, amount: u64, granularity: Option<u64>) -> bool {
        let room = self.room();
        let slack = room.div_ceil(100).max(granularity.unwrap_or(0));
        room > 0 && amount <= room.saturating_add(slack)
    }
}

/// What the ledger says of a packet before it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Where the payment stands.
    pub terms: Terms,
    /// This packet was credited before: it is answered with its fulfillment, and not credited again.
    pub credited: bool,
}

/// One packet's money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The payment.
    pub segment: String,
    /// The packet.
    pub condition: [u8; 32],
    /// What arrived.
    pub amount: u64,
    /// See [`Terms::accepts`].
    pub granularity: Option<u64>,
}

/// A packet wasn't credited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreditError {
    /// It doesn't fit the terms, which are these by now.
    Refused(Terms),
    /// Nothing can be credited at the moment.
    Unavailable,
}

/// Keeps account of what is paid.
#[async_trait]
pub trait Ledger: std::fmt::Debug + Send + Sync + 'static {
    /// Where the payment at an address segment stands; none: there is no such payment.
    async fn lookup(&self, segment: &str, condition: &[u8; 32]) -> Option<Lookup>;

    /// Credits a packet if it (still) fits the terms. Returns when the credit is durable: the fulfillment may leave then.
    /// Crediting the same packet twice is one credit.
    async fn credit(&self, credit: Credit) -> Result<Terms, CreditError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_is_missing_and_a_little_more() {
        let terms = |receive_max, received| Terms { receive_max, received, open: true };
        let table = [
            (terms(1000, 0), 1000, None, true),
            (terms(1000, 0), 1010, None, true),
            (terms(1000, 0), 1011, None, false),
            (terms(1000, 0), 2000, None, false),
            (terms(1000, 600), 400, None, true),
            (terms(1000, 600), 405, None, false),
            (terms(1, 0), 2, None, true),
            (terms(1000, 1000), 1, None, false),
            (terms(1000, 1000), 0, Some(1000), false),
            (terms(1500, 0), 2000, Some(1000), true),
            (terms(1500, 0), 2501, Some(1000), false),
            (terms(u64::MAX, 0), u64::MAX, Some(u64::MAX), true),
        ];
        for (terms, amount, granularity, expected) in table {
            assert_eq!(terms.accepts(amount, granularity), expected, "{terms:?} {amount} {granularity:?}");
        }
    }
}
