//! `/metrics`: metrics of the whole host, for Prometheus. They don't identify pods.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};

use super::{Api, error::ApiError};

/// Returns the metrics of the whole host
#[utoipa::path(get, path = "/metrics", tag = "host", responses((status = 200, description = "Prometheus text", content_type = "text/plain", body = String)))]
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    api.config.metrics.as_ref().map(|metrics| shown(&[metrics])).ok_or(ApiError::NotFound)
}

/// The response with all metrics.
pub fn shown(registries: &[&Registry]) -> Response {
    let families: Vec<_> = registries.iter().flat_map(|registry| registry.gather()).collect();
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics not encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
