//! What the host is told by its operator. Each is done, or on its way, when it is answered.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use codiusd_control::house::Ban;
use codiusd_runtime::PodId;
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::OwnedSemaphorePermit, time};

use super::{
    Desk,
    answer::{AdminError, object},
};
use crate::{config::parse_log, telemetry};

/// How long an answer waits for pods to be gone. They go on being stopped after that.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    #[serde(rename = "manifestHash")]
    hash: Option<String>,
}

pub(super) async fn stop(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    let Which { hash } = object(&headers, &body)?;
    let text = hash.ok_or(AdminError::NoHash)?;
    let id = text.parse::<PodId>().ok().filter(|id| desk.orders.keeper().facts(id).is_some()).ok_or(AdminError::NoPod(text))?;
    let turn = turn(&desk)?;
    Ok(stopped(&desk, vec![id], turn).await)
}

/// A place among those who have pods stopped.
fn turn(desk: &Desk) -> Result<OwnedSemaphorePermit, AdminError> {
    desk.stops.clone().try_acquire_owned().map_err(|_| AdminError::Busy)
}

/// Stops pods, in a task of its own: an operator that hangs up doesn't end it half way.
async fn stopped(desk: &Desk, ids: Vec<PodId>, turn: OwnedSemaphorePermit) -> Response {
    let (keeper, names) = (desk.orders.keeper().clone(), ids.clone());
    let work = desk.orders.keeper().supervisor().spawn_job("stop by the operator", async move {
        keeper.stop_these(&names).await;
        drop(turn);
    });
    match time::timeout(STOPPED_WITHIN, work).await {
        Ok(_) => Json(json!({ "stopped": ids })).into_response(),
        Err(_elapsed) => (StatusCode::ACCEPTED, Json(json!({ "stopping": ids }))).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct What {
    #[serde(rename = "manifestHash")]
    hash: Option<String>,
    image: Option<String>,
    #[serde(default)]
    stop: bool,
}

impl What {
    fn ban(&self) -> Result<Ban, AdminError> {
        match (&self.hash, &self.image) {
            (Some(hash), None) => hash.parse().map(Ban::Manifest).map_err(|bad| AdminError::Payload(format!("manifestHash: {bad}"))),
            (None, Some(image)) => Ok(Ban::image(image)?),
            _ => Err(AdminError::Payload("either manifestHash or image is wanted".to_owned())),
        }
    }
}

pub(super) async fn ban(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    let what: What = object(&headers, &body)?;
    let ban = what.ban()?;
    let turn = if what.stop { Some(turn(&desk)?) } else { None };
    let covered = desk.orders.keeper().ban(ban, what.stop).await?;
    Ok(match turn {
        Some(turn) => stopped(&desk, covered, turn).await,
        None => Json(json!({ "running": covered })).into_response(),
    })
}

pub(super) async fn unban(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, AdminError> {
    let what: What = object(&headers, &body)?;
    if desk.orders.keeper().unban(&what.ban()?).await? { Ok(StatusCode::NO_CONTENT) } else { Err(AdminError::NotBanned) }
}

pub(super) async fn drain(State(desk): State<Arc<Desk>>) -> Result<StatusCode, AdminError> {
    desk.orders.keeper().drain(true).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn undrain(State(desk): State<Arc<Desk>>) -> Result<StatusCode, AdminError> {
    desk.orders.keeper().drain(false).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    log: String,
}

/// Chooses what is logged, until the host ends.
pub(super) async fn log(headers: HeaderMap, body: Bytes) -> Result<StatusCode, AdminError> {
    let Filter { log } = object(&headers, &body)?;
    let wrong =
        || AdminError::Payload("log: a level (off, error, warn, info, debug, trace), or module=level separated by commas".to_owned());
    let chosen = parse_log(&log).ok_or_else(wrong)?;
    telemetry::choose(chosen).map_err(|_| AdminError::Log)?;
    tracing::info!(log, "the log was changed");
    Ok(StatusCode::NO_CONTENT)
}
