//! Paying what a `Pay` header asks for, through a connector.

use codiusd_ilp::{
    address::Address,
    btp::client::{AccountError, BtpLink, BtpUrl, ConnectError},
    ildcp::Account,
    stream::{
        crypto::SharedSecret,
        sender::{SendError, send},
    },
};

/// Where `codius` and `ilp-fetch` look for a connector, too.
const LOCAL_CONNECTOR: &str = "localhost:7768";

/// A payment that wasn't made.
#[derive(Debug, thiserror::Error)]
pub enum PurseError {
    /// There is no connector.
    #[error("no Interledger connection; start moneyd, or set ILP_CREDENTIALS")]
    Connect(#[from] ConnectError),
    /// The connector doesn't tell who we are.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The header isn't one that can be paid.
    #[error("the host's Pay header isn't interledger-stream with an address and a secret")]
    PayHeader,
    /// The payment didn't get through.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// How far a payment has come, in the payer's units.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Sent so far.
    pub sent: u64,
    /// At most this is sent.
    pub max: u64,
    /// Decimal places of the unit.
    pub scale: u8,
}

/// A connection to pay from, and a limit.
#[derive(Debug)]
pub struct Purse {
    link: BtpLink,
    account: Account,
    max: u64,
}

impl Purse {
    /// Connects to the connector of `url`, or to the one on this machine.
    pub async fn open(url: Option<BtpUrl>) -> Result<Self, PurseError> {
        let url = match url {
            Some(url) => url,
            None => {
                let secret = hex::encode(rand::random::<[u8; 16]>());
                let local = format!("btp+ws://:{secret}@{LOCAL_CONNECTOR}").parse();
                local.unwrap_or_else(|_| unreachable!("hex digits make a valid URL"))
            }
        };
        let link = BtpLink::connect(&url).await?;
        let account = link.account().await?;
        Ok(Self { link, account, max: 0 })
    }

    /// Our own address and asset.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Spends at most `max` of our smallest unit on what is paid from now on.
    pub fn limit(&mut self, max: u64) {
        self.max = max;
    }

    /// Pays what the header asks for, up to the limit.
    pub(super) async fn pay(&self, header: &str, progress: &mut (dyn FnMut(Spent) + Send)) -> Result<u64, PurseError> {
        let words: Vec<&str> = header.split(' ').collect();
        let ["interledger-stream", address, secret] = words.as_slice() else { return Err(PurseError::PayHeader) };
        let address: Address = address.parse().map_err(|_| PurseError::PayHeader)?;
        let secret = SharedSecret::from_base64(secret).map_err(|_| PurseError::PayHeader)?;
        let (max, scale) = (self.max, self.account.asset_scale);
        let mut told = |delivery: &codiusd_ilp::stream::sender::Delivery| progress(Spent { sent: delivery.sent, max, scale });
        Ok(send(&self.link, &self.account, &address, &secret, max, &mut told).await?.sent)
    }
}
