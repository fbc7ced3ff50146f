//! The self-test: returns its last report, or runs it again. A run buys a minute of a small pod from the operator's own account.

use std::sync::Arc;

use axum::{Json, extract::State};
use codiusd_api_types::{admin::SelfTest, error::Failure};

use super::{AdminState, answer::AdminError};

/// Returns the report of the last self-test
#[utoipa::path(
    get, path = "/self-test", tag = "host",
    responses((status = 200, description = "The report", body = SelfTest), (status = 404, description = "The self-test is off, or none has finished yet", body = Failure)),
)]
pub(super) async fn last(State(admin): State<Arc<AdminState>>) -> Result<Json<SelfTest>, AdminError> {
    let last = admin.self_test.as_ref().ok_or(AdminError::NoSelfTest)?.last().ok_or(AdminError::NotTested)?;
    Ok(Json(last.status(false)))
}

/// Runs a self-test and returns its report
///
/// Waits for one that is running, and then for its own; requests that wait together share it.
#[utoipa::path(
    post, path = "/self-test", tag = "host",
    responses((status = 200, description = "The report", body = SelfTest), (status = 404, description = "The self-test is off", body = Failure)),
)]
pub(super) async fn run(State(admin): State<Arc<AdminState>>) -> Result<Json<SelfTest>, AdminError> {
    let report = admin.self_test.as_ref().ok_or(AdminError::NoSelfTest)?.ask().await.map_err(|_| AdminError::Interrupted)?;
    Ok(Json(report.status(false)))
}
