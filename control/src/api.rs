//! The HTTP of the office. It listens on a unix socket; the front door passes on what isn't for a pod.
//!
//! | room | what is in it |
//! |---|---|
//! | `pods` | `/pods`: quote, upload, extension, state |
//! | `logs` | `/pods/{hash}/logs` |
//! | `metrics` | `/metrics`, if everybody may see it |
//! | `info` | `/info`, `/memory` |
//! | `health` | `/healthz`, `/readyz` |
//! | `gate` | what waits until the host has passed its own test |
//! | `document` | `/openapi.json` |
//! | `peers` | `/peers`, `/peers/discover` |
//! | `page` | `/`, and errors as pages |
//! | `request` | bodies, query strings and headers of requests |
//! | `trace` | ids of requests, and what is logged on their behalf |
//! | `answer` | what every answer passes on its way out |
//! | `error` | the one table from errors to answers |

mod answer;
mod document;
mod error;
mod gate;
mod health;
mod info;
mod logs;
mod metrics;
mod page;
mod peers;
mod pods;
mod request;
pub(crate) mod trace;

use std::{io, num::NonZeroU32, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    middleware::{from_fn, from_fn_with_state},
};
use bytes::Bytes;
use serde::Serialize;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{manifest::Rules, orders::Orders, pay::Tariff, peers::Peers};
use document::Document;
use error::ApiError;
pub use gate::{Gate, GateToken, SelfTestStats};
pub use metrics::shown;

/// What the API works with.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Cancelled when the host begins to stop: it isn't ready from then on, and logs that are followed end.
    pub draining: CancellationToken,
    /// Opens when the host has passed its own test.
    pub gate: Gate,
    /// What is shown at `/metrics`; none: there is no such path.
    pub metrics: Option<prometheus::Registry>,
    /// Whether everybody is told how many pods run, and whom this host knows.
    pub additional_host_info: bool,
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
    /// OpenAPI, as JSON.
    document: Bytes,
    started: Instant,
}

/// Serves the API until `stop` is done; requests under way are finished.
pub async fn serve(
    listener: UnixListener,
    config: ApiConfig,
    orders: Orders,
    peers: Peers,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(config, orders, peers)?).with_graceful_shutdown(stop).await
}

/// Every route, and the document that tells of them.
fn routes(public_metrics: bool) -> OpenApiRouter<Arc<Api>> {
    let router = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(page::index))
        .routes(routes!(pods::state, pods::upload, pods::extend, pods::quote))
        .routes(routes!(logs::logs))
        .routes(routes!(peers::list))
        .routes(routes!(peers::discover))
        .routes(routes!(info::info))
        .routes(routes!(info::memory))
        .routes(routes!(version))
        .routes(routes!(health::healthy))
        .routes(routes!(health::ready))
        .routes(routes!(document::document));
    if public_metrics { router.routes(routes!(metrics::metrics)) } else { router }
}

fn router(config: ApiConfig, orders: Orders, peers: Peers) -> io::Result<Router> {
    let (router, document) = routes(config.metrics.is_some()).split_for_parts();
    let document = document.to_json().map_err(io::Error::other)?.into();
    let api = Arc::new(Api { config, orders, peers, document, started: Instant::now() });
    let router = router
        .fallback(|| async { ApiError::NotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(from_fn_with_state(api.clone(), gate::pass))
        .layer(from_fn(answer::finish))
        .layer(from_fn(trace::trace))
        .with_state(api);
    Ok(router)
}

/// What answers.
#[derive(Clone, Copy, Serialize, ToSchema)]
struct Version {
    /// The program.
    name: &'static str,
    /// Its version.
    version: &'static str,
}

/// What program this is
#[utoipa::path(get, path = "/version", tag = "host", responses((status = 200, description = "Its name and version", body = Version)))]
async fn version() -> Json<Version> {
    Json(VERSION)
}

/// What we are.
const VERSION: Version = Version { name: "Codiusd (Rust)", version: env!("CARGO_PKG_VERSION") };

#[cfg(test)]
mod tests;
