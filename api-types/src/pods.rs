//! Quotes and receipts of the public API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The price of run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quote {
    /// The pod's name.
    pub manifest_hash: String,
    /// In the asset's smallest unit, as decimal digits.
    pub price: String,
    /// The asset to pay in. The Node codiusd omits it.
    pub asset_code: Option<String>,
    /// Decimal places of the smallest unit. The Node codiusd omits it.
    pub asset_scale: Option<u8>,
    /// The run time, in seconds. The Node codiusd omits it.
    pub duration: Option<u32>,
}

/// The answer to a paid request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The pod's URL.
    pub url: String,
    /// Its name.
    pub manifest_hash: String,
    /// When it expires, ISO 8601 with milliseconds.
    pub expiry: String,
}
