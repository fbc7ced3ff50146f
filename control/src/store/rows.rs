//! What is kept: the rows of each table, and the changes that may be made to them.

use jiff::Timestamp;

use crate::house::{Ban, HouseRows};
use crate::pay::{Asset, CostPerMonth};
use crate::pods::{Marks, Pod, PodRecord};

/// Where a payment stands. The arrows are in `pay/ledger.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentState {
    /// Takes money until the price is there; then waits for its request.
    Open,
    /// Its request is being carried out.
    Consuming,
    /// Spent; holds the answer, for a repeated request.
    Consumed {
        /// JSON body of the answer.
        answer: String,
    },
}

/// A payment, from its first credit on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentRow {
    /// Segment of the ILP address it is paid at.
    pub segment: String,
    /// Hash of its Pay-Token.
    pub token: [u8; 32],
    /// The one request it may pay for.
    pub binding: [u8; 32],
    /// What it is paid in.
    pub asset: Asset,
    /// What its request costs.
    pub price: u64,
    /// Where it stands.
    pub state: PaymentState,
    /// When it is forgotten.
    pub expires_at: Timestamp,
}

/// One fulfilled packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditRow {
    /// The packet's condition: a replay has the same.
    pub condition: [u8; 32],
    /// What was credited.
    pub amount: u64,
}

/// All that was ever received in one asset, and what became of it. The rest of `received` is credit on open payments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Credited by fulfilled packets.
    pub received: u64,
    /// Spent on run time.
    pub earned: u64,
    /// Credit nobody used before it expired.
    pub forfeited: u64,
}

/// One change. A commit makes all of its changes or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Adds or replaces a ban.
    Ban {
        /// What isn't run.
        ban: Ban,
        /// Whether what runs of it is to be stopped.
        stop: bool,
    },
    /// The operator has set the price.
    Cost {
        /// What a small pod costs for a month.
        cost: CostPerMonth,
        /// What the settings say.
        instead_of: CostPerMonth,
    },
    /// Adds a credit to a payment that is there.
    Credit {
        /// The payment.
        segment: String,
        /// The packet.
        credit: CreditRow,
    },
    /// Whether nothing new is taken.
    Draining(bool),
    /// Forgets a pod's losses.
    ForgetMarks(codiusd_runtime::PodId),
    /// Removes a payment with its credits.
    ForgetPayment(String),
    /// Removes a host that is no peer any more.
    ForgetPeer(String),
    /// Removes a pod with its manifest and private values.
    ForgetPod(codiusd_runtime::PodId),
    /// Replaces what is known of a pod's losses.
    Marks(codiusd_runtime::PodId, Marks),
    /// Adds or replaces a payment.
    Payment(PaymentRow),
    /// Adds a host that is a peer, by its origin.
    Peer(String),
    /// Adds or replaces a pod.
    Pod(Box<PodRecord>),
    /// Replaces what is known of a pod but its manifest and spec.
    PodProgress(codiusd_runtime::PodId, Pod),
    /// Adds to an asset's totals.
    Totals(Asset, Totals),
    /// Removes a ban.
    Unban(Ban),
}

/// Everything that was kept, as it is read at start.
#[derive(Debug)]
pub struct Snapshot {
    /// Root of all STREAM secrets of this host.
    pub server_secret: [u8; 32],
    /// What the operator has said.
    pub house: HouseRows,
    /// What is known of the losses of pods, also of pods that have gone.
    pub marks: Vec<(codiusd_runtime::PodId, Marks)>,
    /// Payments with their credits.
    pub payments: Vec<(PaymentRow, Vec<CreditRow>)>,
    /// Other hosts, by their origins.
    pub peers: Vec<String>,
    /// Pods.
    pub pods: Vec<PodRecord>,
    /// Totals by asset.
    pub totals: Vec<(Asset, Totals)>,
}
