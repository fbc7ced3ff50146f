//! `/metrics`: what the whole host counts, for Prometheus. No pod is told from another in it.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};

use super::{Api, error::ApiError};

/// What the whole host counts
#[utoipa::path(get, path = "/metrics", tag = "host", responses((status = 200, description = "For Prometheus", content_type = "text/plain", body = String)))]
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    api.config.metrics.as_ref().map(|metrics| shown(&[metrics])).ok_or(ApiError::NotFound)
}

/// The answer with all that is counted there.
pub fn shown(registries: &[&Registry]) -> Response {
    let families: Vec<_> = registries.iter().flat_map(|registry| registry.gather()).collect();
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
