//! `/healthz` and `/readyz`: for whoever decides whether to restart this process, or to send clients here.

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

/// A runtime that doesn't say within this time that it could start a pod couldn't.
const RUNTIME_WITHIN: Duration = Duration::from_secs(2);

/// The process answers.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// True whenever there is an answer.
    healthy: bool,
}

/// Whether uploads are taken and pods served, and each part that this needs. Why a part isn't ready is in the log, not here: anybody
/// may ask.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// Whether all of it is well.
    pub(super) ready: bool,
    /// Whether there is an Interledger account to be paid to.
    uplink: bool,
    /// Whether what is paid can be written down.
    store: bool,
    /// Whether pods could be started, and those from before are known.
    runtime: bool,
    /// Whether every background task runs; the host ends when one doesn't.
    tasks: bool,
    /// Whether the host is stopping.
    draining: bool,
}

/// Whether the process answers
#[utoipa::path(get, path = "/healthz", tag = "host", responses((status = 200, description = "It does", body = Health)))]
pub(super) async fn healthy() -> Json<Health> {
    Json(Health { healthy: true })
}

/// Whether the host takes uploads and serves pods
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "host",
    responses(
        (status = 200, description = "It does", body = Readiness),
        (
            status = 503,
            description = "It doesn't, for the parts that are said",
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
    let keeper = api.orders.keeper();
    let (uplink, store, draining) = (api.orders.asset().is_some(), keeper.is_durable(), api.config.draining.is_cancelled());
    let runtime = matches!(time::timeout(RUNTIME_WITHIN, keeper.ready()).await, Ok(Ok(())));
    let tasks = keeper.supervisor().failure().is_none();
    Readiness { ready: uplink && store && runtime && tasks && !draining, uplink, store, runtime, tasks, draining }
}
