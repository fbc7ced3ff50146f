//! A client for Codius hosts (quotes, paid uploads and extensions, logs), and for the operator's listener.
//!
//! | module | what is in it |
//! |---|---|
//! | `http` | requests to a host; `*.localhost` is this machine |
//! | `operator` | requests to the operator's listener of a host on this machine |
//! | `payer` | payments for a `Pay` header |

mod http;
mod operator;
mod payer;

use std::num::NonZeroU32;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use codiusd_api_types::pods::Receipt;
use futures::Stream;
use url::Url;

pub use http::{Host, HostError};
pub(crate) use http::{read_at_most, resolve};
pub use operator::{Operator, OperatorError};
pub(crate) use payer::{LOCAL_CONNECTOR, connector};
pub use payer::{Payer, PayerError, PriceError, Spent, most_for};

use http::Answer;

/// A paid request that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The payment.
    #[error(transparent)]
    Payer(#[from] PayerError),
    /// The host still asks for money after the payment; it keeps the credit.
    #[error("the host has received {received} of {required}; repeat with --pay-token {token} to pay the rest")]
    Underpaid {
        /// What it asks for.
        required: String,
        /// What it has.
        received: String,
        /// The token that the credit is kept under.
        token: String,
    },
    /// The host was paid but refuses; it keeps the credit.
    #[error("{refusal} (repeat with --pay-token {token})")]
    PaidInVain {
        /// What the host says.
        refusal: HostError,
        /// The token that the credit is kept under.
        token: String,
    },
}

/// The action that is paid for.
#[derive(Clone, Debug)]
pub enum PaidAction {
    /// Upload this body, `{manifest, private?}`, and run it for this many seconds.
    Upload(Vec<u8>, NonZeroU32),
    /// Extend this pod by this many seconds.
    Extend(String, NonZeroU32),
}

/// Requests an action, pays for it, and repeats the request. Without a payer only free actions succeed. A random token is used if `token`
/// is none.
pub async fn pay_for(
    host: &Host,
    payer: Option<&Payer>,
    action: &PaidAction,
    token: Option<String>,
    progress: &mut (dyn FnMut(Spent) + Send),
) -> Result<Receipt, ClientError> {
    let token = token.unwrap_or_else(|| URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()));
    let due = match host.order(action, &token).await? {
        Answer::Done(receipt) => return Ok(receipt),
        Answer::Due(due) => due,
    };
    let Some(payer) = payer else {
        return Err(ClientError::Underpaid { required: due.required, received: due.received, token });
    };
    payer.pay(&due.pay, progress).await?;
    match host.order(action, &token).await {
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
