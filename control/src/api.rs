//! The HTTP of the office. It listens on a unix socket; the front door passes on what isn't for a pod.
//!
//! | room | what is in it |
//! |---|---|
//! | `pods` | `/pods`: quote, upload, extension, state |
//! | `logs` | `/pods/{hash}/logs` |
//! | `request` | bodies, query strings and headers of requests |
//! | `error` | the one table from errors to answers |

mod error;
mod logs;
mod pods;
mod request;

use std::{num::NonZeroU32, sync::Arc};

use axum::{
    Json, Router,
    http::{HeaderValue, header},
    middleware::map_response,
    response::Response,
    routing::get,
};
use serde::Serialize;
use tokio::net::UnixListener;

use crate::{manifest::Rules, orders::Orders};
use error::ApiError;

/// What the API works with.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where visitors reach this host, as pods are told it.
    pub public_uri: String,
    /// What this host runs.
    pub rules: Rules,
    /// Run time of an upload that doesn't say, in seconds.
    pub duration_default: NonZeroU32,
    /// Longest run time bought at once, in seconds.
    pub duration_max: NonZeroU32,
}

#[derive(Debug)]
struct Api {
    config: ApiConfig,
    orders: Orders,
}

/// Serves the API until `stop` is done; requests under way are finished.
pub async fn serve(
    listener: UnixListener,
    config: ApiConfig,
    orders: Orders,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(config, orders)).with_graceful_shutdown(stop).await
}

fn router(config: ApiConfig, orders: Orders) -> Router {
    let pods = get(pods::state).post(pods::upload).put(pods::extend).options(pods::quote);
    Router::new()
        .route("/pods", pods)
        .route("/pods/{hash}/logs", get(logs::logs))
        .route("/version", get(version))
        .fallback(|| async { ApiError::NotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(map_response(common_headers))
        .with_state(Arc::new(Api { config, orders }))
}

/// Answers change all the time, and web pages may read them.
async fn common_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Pay"));
    if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json") {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    }
    response
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}

async fn version() -> Json<Version> {
    Json(Version { name: "Codiusd (Rust)", version: env!("CARGO_PKG_VERSION") })
}
