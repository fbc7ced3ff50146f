//! A paid request, from its Pay-Token to its receipt.
//!
//! ```text
//! check all that can fail -> price -> where does the token stand?
//!     money is due ............. 402 with the address to pay at
//!     paid ..................... use the payment up and act, in one commit -> receipt
//!     being used by a copy ..... wait for its answer
//!     used ..................... the same answer again
//! ```

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use codiusd_ilp::{address::BadAddress, ildcp::Account, stream::receiver::Receiver};
use codiusd_runtime::PodId;
use tokio::{sync::watch, time};

use crate::{
    api::trace::paid_with,
    machines::{Machines, SMALL},
    pay::{Asset, Binding, CostPerMonth, Desk, DeskError, PayToken, Place, PriceTooLarge, Standing, Tariff, price},
    pods::{Keeper, Order, PodView, Receipt, Refusal},
    store::{StoreFailed, Totals},
};

/// Clients give up on a paid request after 70 s: a pod that takes longer to start is answered for before.
const ANSWER_WITHIN: Duration = Duration::from_secs(55);

/// What run time costs here now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// In the asset's smallest unit.
    pub price: u64,
    /// What is to be paid in.
    pub asset: Asset,
}

/// How a request is paid for.
#[derive(Clone, Copy, Debug)]
pub struct Payment {
    /// The payer's token.
    pub token: PayToken,
    /// The request the token is bound to.
    pub binding: Binding,
}

/// What a `Pay` header says, and how far a payment has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// `interledger-stream <ILP address> <base64 of the shared secret>`.
    pub pay: String,
    /// The price, in the asset's smallest unit.
    pub required: u64,
    /// What has been received of it.
    pub received: u64,
}

