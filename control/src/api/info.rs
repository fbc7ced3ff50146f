//! `/info` and `/memory`: what the host is and has, for uploaders and peers, with the Node codiusd's field names.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Number, Value, json};
use tokio::fs;

use super::Api;

/// `{"freeMem": bytes}`: what pods may still take.
pub(super) async fn memory(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(json!({ "freeMem": api.orders.keeper().memory().free() }))
}

pub(super) async fn info(State(api): State<Arc<Api>>) -> Json<Value> {
    let keeper = api.orders.keeper();
    let (memory, asset, runtime) = (keeper.memory(), api.orders.asset(), keeper.capabilities());
    let full = memory.free() < api.config.rules.small.memory_bytes;
    let accepting = !full && asset.is_some() && keeper.ready().await.is_ok();
    let (asset_code, asset_scale) = asset.map(|asset| (asset.code, asset.scale)).unzip();
    Json(json!({
        "fullMem": full,
        "acceptingUploads": accepting,
        "serverFreeMemory": memory.free(),
        "serverUptime": number(fs::read_to_string("/proc/uptime").await.ok(), 0),
        "serviceUptime": api.started.elapsed().as_secs(),
        "avgLoad": number(fs::read_to_string("/proc/loadavg").await.ok(), 0),
        "numPeers": 0,
        "currency": asset_code,
        "costPerMonth": cost(&api.config.cost_per_month.to_string()),
        "uri": api.config.public_uri,
        "runningContracts": keeper.running_count(),
        "assetScale": asset_scale,
        "runtime": runtime.name,
        "isolation": runtime.isolation,
    }))
}

/// Number `index` of a line of the kernel's.
fn number(line: Option<String>, index: usize) -> Option<f64> {
    line?.split_ascii_whitespace().nth(index)?.parse().ok()
}

/// An exact decimal as a JSON number: `10`, not `10.0`.
fn cost(decimal: &str) -> Option<Number> {
    decimal.parse().ok()
}
