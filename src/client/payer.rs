//! Payments for a `Pay` header, through a connector.

use codiusd_ilp::{
    address::Address,
    btp::client::{AccountError, BtpLink, BtpUrl, ConnectError},
    ildcp::Account,
    stream::{
        crypto::SharedSecret,
        sender::{SendError, send},
    },
};

use codiusd_api_types::pods::Quote;

/// Default tolerance above the quoted price, in per cent.
const TOLERANCE_PERCENT: u128 = 1;
/// The default connector, as in `codius` and `ilp-fetch`.
pub(crate) const LOCAL_CONNECTOR: &str = "localhost:7768";

/// A payment that failed.
#[derive(Debug, thiserror::Error)]
pub enum PayerError {
    /// There is no connector.
    #[error("no Interledger connection; start moneyd, or set ILP_CREDENTIALS")]
    Connect(#[from] ConnectError),
    /// The connector doesn't return our account.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The Pay header has an unsupported format.
    #[error("the host's Pay header isn't interledger-stream with an address and a secret")]
    PayHeader,
    /// The payment didn't get through.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// A price that can't be converted into the payer's asset.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// It isn't a number.
    #[error("the host's price isn't a number")]
    NoNumber,
    /// It is in another asset than the payer's.
    #[error("the host is paid in {host}, you pay in {payer}: say with --max-price what you'd spend")]
    OtherAsset {
        /// The asset of the host.
        host: String,
        /// The asset of the payer.
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
    /// The limit.
    pub max: u64,
    /// Decimal places of the unit.
    pub scale: u8,
}

/// A connection to pay from, and a limit.
#[derive(Debug)]
pub struct Payer {
    link: BtpLink,
    account: Account,
    max: u64,
}

impl Payer {
    /// Connects to the connector of `url`, or to the one on this machine.
    pub async fn open(url: Option<BtpUrl>) -> Result<Self, PayerError> {
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

    /// Limits each payment from now on to `max` of our smallest unit.
    pub fn limit(&mut self, max: u64) {
        self.max = max;
    }

    /// Pays the amount that the receiver in the header accepts, up to the limit.
    pub(super) async fn pay(&self, header: &str, progress: &mut (dyn FnMut(Spent) + Send)) -> Result<u64, PayerError> {
        let words: Vec<&str> = header.split(' ').collect();
        let ["interledger-stream", address, secret] = words.as_slice() else { return Err(PayerError::PayHeader) };
        let address: Address = address.parse().map_err(|_| PayerError::PayHeader)?;
        let secret = SharedSecret::from_base64(secret).map_err(|_| PayerError::PayHeader)?;
        let (max, scale) = (self.max, self.account.asset_scale);
        let mut told = |delivery: &codiusd_ilp::stream::sender::Delivery| progress(Spent { sent: delivery.sent, max, scale });
        Ok(send(&self.link, &self.account, &address, &secret, max, &mut told).await?.sent)
    }
}

/// The URL of a connector without TLS, with a secret in hex digits.
pub(crate) fn connector(server: &str, secret: &str) -> BtpUrl {
    format!("btp+ws://:{secret}@{server}").parse().unwrap_or_else(|_| unreachable!("hex digits and an address make a valid URL"))
}

/// The quoted price plus the tolerance, in the payer's own unit.
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
            duration: None,
        };
        let account = |scale| Account { address: "private.a".parse().unwrap(), asset_code: "XRP".to_owned(), asset_scale: scale };
        assert_eq!(most_for(&quote("1000", "XRP", 9), &account(9)).unwrap(), 1010);
        assert_eq!(most_for(&quote("1000", "XRP", 9), &account(6)).unwrap(), 2);
        assert_eq!(most_for(&quote("1000", "XRP", 6), &account(9)).unwrap(), 1_010_000);
        assert!(most_for(&quote("1000", "USD", 9), &account(9)).unwrap_err().to_string().contains("--max-price"));
    }
}
