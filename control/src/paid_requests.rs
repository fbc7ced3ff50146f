//! A paid request, from its Pay-Token to its receipt.
//!
//! ```text
//! check all that can fail -> price -> state of the token's payment?
//!     money is due ............. 402 with the address to pay at
//! paid ..................... consume the payment and act, in one commit -> receipt
//! in use by a copy ......... wait for its answer
//!     used ..................... the same answer again
//! ```

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use codiusd_api_types::pods::Receipt;
use codiusd_ilp::{address::BadAddress, ildcp::Account, stream::receiver::Receiver};
use codiusd_runtime::PodId;
use tokio::{sync::watch, time};

use crate::workload::PodOrder;
use crate::{
    db::DatabaseFailed,
    money::{
        Asset, Binding, CapacityNeed, CostPerMonth, InvoiceStatus, PayToken, Payments, PaymentsError, PriceTooLarge, Tariff, Totals, price,
    },
    pod_sizes::{PodSizes, SMALL},
    pods::{PodManager, PodView, Refusal},
    request_log::paid_with,
};

/// Clients give up on a paid request after 70 s: a slower start is answered before that, with the receipt it is going to get.
const ANSWER_WITHIN: Duration = Duration::from_secs(55);

/// A price quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// In the asset's smallest unit.
    pub price: u64,
    /// The asset to pay in.
    pub asset: Asset,
}

/// How a request pays.
#[derive(Clone, Copy, Debug)]
pub struct Payment {
    /// The payer's token.
    pub token: PayToken,
    /// The request the token is bound to.
    pub binding: Binding,
}

/// The content of a `Pay` header, and the payment's progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// `interledger-stream <ILP address> <base64 of the shared secret>`.
    pub pay: String,
    /// The price, in the asset's smallest unit.
    pub required: u64,
    /// Amount received so far.
    pub received: u64,
}

