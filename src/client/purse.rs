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

use super::Quote;

/// Over the quoted price, in per cent, unless something else is said: what hosts may take too much.
const TOLERANCE_PERCENT: u128 = 1;
/// Where `codius` and `ilp-fetch` look for a connector, too.
pub(crate) const LOCAL_CONNECTOR: &str = "localhost:7768";

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

/// A price that can't be paid as it stands.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// It is no number.
    #[error("the host's price isn't a number")]
    NoNumber,
    /// It is in something else than the payer has.
    #[error("the host is paid in {host}, you pay in {payer}: say with --max-price what you'd spend")]
    OtherAsset {
        /// What the host is paid in.
        host: String,
        /// What the payer has.
        payer: String,
    },
    /// It has too many digits.
    #[error("the host's price doesn't fit into an Interledger amount")]
    TooLarge,
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
            None => connector(LOCAL_CONNECTOR, &hex::encode(rand::random::<[u8; 16]>())),
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

/// A connector that speaks without TLS, for whoever has this secret, which is hex digits.
pub(crate) fn connector(server: &str, secret: &str) -> BtpUrl {
    format!("btp+ws://:{secret}@{server}").parse().unwrap_or_else(|_| unreachable!("hex digits and an address make a valid URL"))
}

/// The quoted price and a little more, in the payer's own unit.
pub fn most_for(quote: &Quote, account: &Account) -> Result<u64, PriceError> {
    let price: u128 = quote.price.parse().map_err(|_| PriceError::NoNumber)?;
    let scale = quote.asset_scale.unwrap_or(account.asset_scale);
    if let Some(host) = quote.asset_code.as_ref().filter(|code| **code != account.asset_code) {
        return Err(PriceError::OtherAsset { host: host.clone(), payer: account.asset_code.clone() });
    }
    let most = price.checked_mul(100 + TOLERANCE_PERCENT).map(|hundredths| hundredths.div_ceil(100));
    let factor = |more: u8| 10_u128.checked_pow(u32::from(more));
    let up = factor(account.asset_scale.saturating_sub(scale)).zip(most).and_then(|(factor, most)| most.checked_mul(factor));
    let down = factor(scale.saturating_sub(account.asset_scale));
    let most = up.zip(down).and_then(|(most, divisor)| u64::try_from(most.div_ceil(divisor)).ok());
    most.ok_or(PriceError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_quote_and_one_per_cent_in_our_own_unit() {
        let quote = |price: &str, code: &str, scale| Quote {
            manifest_hash: String::new(),
            price: price.to_owned(),
            asset_code: Some(code.to_owned()),
            asset_scale: Some(scale),
        };
        let account = |scale| Account { address: "private.a".parse().unwrap(), asset_code: "XRP".to_owned(), asset_scale: scale };
        assert_eq!(most_for(&quote("1000", "XRP", 9), &account(9)).unwrap(), 1010);
        assert_eq!(most_for(&quote("1000", "XRP", 9), &account(6)).unwrap(), 2);
        assert_eq!(most_for(&quote("1000", "XRP", 6), &account(9)).unwrap(), 1_010_000);
        assert!(most_for(&quote("1000", "USD", 9), &account(9)).unwrap_err().to_string().contains("--max-price"));
    }
}
