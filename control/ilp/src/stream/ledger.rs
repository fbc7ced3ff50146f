//! Who keeps the money, and when an amount is accepted.

use async_trait::async_trait;

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The price: what is taken in all.
    pub receive_max: u64,
    /// What has been taken.
    pub received: u64,
    /// Whether more is taken: it is neither paid, nor used, nor expired, and what it pays for can be had.
    pub open: bool,
}

impl Terms {
    /// What is missing.
    pub fn room(&self) -> u64 {
        self.receive_max.saturating_sub(self.received)
    }

    /// Whether no more is taken although something is missing: whoever asks again over HTTP is told why.
    pub fn is_over(&self) -> bool {
        !self.open && self.room() > 0
    }

    /// Whether a packet of `amount` may be credited: what is missing, and no more than the sender can't help.
    pub fn accepts(&self, amount: u64, slack: Slack) -> bool {
        let room = self.room();
        let slack = match slack {
            Slack::None => 0,
            Slack::Unit(unit) => unit,
            Slack::Percent(unit) => room.div_ceil(100).max(unit),
        };
        room > 0 && amount <= room.saturating_add(slack)
    }
}

/// How much more than what is missing is taken. A sender whose rate isn't 1 may be unable to meet the price, and would repeat its packet
/// for ever; every other sends exactly what is missing once a packet of too much has told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slack {
    /// Nothing: it hasn't been told yet.
    None,
    /// It has been told once: what one of its units arrives as.
    Unit(u64),
    /// It has been told more than once: 1 %, or one of its units, whichever is more. Its idea of the rate may be that much off.
    Percent(u64),
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
    /// What of it may be too much.
    pub slack: Slack,
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

    /// Credits a packet if it (still) fits the terms, and what it pays for can be had. Returns when the credit is durable: the fulfillment may leave then.
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
            (terms(1000, 0), 1000, Slack::None, true),
            (terms(1000, 0), 1001, Slack::None, false),
            (terms(228_311, 0), 228_337, Slack::None, false),
            (terms(1000, 600), 400, Slack::None, true),
            (terms(1000, 600), 401, Slack::None, false),
            (terms(1, 0), 2, Slack::None, false),
            (terms(1000, 1000), 1, Slack::None, false),
            (terms(1000, 1000), 0, Slack::Unit(1000), false),
            (terms(1000, 0), 1003, Slack::Unit(3), true),
            (terms(1000, 0), 1004, Slack::Unit(3), false),
            (terms(1500, 0), 2000, Slack::Unit(1000), true),
            (terms(1500, 0), 2501, Slack::Unit(1000), false),
            (terms(1000, 0), 1010, Slack::Percent(3), true),
            (terms(1000, 0), 1011, Slack::Percent(3), false),
            (terms(1500, 0), 2500, Slack::Percent(1000), true),
            (terms(u64::MAX, 0), u64::MAX, Slack::Percent(u64::MAX), true),
        ];
        for (terms, amount, slack, expected) in table {
            assert_eq!(terms.accepts(amount, slack), expected, "{terms:?} {amount} {slack:?}");
        }
    }
}
