//! `/openapi.json`: the whole API for programs, made of the handlers and the types they answer with.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use utoipa::OpenApi;

use super::Api;

/// The document's fixed part; paths come from the router.
#[derive(OpenApi)]
#[openapi(
    info(title = "Codius host", description = "Runs containers for whoever pays for their time over Interledger."),
    tags(
        (name = "pods", description = "Quotes, paid uploads and extensions, and what runs"),
        (name = "host", description = "What this host is"),
        (name = "peers", description = "Other hosts"),
    ),
)]
pub(super) struct Document;

/// Returns the OpenAPI document of this API
#[utoipa::path(get, path = "/openapi.json", tag = "host", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn document(State(api): State<Arc<Api>>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], api.document.clone()).into_response()
}
