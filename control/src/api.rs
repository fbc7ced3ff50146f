//! The HTTP API of the control plane. It listens on a unix socket; the edge forwards every request that isn't for a pod.
//!
//! | module | what is in it |
//! |---|---|
//! | `pods` | `/pods`: quote, upload, extension, state |
//! | `logs` | `/pods/{hash}/logs` |
//! | `metrics` | `/metrics`, if public |
//! | `info` | `/info`, `/memory` |
//! | `health` | `/healthz`, `/readyz` |
//! | `self_test_gate` | refuses some requests until the host has passed its self-test |
//! | `document` | `/openapi.json` |
//! | `peers` | `/peers`, `/peers/discover` |
//! | `page` | `/`, and errors as pages |
//! | `request` | bodies, query strings and headers of requests |
//! | `trace` | request ids, and the span of each request's log lines |
//! | `answer` | what applies to every response |
//! | `error` | the one table from errors to responses |

mod answer;
mod document;
mod error;
mod health;
mod info;
mod logs;
mod metrics;
mod page;
mod peers;
mod pods;
mod request;
mod self_test_gate;
mod trace;

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

use crate::{manifest::Rules, money::Tariff, paid_requests::PaidRequests, peers::Peers};
use document::Document;
use error::ApiError;
pub use metrics::shown;
pub use self_test_gate::{SelfTestGate, SelfTestStats, SelfTestToken};

/// What the API works with.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Cancelled when the host begins to stop: from then on it isn't ready, and followed logs end.
    pub draining: CancellationToken,
    /// Opens when the host has passed its self-test.
    pub gate: SelfTestGate,
    /// Source of `/metrics`; none: the path doesn't exist.
    pub metrics: Option<prometheus::Registry>,
    /// Whether the number of pods and the known hosts are public.
    pub additional_host_info: bool,
    /// Where visitors reach this host; pods get it, too.
    pub public_uri: String,
    /// The monthly cost of a small pod.
    pub cost_per_month: Tariff,
    /// What this host runs.
    pub rules: Rules,
    /// Run time of an upload that names none, in seconds.
    pub duration_default: NonZeroU32,
    /// Longest run time bought at once, in seconds.
    pub duration_max: NonZeroU32,
}

#[derive(Debug)]
struct Api {
    config: ApiConfig,
    paid_requests: PaidRequests,
    peers: Peers,
    /// The OpenAPI document, as JSON.
    document: Bytes,
    started: Instant,
}

/// Serves the API until `stop` is cancelled; requests in flight are completed.
pub async fn serve(
    listener: UnixListener,
    config: ApiConfig,
    paid_requests: PaidRequests,
    peers: Peers,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(config, paid_requests, peers)?).with_graceful_shutdown(stop).await
}

/// The OpenAPI document of all paths.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes(true).into_openapi()
}

/// All routes, and the document that describes them.
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

fn router(config: ApiConfig, paid_requests: PaidRequests, peers: Peers) -> io::Result<Router> {
    let (router, document) = routes(config.metrics.is_some()).split_for_parts();
    let document = document.to_json().map_err(io::Error::other)?.into();
    let api = Arc::new(Api { config, paid_requests, peers, document, started: Instant::now() });
    let router = router
        .fallback(|| async { ApiError::NotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(from_fn_with_state(api.clone(), self_test_gate::pass))
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

/// Returns the name and version of the program
#[utoipa::path(get, path = "/version", tag = "host", responses((status = 200, description = "Its name and version", body = Version)))]
async fn version() -> Json<Version> {
    Json(VERSION)
}

/// The program's name and version.
const VERSION: Version = Version { name: "Codiusd (Rust)", version: env!("CARGO_PKG_VERSION") };

#[cfg(test)]
mod tests;
