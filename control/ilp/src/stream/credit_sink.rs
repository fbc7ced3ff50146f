//! The ledger of received money, and when an amount is accepted.

use async_trait::async_trait;

/// The state of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The price: the total accepted.
    pub receive_max: u64,
    /// Amount received so far.
    pub received: u64,
    /// Whether more is accepted: the payment is not paid, used or expired, and capacity for its pod is available.
    pub open: bool,
}

impl Terms {
    /// The amount still missing.
    pub fn room(&self) -> u64 {
        self.receive_max.saturating_sub(self.received)
    }

    /// Whether no more is accepted although money is missing: the payer learns the reason by repeating the HTTP request.
    pub fn is_over(&self) -> bool {
        !self.open && self.room() > 0
    }

    /// Whether a packet of `amount` may be credited: up to the missing amount, plus the slack.
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

/// How far a packet may exceed the missing amount. A sender whose rate isn't 1 may be unable to hit the price exactly, and would repeat
/// its packet forever; any other sends exactly the missing amount once a reject has reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slack {
    /// None: no packet of this sender has been refused yet.
    None,
    /// After one refusal: the arriving amount of one of its units.
    Unit(u64),
    /// After more than one: 1 % of the missing amount, or one unit if that is more: the sender's estimate of the rate may be that far off.
    Percent(u64),
}

/// The ledger's view of a packet before it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The state of the payment.
    pub terms: Terms,
    /// The packet was credited before: it gets its fulfillment again, and no second credit.
    pub credited: bool,
}

/// The money of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The payment's address segment.
    pub segment: String,
    /// The packet's condition.
    pub condition: [u8; 32],
    /// Amount that arrived.
    pub amount: u64,
    /// Allowed excess over the missing amount.
    pub slack: Slack,
}

/// Why a packet wasn't credited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreditError {
    /// It doesn't fit the current terms, which are these.
    Refused(Terms),
    /// No packet can be credited at the moment.
    Unavailable,
}

/// The ledger of payments.
#[async_trait]
pub trait CreditSink: std::fmt::Debug + Send + Sync + 'static {
    /// The state of the payment at an address segment, or none if there is no such payment.
    async fn lookup(&self, segment: &str, condition: &[u8; 32]) -> Option<Lookup>;

    /// Credits a packet if it (still) fits the terms and capacity is available. Returns when the credit is durable: only then may the
    /// fulfillment leave.
    /// Idempotent: crediting a packet again changes nothing.
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
