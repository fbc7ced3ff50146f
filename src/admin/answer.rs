//! Reads bodies, and maps all errors to answers: `{statusCode, error, message}`.

use axum::{
    Json,
    body::Bytes,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use codiusd_api_types::error::Failure;
use codiusd_control::{
    db::DatabaseFailed,
    operator::BadImage,
    pods::{BanError, Refusal},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// All errors of requests.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error(transparent)]
    Ban(#[from] BanError),
    #[error("pods are being stopped already; ask again later")]
    Busy,
    #[error("Unsupported Media Type")]
    ContentType,
    #[error("requests of web pages, and for another Host than localhost or 127.0.0.1, are refused")]
    Foreign,
    #[error("Invalid request payload JSON format")]
    Json,
    #[error("the filter of the log can't be changed")]
    Log,
    #[error("Method Not Allowed")]
    Method,
    #[error("missing manifestHash")]
    NoHash,
    #[error("no pod found with id. id={0}")]
    NoPod(String),
    #[error("the self-test is off (self_test.enabled, CODIUS_SELF_TEST)")]
    NoSelfTest,
    #[error("it isn't banned")]
    NotBanned,
    #[error("no self-test has ended yet")]
    NotTested,
    #[error("the self-test was broken off")]
    Interrupted,
    #[error("Not Found")]
    NotFound,
    #[error("Invalid request payload: {0}")]
    Payload(String),
    #[error(transparent)]
    Database(#[from] DatabaseFailed),
}

impl From<BadImage> for AdminError {
    fn from(bad: BadImage) -> Self {
        Self::Payload(format!("image: {bad}"))
    }
}

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSuchPod(id) => Self::NoPod(id.to_string()),
            other => Self::Payload(other.to_string()),
        }
    }
}

impl AdminError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Ban(BanError::Full) => StatusCode::CONFLICT,
            Self::Ban(BanError::Database(_)) | Self::Busy | Self::Database(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Foreign => StatusCode::FORBIDDEN,
            Self::Json | Self::NoHash | Self::Payload(_) => StatusCode::BAD_REQUEST,
            Self::Interrupted | Self::Log => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoPod(_) | Self::NoSelfTest | Self::NotBanned | Self::NotFound | Self::NotTested => StatusCode::NOT_FOUND,
        }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = self.status();
        let error = status.canonical_reason().unwrap_or_default().to_owned();
        (status, Json(Failure { status_code: status.as_u16(), error, message: self.to_string(), request_id: None })).into_response()
    }
}

/// Reads a JSON object. A body without a content type counts as JSON, as in the Node codiusd; a form, which a web page may send
/// without a preflight, is rejected.
pub(super) fn object<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, AdminError> {
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    let is_json = kind.is_none_or(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Err(AdminError::ContentType);
    }
    let value: Value =
        if body.is_empty() { Value::Object(Map::new()) } else { serde_json::from_slice(body).map_err(|_| AdminError::Json)? };
    if !value.is_object() {
        return Err(AdminError::Payload("an object is wanted".to_owned()));
    }
    serde_json::from_value(value).map_err(|error| AdminError::Payload(error.to_string()))
}
