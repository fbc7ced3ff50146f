//! `/healthz` and `/readyz`: for supervisors that restart this process, and load balancers that route clients to it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::time;
use utoipa::ToSchema;

use super::{Api, error::RETRY_AFTER};

/// A runtime that doesn't confirm within this time that it can start pods counts as unable to.
const RUNTIME_WITHIN: Duration = Duration::from_secs(2);

/// Liveness.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// Always true.
    healthy: bool,
}

/// Readiness, and that of each part it needs. The reasons are in the log only: this answer is public.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// Whether every part is ready.
    pub(super) ready: bool,
    /// Whether there is an Interledger account to receive payments.
    uplink: bool,
    /// Whether payments can be stored.
    store: bool,
    /// Whether the runtime can start pods, and the pods of earlier runs are recovered.
    runtime: bool,
    /// Whether every background task runs; codiusd exits when one ends.
    tasks: bool,
    /// Whether the host is stopping.
    draining: bool,
}

/// Liveness: answers as long as the process does
#[utoipa::path(get, path = "/healthz", tag = "host", responses((status = 200, description = "Ready", body = Health)))]
pub(super) async fn healthy() -> Json<Health> {
    Json(Health { healthy: true })
}

/// Readiness: whether the host accepts uploads and serves pods
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "host",
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (
            status = 503,
            description = "The host is not ready; the parts that are `false` say why",
            body = Readiness,
            headers(("Retry-After" = u32, description = "Seconds"))
        ),
    ),
)]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let readiness = readiness(&api).await;
    if readiness.ready {
        return Json(readiness).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER)], Json(readiness)).into_response()
}

pub(super) async fn readiness(api: &Api) -> Readiness {
    let manager = api.paid_requests.pods();
    let (uplink, store, draining) = (api.paid_requests.asset().is_some(), manager.is_durable(), api.config.draining.is_cancelled());
    let runtime = matches!(time::timeout(RUNTIME_WITHIN, manager.ready()).await, Ok(Ok(())));
    let tasks = manager.supervisor().failure().is_none();
    Readiness { ready: uplink && store && runtime && tasks && !draining, uplink, store, runtime, tasks, draining }
}
