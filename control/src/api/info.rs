//! `/info` and `/memory`: what the host is and has, for uploaders and peers, with the Node codiusd's field names.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use serde_json::{Number, Value, json};
use tokio::fs;
use url::form_urlencoded;

use super::{Api, ApiConfig, peers::LIMIT_MAX};
use crate::{machines::Size, pods::Resource};

/// `{"freeMem": bytes}`: what pods may still take.
pub(super) async fn memory(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(json!({ "freeMem": api.orders.keeper().room().free_memory_bytes() }))
}

pub(super) async fn info(State(api): State<Arc<Api>>, uri: Uri) -> Json<Value> {
    let peers_wanted =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).any(|pair| pair == ("requestPeers".into(), "true".into()));
    let mut info = facts(&api).await;
    if peers_wanted {
        info["peers"] = json!(api.peers.sample(LIMIT_MAX.into()));
    }
    Json(info)
}

/// All that is said to everyone.
pub(super) async fn facts(api: &Api) -> Value {
    let keeper = api.orders.keeper();
    let (room, asset, runtime) = (keeper.room(), api.orders.asset(), keeper.capabilities());
    let short = room.short_of(&api.config.rules.machines.small().machine);
    let accepting = short.is_none() && asset.is_some() && keeper.ready().await.is_ok();
    let (asset_code, asset_scale) = asset.map(|asset| (asset.code, asset.scale)).unzip();
    json!({
        "fullMem": short == Some(Resource::Memory),
        "acceptingUploads": accepting,
        "serverFreeMemory": room.free_memory_bytes(),
        "serverUptime": number(fs::read_to_string("/proc/uptime").await.ok(), 0),
        "serviceUptime": api.started.elapsed().as_secs(),
        "avgLoad": number(fs::read_to_string("/proc/loadavg").await.ok(), 0),
        "numPeers": api.peers.count(),
        "currency": asset_code,
        "costPerMonth": cost(&api.config.cost_per_month.to_string()),
        "uri": api.config.public_uri,
        "runningContracts": keeper.running_count(),
        "assetScale": asset_scale,
        "runtime": runtime.name,
        "isolation": runtime.isolation,
        "machines": machines(&api.config),
    })
}

/// What is sold, at what price.
fn machines(config: &ApiConfig) -> Vec<Value> {
    let size = |size: &Size| {
        json!({
            "name": size.name,
            "vcpus": size.machine.vcpus,
            "memory": size.machine.memory_bytes,
            "disk": size.machine.disk_bytes,
            "costPerMonth": cost(&config.cost_per_month.times(size.price).to_string()),
        })
    };
    config.rules.machines.iter().map(size).collect()
}

/// Number `index` of a line of the kernel's.
fn number(line: Option<String>, index: usize) -> Option<f64> {
    line?.split_ascii_whitespace().nth(index)?.parse().ok()
}

/// An exact decimal as a JSON number: `10`, not `10.0`.
fn cost(decimal: &str) -> Option<Number> {
    decimal.parse().ok()
}