/// Why a paid request gets no receipt.
#[derive(Debug, thiserror::Error)]
pub enum PaidRequestError {
    /// The payment address is invalid: the uplink gave this host an impossible address.
    #[error("the host's Interledger address is unusable")]
    Address(#[from] BadAddress),
    /// The token was used for another request, or there is no Interledger connection.
    #[error(transparent)]
    Payments(#[from] PaymentsError),
    /// Money is due.
    #[error("payment required")]
    Due(Due),
    /// The price exceeds what can be paid.
    #[error(transparent)]
    Price(#[from] PriceTooLarge),
    /// The pods refused. If `paid`, the payment is kept on its token.
    #[error("{refusal}")]
    Refused {
        /// The cause.
        #[source]
        refusal: Refusal,
        /// Whether the request had been paid for.
        paid: bool,
    },
    /// The stored answer can't be read.
    #[error("the kept answer can't be read")]
    Answer(#[from] serde_json::Error),
}

/// Takes paid requests; cheap to clone.
#[derive(Clone, Debug)]
pub struct PaidRequests {
    cost: Tariff,
    machines: PodSizes,
    payments: Arc<Payments>,
    pods: PodManager,
    receiver: Arc<Receiver>,
    account: watch::Receiver<Option<Account>>,
}

/// What to do once the request is paid.
#[derive(Clone, Debug)]
enum PaidAction {
    Extend(PodId),
    Upload(Arc<PodOrder>),
}

impl PaidAction {
    /// The capacity it needs; a running pod holds its capacity already.
    fn capacity_need(&self, seconds: NonZeroU32) -> Option<CapacityNeed> {
        match self {
            Self::Extend(_) => None,
            Self::Upload(order) => Some(CapacityNeed { pod: order.spec.id.clone(), machine: order.spec.machine, seconds: seconds.get() }),
        }
    }
}

impl PaidRequests {
    /// Sells run time for pods of the sizes in `machines`, the small one at `cost`, paid to `account` through `receiver`.
    pub fn new(
        cost: Tariff,
        machines: PodSizes,
        payments: Arc<Payments>,
        pods: PodManager,
        receiver: Arc<Receiver>,
        account: watch::Receiver<Option<Account>>,
    ) -> Self {
        Self { cost, machines, payments, pods, receiver, account }
    }

    /// The price of `seconds` of a pod of the size `machine`; asking is free.
    pub fn quote(&self, machine: &str, seconds: NonZeroU32) -> Result<Quote, PaidRequestError> {
        let asset = self.payments.asset()?;
        // A size that isn't sold any more is refused before payment; paid requests still get their stored answers.
        let size = self.machines.get(machine).unwrap_or_else(|| self.machines.small());
        Ok(Quote { price: price(self.cost.times(size.price), seconds, asset.scale)?, asset })
    }

    /// Whether an upload can be carried out now: the checks `upload` makes before it asks for money.
    pub async fn admit(&self, order: &PodOrder) -> Result<(), PaidRequestError> {
        self.pods.admit(order).await.map_err(|refusal| PaidRequestError::Refused { refusal, paid: false })
    }

    /// Runs `order` for `seconds`; extends it if it is running.
    pub async fn upload(&self, order: Arc<PodOrder>, seconds: NonZeroU32, payment: Payment) -> Result<Receipt, PaidRequestError> {
        self.carry_out(PaidAction::Upload(order), seconds, payment).await
    }

    /// Extends a running pod.
    pub async fn extend(&self, id: &PodId, seconds: NonZeroU32, payment: Payment) -> Result<Receipt, PaidRequestError> {
        self.carry_out(PaidAction::Extend(id.clone()), seconds, payment).await
    }

    /// The pod, if it is running.
    pub fn running(&self, id: &PodId) -> Result<PodView, Refusal> {
        self.pods.running(id)
    }

    /// The asset payments are received in, if connected.
    pub fn asset(&self) -> Option<Asset> {
        self.payments.asset().ok()
    }

    /// The current monthly cost of a small pod.
    pub fn cost_per_month(&self) -> CostPerMonth {
        self.cost.now()
    }

    /// Totals of each asset: received, earned, forfeited.
    pub fn totals(&self) -> Vec<(Asset, Totals)> {
        self.payments.totals()
    }

    /// The pods.
    pub fn pods(&self) -> &PodManager {
        &self.pods
    }

    async fn carry_out(&self, action: PaidAction, seconds: NonZeroU32, payment: Payment) -> Result<Receipt, PaidRequestError> {
        let quote = self.quote(&self.machine(&action), seconds)?;
        let need = action.capacity_need(seconds);
        loop {
            match self.payments.present(&payment.token, payment.binding, quote.price, &quote.asset, need.as_ref()).await? {
                InvoiceStatus::Answered(answer) => return Ok(serde_json::from_str(&answer)?),
                InvoiceStatus::Due { segment, required, received, .. } => {
                    let refused = |refusal| PaidRequestError::Refused { refusal, paid: received > 0 };
                    self.check(&action).await.map_err(refused)?;
                    return Err(PaidRequestError::Due(Due { pay: self.pay_header(&segment)?, required, received }));
                }
                // `present` waits for the copy that is being carried out: it returns this state only if no answer will ever come.
                InvoiceStatus::InProgress => {
                    return Err(PaidRequestError::Refused { refusal: Refusal::Database(DatabaseFailed), paid: true });
                }
                InvoiceStatus::Paid { segment, received } => {
                    paid_with(&segment);
                    if quote.price == 0 {
                        // A free request never went through the checks of `Due`.
                        self.check(&action).await.map_err(|refusal| PaidRequestError::Refused { refusal, paid: false })?;
                    }
                    match self.act(action.clone(), seconds.get(), segment, received > 0).await {
                        // A copy of the request consumed the payment first: return the same answer.
                        Err(PaidRequestError::Refused { refusal: Refusal::NotPaid(_), .. }) => {}
                        outcome => return outcome,
                    }
                }
            }
        }
    }

    /// Checks everything that can fail, before any money moves.
    async fn check(&self, action: &PaidAction) -> Result<(), Refusal> {
        match action {
            PaidAction::Extend(id) => {
                self.pods.open().await?;
                let order = self.pods.running(id)?.order;
                self.pods.wanted(&order)?;
                let machine = &order.machine;
                if self.machines.get(machine).is_some() { Ok(()) } else { Err(Refusal::NotSold(machine.clone())) }
            }
            PaidAction::Upload(order) => self.pods.admit(order).await,
        }
    }

    /// The pod size a request is about; `small` if there is no such pod.
    fn machine(&self, action: &PaidAction) -> String {
        match action {
            PaidAction::Extend(id) => self.pods.order(id).map_or_else(|| SMALL.to_owned(), |order| order.machine.clone()),
            PaidAction::Upload(order) => order.machine.clone(),
        }
    }

    fn pay_header(&self, segment: &str) -> Result<String, PaidRequestError> {
        let account = self.account.borrow().clone().ok_or(PaymentsError::NoAccount)?;
        let (address, secret) = self.receiver.pay_to(&account, segment)?;
        Ok(format!("interledger-stream {address} {}", secret.to_base64()))
    }

    /// Consumes the payment and acts. The manager continues when the client hangs up.
    async fn act(&self, action: PaidAction, seconds: u32, segment: String, paid: bool) -> Result<Receipt, PaidRequestError> {
        let pods = &self.pods;
        let soon = match &action {
            PaidAction::Extend(id) => self.pods.provisional(id, seconds),
            PaidAction::Upload(order) => self.pods.provisional(&order.spec.id, seconds),
        };
        let work = async {
            match action {
                PaidAction::Extend(id) => pods.extend(&id, seconds, &segment).await,
                PaidAction::Upload(order) => pods.upload(order, seconds, &segment).await,
            }
        };
        match time::timeout(ANSWER_WITHIN, work).await {
            Ok(done) => done.map_err(|refusal| PaidRequestError::Refused { refusal, paid }),
            Err(_still_starting) => Ok(soon),
        }
    }
}
