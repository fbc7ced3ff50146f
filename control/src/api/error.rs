//! The one table from errors to responses: `{statusCode, error, message}`, as in the Node codiusd.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use codiusd_api_types::error::Failure;
use codiusd_runtime::{PodId, RuntimeError, error::Fault};
use serde::Serialize;
use utoipa::ToSchema;

use super::trace::request_id;
use crate::{
    manifest::ManifestError,
    money::{BadToken, PaymentsError},
    paid_requests::{Due, PaidRequestError},
    pods::Refusal,
};

/// `Retry-After` of errors that are temporary, in seconds.
pub(super) const RETRY_AFTER: &str = "10";

/// An error's message, for a response that is turned into a page.
#[derive(Clone, Debug)]
pub(super) struct ErrorMessage(pub(super) String);

/// A payment is due.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PaymentDue {
    #[serde(flatten)]
    #[schema(inline)]
    failure: Failure,
    /// The price, in the asset's smallest unit, as decimal digits.
    required: String,
    /// The amount received so far, as decimal digits.
    received: String,
}

/// Every error of a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("Unsupported Media Type")]
    ContentType,
    #[error("Invalid content-type header")]
    ContentTypeHeader,
    #[error("pod manifest does not allow debugging. id={0}")]
    DebugNotAllowed(PodId),
    #[error("Invalid compressed payload")]
    Gzip,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("Method Not Allowed")]
    MethodNotAllowed,
    #[error("No manifest with hash of \"{0}\"")]
    NoManifest(String),
    #[error("no pod found with this id. id={0}")]
    NoPod(String),
    #[error("no pod found with id. id={0}")]
    NoPodToExtend(String),
    #[error("manifestHash must be specified")]
    NoHash,
    #[error("must supply `Pay-Token` header.")]
    NoToken,
    #[error("Not Found")]
    NotFound,
    #[error(transparent)]
    PodOrder(#[from] PaidRequestError),
    #[error("Invalid request payload JSON format: {0}")]
    Json(String),
    #[error("Invalid request payload input: {0}")]
    Payload(String),
    #[error("Invalid request query input: {0}")]
    Query(String),
    #[error("the request body can't be read")]
    Body,
    #[error("Invalid request payload input: no body is taken here")]
    UnexpectedBody,
    #[error(transparent)]
    Token(#[from] BadToken),
    #[error("Payload content length greater than maximum allowed: {0}")]
    TooLarge(usize),
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::PodOrder(PaidRequestError::Refused { refusal, paid: false })
    }
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Body
            | Self::ContentTypeHeader
            | Self::Gzip
            | Self::Json(_)
            | Self::Manifest(ManifestError::Field { .. } | ManifestError::Json(_))
            | Self::NoToken
            | Self::Payload(_)
            | Self::Query(_)
            | Self::Token(_)
            | Self::UnexpectedBody => StatusCode::BAD_REQUEST,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::DebugNotAllowed(_) => StatusCode::FORBIDDEN,
            Self::Manifest(ManifestError::Unprocessable { .. }) | Self::NoHash => StatusCode::UNPROCESSABLE_ENTITY,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoManifest(_) | Self::NoPod(_) | Self::NoPodToExtend(_) | Self::NotFound => StatusCode::NOT_FOUND,
            Self::PodOrder(order) => order_status(order),
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

impl ApiError {
    /// The span records the request, its pod and its payment.
    fn log(&self, status: StatusCode) {
        let (status, error) = (status.as_u16(), self as &dyn std::error::Error);
        match status {
            500.. => tracing::warn!(status, error, "request refused"),
            // Part of every payment, or of any stranger's scan.
            402 | 404 | 405 => tracing::debug!(status, error, "request refused"),
            _ => tracing::info!(status, error, "request refused"),
        }
    }
}

fn order_status(error: &PaidRequestError) -> StatusCode {
    match error {
        PaidRequestError::Due(_) => StatusCode::PAYMENT_REQUIRED,
        PaidRequestError::Payments(PaymentsError::OtherRequest(_)) => StatusCode::CONFLICT,
        PaidRequestError::Payments(PaymentsError::NoAccount) => StatusCode::SERVICE_UNAVAILABLE,
        PaidRequestError::Price(_) => StatusCode::BAD_REQUEST,
        PaidRequestError::Address(_) | PaidRequestError::Answer(_) => StatusCode::INTERNAL_SERVER_ERROR,
        PaidRequestError::Refused { refusal, .. } => match refusal {
            Refusal::Banned(_) => StatusCode::FORBIDDEN,
            Refusal::Changing(_)
            | Refusal::Draining
            | Refusal::Full(_)
            | Refusal::Recovering
            | Refusal::Stopped(_)
            | Refusal::TakenDown(_)
            | Refusal::Database(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Interrupted(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::NoSuchPod(_) => StatusCode::NOT_FOUND,
            Refusal::NotPaid(_) => StatusCode::CONFLICT,
            Refusal::NotSold(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Runtime(RuntimeError::NoSuchPod(_)) => StatusCode::NOT_FOUND,
            Refusal::Runtime(error) => match error.fault() {
                Fault::Image => StatusCode::UNPROCESSABLE_ENTITY,
                Fault::Request => StatusCode::BAD_REQUEST,
                Fault::Capacity | Fault::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                Fault::Host => StatusCode::INTERNAL_SERVER_ERROR,
            },
        },
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut message = self.to_string();
        self.log(status);
        if let Self::PodOrder(PaidRequestError::Refused { paid: true, .. }) = &self {
            // Some messages are full sentences, as in the Node codiusd.
            message.truncate(message.trim_end_matches('.').len());
            message += "; what was paid is kept: the same request with the same Pay-Token uses it";
        }
        let failure = |message: &str| Failure {
            status_code: status.as_u16(),
            error: status.canonical_reason().unwrap_or("Error").to_owned(),
            message: message.to_owned(),
            request_id: request_id(),
        };
        let mut response = match &self {
            Self::PodOrder(PaidRequestError::Due(due)) => asking(status, failure("Payment Required"), due),
            _ => (status, Json(failure(&message))).into_response(),
        };
        response.extensions_mut().insert(ErrorMessage(message));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

/// The response that says how much to pay, and where.
fn asking(status: StatusCode, failure: Failure, due: &Due) -> Response {
    let body = PaymentDue { failure, required: due.required.to_string(), received: due.received.to_string() };
    let mut response = (status, Json(body)).into_response();
    if let Ok(pay) = HeaderValue::from_str(&due.pay) {
        response.headers_mut().insert("pay", pay);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    /// Says who has to act, and that the payment of a failed start is kept and how to use it.
    #[tokio::test]
    async fn a_failed_start_says_whose_it_is_and_that_what_was_paid_is_kept() {
        let id = || "a".repeat(PodId::LENGTH).parse::<PodId>().unwrap();
        let (text, image) = (|| "this and that".to_owned(), || "local/x".to_owned());
        let table = [
            (RuntimeError::ImageRefused { image: image(), reason: text() }, 422),
            (RuntimeError::ImageUnavailable { image: image(), reason: text(), source: None }, 422),
            (RuntimeError::Start { id: id(), step: text(), source: None }, 422),
            (RuntimeError::ReferenceRefused { image: image(), reason: text() }, 400),
            (RuntimeError::NoSuchPod(id()), 404),
            (RuntimeError::NoRoom { what: text(), source: None }, 503),
            (RuntimeError::Busy, 503),
            (RuntimeError::Unavailable { operation: text(), source: None }, 503),
            (RuntimeError::Failed { operation: text(), source: None }, 500),
            (RuntimeError::AlreadyExists(id()), 500),
        ];
        for (error, status) in table {
            let said = error.to_string();
            let refused = PaidRequestError::Refused { refusal: Refusal::Runtime(error), paid: true };
            let response = ApiError::PodOrder(refused).into_response();
            assert_eq!(response.status().as_u16(), status, "{said}");
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 503, "{said}");
            let body = to_bytes(response.into_body(), 4096).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let kept = "; what was paid is kept: the same request with the same Pay-Token uses it";
            assert_eq!(body["message"], format!("{said}{kept}"));
        }
    }
}
