//! The operator's commands. Each has been carried out, or is in progress, when it is answered.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use codiusd_api_types::{
    admin::{BanRequest, LogFilter, PodSelector, StopReport},
    error::Failure,
};
use codiusd_control::operator::Ban;
use codiusd_runtime::{PodId, RuntimeError};
use tokio::{sync::OwnedSemaphorePermit, time};

use super::{
    AdminState,
    answer::{AdminError, object},
};
use crate::{config::parse_log, logging};

/// How long an answer waits until pods have stopped. After that they are stopped in the background.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// Interval between checks whether the runtime is reachable.
const AWAY_AFTER: Duration = Duration::from_millis(500);

/// Stops a pod; its remaining time is lost
#[utoipa::path(
    post, path = "/pods/stop", tag = "pods", request_body = PodSelector,
    responses(
        (status = 200, description = "Stopped", body = StopReport),
        (status = 202, description = "Stopping; its route is withdrawn", body = StopReport),
        (status = 400, description = "A field of the body is missing or invalid", body = Failure),
        (status = 404, description = "There is no such pod", body = Failure),
        (status = 503, description = "Too many stops at once", body = Failure),
    ),
)]
pub(super) async fn stop(State(admin): State<Arc<AdminState>>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    let PodSelector { manifest_hash } = object(&headers, &body)?;
    let text = manifest_hash.ok_or(AdminError::NoHash)?;
    let id = text.parse::<PodId>().ok().filter(|id| admin.paid_requests.pods().facts(id).is_some()).ok_or(AdminError::NoPod(text))?;
    let turn = turn(&admin)?;
    Ok(stopped(&admin, vec![id], turn).await)
}

/// Reserves one of the slots for requests that stop pods.
fn turn(admin: &AdminState) -> Result<OwnedSemaphorePermit, AdminError> {
    admin.stops.clone().try_acquire_owned().map_err(|_| AdminError::Busy)
}

/// Stops pods, in a task of its own: a client that disconnects doesn't interrupt it.
async fn stopped(admin: &AdminState, ids: Vec<PodId>, turn: OwnedSemaphorePermit) -> Response {
    let (manager, names) = (admin.paid_requests.pods().clone(), ids.clone());
    let work = admin.paid_requests.pods().supervisor().spawn_job("stop by the operator", async move {
        manager.stop_these(&names).await;
        drop(turn);
    });
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let stopping =
        |reason| (StatusCode::ACCEPTED, Json(StopReport { stopping: Some(ids.clone()), reason, ..StopReport::default() })).into_response();
    tokio::select! {
        biased;
        done = work => match done {
            Ok(()) => Json(StopReport { stopped: Some(ids), ..StopReport::default() }).into_response(),
            Err(_panicked) => stopping(Some("a bug in codiusd interrupted it: codiusd exits, and recovers its pods at the next start".to_owned())),
        },
        error = away(admin) => stopping(Some(format!("{error}; visitors do not reach them any more, and they are stopped when it is back"))),
        () = time::sleep(STOPPED_WITHIN) => stopping(None),
    }
}

/// Resolves with the error when the runtime is unreachable.
async fn away(admin: &AdminState) -> RuntimeError {
    loop {
        // Pods usually stop before this first check.
        time::sleep(AWAY_AFTER).await;
        if let Err(error) = admin.paid_requests.pods().reaches_runtime().await {
            return error;
        }
    }
}

fn ban_of(request: &BanRequest) -> Result<Ban, AdminError> {
    match (&request.manifest_hash, &request.image) {
        (Some(hash), None) => hash.parse().map(Ban::Manifest).map_err(|bad| AdminError::Payload(format!("manifestHash: {bad}"))),
        (None, Some(image)) => Ok(Ban::image(image)?),
        _ => Err(AdminError::Payload("either manifestHash or image is wanted".to_owned())),
    }
}

/// Bans a manifest or an image
#[utoipa::path(
    post, path = "/ban", tag = "bans", request_body = BanRequest,
    responses(
        (status = 200, description = "Banned, and what happened to running pods under the ban", body = StopReport),
        (status = 202, description = "Banned; pods under it are being stopped", body = StopReport),
        (status = 400, description = "A field of the body is missing or invalid", body = Failure),
        (status = 409, description = "The limit of bans is reached", body = Failure),
        (status = 503, description = "The database failed, or too many stops at once", body = Failure),
    ),
)]
pub(super) async fn ban(State(admin): State<Arc<AdminState>>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    let what: BanRequest = object(&headers, &body)?;
    let ban = ban_of(&what)?;
    let turn = if what.stop { Some(turn(&admin)?) } else { None };
    let covered = admin.paid_requests.pods().ban(ban, what.stop).await?;
    Ok(match turn {
        Some(turn) => stopped(&admin, covered, turn).await,
        None => {
            let running = Some(covered.iter().map(ToString::to_string).collect());
            Json(StopReport { running, ..StopReport::default() }).into_response()
        }
    })
}

/// Removes a ban
#[utoipa::path(
    post, path = "/unban", tag = "bans", request_body = BanRequest,
    responses((status = 204, description = "nothing (204)"), (status = 400, description = "A field of the body is missing or invalid", body = Failure), (status = 404, description = "There is no such ban", body = Failure)),
)]
pub(super) async fn unban(State(admin): State<Arc<AdminState>>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, AdminError> {
    let what: BanRequest = object(&headers, &body)?;
    if admin.paid_requests.pods().unban(&ban_of(&what)?).await? { Ok(StatusCode::NO_CONTENT) } else { Err(AdminError::NotBanned) }
}

/// Refuses uploads and extensions until `/undrain`, also after a restart
#[utoipa::path(post, path = "/drain", tag = "host", responses((status = 204, description = "nothing (204)")))]
pub(super) async fn drain(State(admin): State<Arc<AdminState>>) -> Result<StatusCode, AdminError> {
    admin.paid_requests.pods().drain(true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accepts uploads and extensions again
#[utoipa::path(post, path = "/undrain", tag = "host", responses((status = 204, description = "nothing (204)")))]
pub(super) async fn undrain(State(admin): State<Arc<AdminState>>) -> Result<StatusCode, AdminError> {
    admin.paid_requests.pods().drain(false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the log filter until the host stops
#[utoipa::path(
    post, path = "/log", tag = "host", request_body = LogFilter,
    responses((status = 204, description = "nothing (204)"), (status = 400, description = "A field of the body is missing or invalid", body = Failure)),
)]
pub(super) async fn log(headers: HeaderMap, body: Bytes) -> Result<StatusCode, AdminError> {
    let LogFilter { log } = object(&headers, &body)?;
    let wrong =
        || AdminError::Payload("log: a level (off, error, warn, info, debug, trace), or module=level separated by commas".to_owned());
    let chosen = parse_log(&log).ok_or_else(wrong)?;
    logging::choose(chosen).map_err(|_| AdminError::Log)?;
    tracing::info!(log, "log filter changed");
    Ok(StatusCode::NO_CONTENT)
}
