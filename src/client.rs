//! Our own client of a Codius host: quotes, paid uploads and extensions, logs; and of its operator's listener.
//!
//! | room | what is in it |
//! |---|---|
//! | `http` | requests to a host; `*.localhost` is this machine |
//! | `operator` | requests to the operator's listener of a host on this machine |
//! | `purse` | paying what a `Pay` header asks for |

mod http;
mod operator;
mod purse;

use std::num::NonZeroU32;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::Stream;
use serde::Deserialize;
use url::Url;

pub use http::{Host, HostError};
pub(crate) use http::{read_at_most, resolve};
pub use operator::{Operator, OperatorError};
pub(crate) use purse::{LOCAL_CONNECTOR, connector};
pub use purse::{PriceError, Purse, PurseError, Spent, most_for};

use http::Answer;

/// A host's answer to OPTIONS /pods.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quote {
    /// The pod's name.
    pub manifest_hash: String,
    /// In the host's smallest unit.
    pub price: String,
    /// What the price is in, if the host says.
    pub asset_code: Option<String>,
    /// Decimal places of the smallest unit.
    pub asset_scale: Option<u8>,
}

/// A host's answer to a paid request.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Where the pod is reached.
    pub url: String,
    /// The pod's name.
    pub manifest_hash: String,
    /// Until when it runs.
    pub expiry: String,
}

/// A paid request that has no receipt.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The payment.
    #[error(transparent)]
    Purse(#[from] PurseError),
    /// It still asks for money after it was paid; what was paid is kept there.
    #[error("the host has received {received} of {required}; repeat with --pay-token {token} to pay the rest")]
    Underpaid {
        /// What it asks for.
        required: String,
        /// What it has.
        received: String,
        /// The token the payment is kept on.
        token: String,
    },
    /// It was paid and refuses all the same; what was paid is kept there.
    #[error("{refusal} (repeat with --pay-token {token})")]
    PaidInVain {
        /// What the host says.
        refusal: HostError,
        /// The token the payment is kept on.
        token: String,
    },
}

/// What is paid for.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Run what is in this body, `{manifest, private?}`, for so long.
    Upload(Vec<u8>, NonZeroU32),
    /// Let this pod run so much longer.
    Extend(String, NonZeroU32),
}

/// Asks a host to do something, pays for it, and asks again. Without a purse only what is free is done. `token` is made up if there is
/// none from an earlier try.
pub async fn pay_for(
    host: &Host,
    purse: Option<&Purse>,
    deed: &Deed,
    token: Option<String>,
    progress: &mut (dyn FnMut(Spent) + Send),
) -> Result<Receipt, ClientError> {
    let token = token.unwrap_or_else(|| URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()));
    let due = match host.order(deed, &token).await? {
        Answer::Done(receipt) => return Ok(receipt),
        Answer::Due(due) => due,
    };
    let Some(purse) = purse else {
        return Err(ClientError::Underpaid { required: due.required, received: due.received, token });
    };
    purse.pay(&due.pay, progress).await?;
    match host.order(deed, &token).await {
        Ok(Answer::Done(receipt)) => Ok(receipt),
        Ok(Answer::Due(due)) => Err(ClientError::Underpaid { required: due.required, received: due.received, token }),
        Err(refusal) => Err(ClientError::PaidInVain { refusal, token }),
    }
}

/// The lines of a pod's log, as they come.
pub async fn logs(host: &Host, hash: &str, follow: bool) -> Result<impl Stream<Item = Result<Vec<u8>, HostError>>, HostError> {
    host.logs(hash, follow).await
}

/// A host's URL; one without a scheme is https.
pub fn host_url(text: &str) -> Option<Url> {
    let url: Url = if text.contains("://") { text.parse().ok()? } else { format!("https://{text}").parse().ok()? };
    (matches!(url.scheme(), "http" | "https") && url.host_str().is_some()).then_some(url)
}
