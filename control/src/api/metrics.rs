//! `/metrics`: what the whole host counts, for Prometheus. No pod is told from another in it.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};

/// The answer with all that is counted there.
pub fn shown(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
