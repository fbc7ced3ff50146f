//! The self-test: what it found last, and once more now. It buys a minute of a small pod, from the operator's own account.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::Value;

use super::{Desk, answer::AdminError};

pub(super) async fn last(State(desk): State<Arc<Desk>>) -> Result<Json<Value>, AdminError> {
    let last = desk.self_test.as_ref().ok_or(AdminError::NoSelfTest)?.last().ok_or(AdminError::NotTested)?;
    Ok(Json(last.json()))
}

/// Waits for one that goes on, and then for its own; those who wait together share it.
pub(super) async fn now(State(desk): State<Arc<Desk>>) -> Result<Json<Value>, AdminError> {
    let report = desk.self_test.as_ref().ok_or(AdminError::NoSelfTest)?.ask().await.map_err(|_| AdminError::Interrupted)?;
    Ok(Json(report.json()))
}