/// Why a paid request has no receipt.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Where to pay can't be said: the uplink gave this host an impossible address.
    #[error("the host's Interledger address is unusable")]
    Address(#[from] BadAddress),
    /// The token or the connection.
    #[error(transparent)]
    Desk(#[from] DeskError),
    /// Money is due.
    #[error("payment required")]
    Due(Due),
    /// It costs more than can be paid.
    #[error(transparent)]
    Price(#[from] PriceTooLarge),
    /// The pod. If `paid`, the payment is kept on its token.
    #[error("{refusal}")]
    Refused {
        /// The cause.
        #[source]
        refusal: Refusal,
        /// Whether the request had been paid for.
        paid: bool,
    },
    /// The answer that was kept can't be read.
    #[error("the kept answer can't be read")]
    Answer(#[from] serde_json::Error),
}

/// Takes paid requests; cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders {
    cost: Tariff,
    machines: Machines,
    desk: Arc<Desk>,
    keeper: Keeper,
    receiver: Arc<Receiver>,
    account: watch::Receiver<Option<Account>>,
}

/// What is to be done once it is paid.
#[derive(Clone, Debug)]
enum Deed {
    Extend(PodId),
    Upload(Arc<Order>),
}

impl Deed {
    /// What it needs of the machine; a pod that runs has its place.
    fn place(&self, seconds: NonZeroU32) -> Option<Place> {
        match self {
            Self::Extend(_) => None,
            Self::Upload(order) => Some(Place { pod: order.spec.id.clone(), machine: order.spec.machine, seconds: seconds.get() }),
        }
    }
}

impl Orders {
    /// Takes requests for pods of the sizes of `machines`, of which the small one costs `cost`, paid to `account` through `receiver`.
    pub fn new(
        cost: Tariff,
        machines: Machines,
        desk: Arc<Desk>,
        keeper: Keeper,
        receiver: Arc<Receiver>,
        account: watch::Receiver<Option<Account>>,
    ) -> Self {
        Self { cost, machines, desk, keeper, receiver, account }
    }

    /// The price of `seconds` of a pod of the size `machine`, free and without obligation.
    pub fn quote(&self, machine: &str, seconds: NonZeroU32) -> Result<Quote, OrderError> {
        let asset = self.desk.asset()?;
        // One that isn't sold any more is refused before it is paid for, but its paid requests are still answered.
        let size = self.machines.get(machine).unwrap_or_else(|| self.machines.small());
        Ok(Quote { price: price(self.cost.times(size.price), seconds, asset.scale)?, asset })
    }

    /// Whether an upload could be carried out now; what `upload` checks before it asks for money.
    pub async fn admit(&self, order: &Order) -> Result<(), OrderError> {
        self.keeper.admit(order).await.map_err(|refusal| OrderError::Refused { refusal, paid: false })
    }

    /// Runs `order` for `seconds`, or longer if it runs already.
    pub async fn upload(&self, order: Arc<Order>, seconds: NonZeroU32, payment: Payment) -> Result<Receipt, OrderError> {
        self.carry_out(Deed::Upload(order), seconds, payment).await
    }

    /// Lets a pod that runs run longer.
    pub async fn extend(&self, id: &PodId, seconds: NonZeroU32, payment: Payment) -> Result<Receipt, OrderError> {
        self.carry_out(Deed::Extend(id.clone()), seconds, payment).await
    }

    /// The pod, if it runs.
    pub fn running(&self, id: &PodId) -> Result<PodView, Refusal> {
        self.keeper.running(id)
    }

    /// What payments are received in, if that is known.
    pub fn asset(&self) -> Option<Asset> {
        self.desk.asset().ok()
    }

    /// What a small pod costs for a month, now.
    pub fn cost_per_month(&self) -> CostPerMonth {
        self.cost.now()
    }

    /// What was received in each asset, and what became of it.
    pub fn totals(&self) -> Vec<(Asset, Totals)> {
        self.desk.totals()
    }

    /// The pods.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    async fn carry_out(&self, deed: Deed, seconds: NonZeroU32, payment: Payment) -> Result<Receipt, OrderError> {
        let quote = self.quote(&self.machine(&deed), seconds)?;
        let place = deed.place(seconds);
        loop {
            match self.desk.present(&payment.token, payment.binding, quote.price, &quote.asset, place.as_ref()).await? {
                Standing::Answered(answer) => return Ok(serde_json::from_str(&answer)?),
                Standing::Due { segment, required, received, .. } => {
                    let refused = |refusal| OrderError::Refused { refusal, paid: received > 0 };
                    self.check(&deed).await.map_err(refused)?;
                    return Err(OrderError::Due(Due { pay: self.pay_header(&segment)?, required, received }));
                }
                // A copy of the request waits in `present` for the answer: it only gets here if that will never come.
                Standing::InProgress => return Err(OrderError::Refused { refusal: Refusal::Store(StoreFailed), paid: true }),
                Standing::Paid { segment } => {
                    paid_with(&segment);
                    if quote.price == 0 {
                        // Nobody was asked for money, so nothing was looked at before.
                        self.check(&deed).await.map_err(|refusal| OrderError::Refused { refusal, paid: false })?;
                    }
                    match self.act(deed.clone(), seconds.get(), segment).await {
                        // A copy of the request was faster between the two looks at the payment: its answer is ours, too.
                        Err(OrderError::Refused { refusal: Refusal::NotPaid(_), .. }) => {}
                        outcome => return outcome,
                    }
                }
            }
        }
    }

    /// All that can fail, before any money moves.
    async fn check(&self, deed: &Deed) -> Result<(), Refusal> {
        match deed {
            Deed::Extend(id) => {
                self.keeper.open().await?;
                let order = self.keeper.running(id)?.order;
                self.keeper.wanted(&order)?;
                let machine = &order.machine;
                if self.machines.get(machine).is_some() { Ok(()) } else { Err(Refusal::NotSold(machine.clone())) }
            }
            Deed::Upload(order) => self.keeper.admit(order).await,
        }
    }

    /// The size of the pod a request is about; any, if there is no such pod.
    fn machine(&self, deed: &Deed) -> String {
        match deed {
            Deed::Extend(id) => self.keeper.order(id).map_or_else(|| SMALL.to_owned(), |order| order.machine.clone()),
            Deed::Upload(order) => order.machine.clone(),
        }
    }

    fn pay_header(&self, segment: &str) -> Result<String, OrderError> {
        let account = self.account.borrow().clone().ok_or(DeskError::NoAccount)?;
        let (address, secret) = self.receiver.pay_to(&account, segment)?;
        Ok(format!("interledger-stream {address} {}", secret.to_base64()))
    }

    /// Uses the payment. The keeper goes on with it when a client hangs up.
    async fn act(&self, deed: Deed, seconds: u32, segment: String) -> Result<Receipt, OrderError> {
        let keeper = &self.keeper;
        let soon = match &deed {
            Deed::Extend(id) => self.keeper.provisional(id, seconds),
            Deed::Upload(order) => self.keeper.provisional(&order.spec.id, seconds),
        };
        let work = async {
            match deed {
                Deed::Extend(id) => keeper.extend(&id, seconds, &segment).await,
                Deed::Upload(order) => keeper.upload(order, seconds, &segment).await,
            }
        };
        match time::timeout(ANSWER_WITHIN, work).await {
            Ok(done) => done.map_err(|refusal| OrderError::Refused { refusal, paid: true }),
            Err(_still_starting) => Ok(soon),
        }
    }
}
