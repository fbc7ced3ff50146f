//! Errors of both APIs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The HTTP status.
    pub status_code: u16,
    /// The name of the status.
    pub error: String,
    /// What is wrong, and in which field.
    pub message: String,
    /// The request id, as in the host's log; absent in the operator's API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}
