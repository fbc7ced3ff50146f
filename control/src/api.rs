//! The HTTP of the office. It listens on a unix socket; the front door passes on what isn't for a pod.
//!
//! | room | what is in it |
//! |---|---|
//! | `pods` | `/pods`: quote, upload, extension, state |
//! | `logs` | `/pods/{hash}/logs` |
//! | `metrics` | `/metrics`, if everybody may see it |
//! | `info` | `/info`, `/memory` |
//! | `peers` | `/peers`, `/peers/discover` |
//! | `page` | `/`, and errors as pages |
//! | `request` | bodies, query strings and headers of requests |
//! | `answer` | what every answer passes on its way out |
//! | `error` | the one table from errors to answers |

mod answer;
mod error;
mod info;
mod logs;
mod metrics;
mod page;
mod peers;
mod pods;
mod request;

use std::{num::NonZeroU32, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    middleware::from_fn,
    routing::{get, post},
};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::{manifest::Rules, orders::Orders, pay::Tariff, peers::Peers};
use error::ApiError;
pub use metrics::shown;

/// What the API works with.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Cancelled when the host stops: logs that are followed end then.
    pub draining: CancellationToken,
    /// What is shown at `/metrics`; none: there is no such path.
    pub metrics: Option<prometheus::Registry>,
    /// Where visitors reach this host, as pods are told it.
    pub public_uri: String,
    /// What a small pod costs for a month.
    pub cost_per_month: Tariff,
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
    peers: Peers,
    started: Instant,
}

/// Serves the API until `stop` is done; requests under way are finished.
pub async fn serve(
    listener: UnixListener,
    config: ApiConfig,
    orders: Orders,
    peers: Peers,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(config, orders, peers)).with_graceful_shutdown(stop).await
}

fn router(config: ApiConfig, orders: Orders, peers: Peers) -> Router {
    let pods = get(pods::state).post(pods::upload).put(pods::extend).options(pods::quote);
    let public = match config.metrics.clone() {
        Some(registry) => Router::new().route("/metrics", get(async move || shown(&registry))),
        None => Router::new(),
    };
    public
        .route("/", get(page::index))
        .route("/pods", pods)
        .route("/pods/{hash}/logs", get(logs::logs))
        .route("/peers", get(peers::list))
        .route("/peers/discover", post(peers::discover))
        .route("/info", get(info::info))
        .route("/memory", get(info::memory))
        .route("/version", get(version))
        .fallback(|| async { ApiError::NotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(from_fn(answer::finish))
        .with_state(Arc::new(Api { config, orders, peers, started: Instant::now() }))
}

#[derive(Clone, Copy, Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}

async fn version() -> Json<Version> {
    Json(VERSION)
}

/// What we are.
const VERSION: Version = Version { name: "Codiusd (Rust)", version: env!("CARGO_PKG_VERSION") };

#[cfg(test)]
mod tests;
