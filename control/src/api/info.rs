//! `/info` and `/memory`: what the host is and has, for uploaders and peers, with the Node codiusd's field names, in its order.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use serde::Serialize;
use serde_json::Number;
use tokio::fs;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::{Api, ApiConfig, health, peers::LIMIT_MAX, request::BODY_MAX};
use crate::{machines::Size, pods::Resource};

/// What pods may still take.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Memory {
    /// In bytes.
    free_mem: u64,
}

/// What a host says of itself.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Info {
    /// Whether a small pod doesn't fit into the memory that is left.
    pub(super) full_mem: bool,
    /// Whether a small pod would be started now, if it were paid for.
    pub(super) accepting_uploads: bool,
    /// Memory pods may still take, in bytes.
    pub(super) server_free_memory: u64,
    /// For how long the machine has been up, in seconds.
    #[schema(required)]
    pub(super) server_uptime: Option<f64>,
    /// For how long codiusd has been, in seconds.
    pub(super) service_uptime: u64,
    /// The machine's load, averaged over a minute.
    #[schema(required)]
    pub(super) avg_load: Option<f64>,
    /// How many other hosts are known.
    pub(super) num_peers: usize,
    /// What is paid in; null while there is no Interledger account.
    #[schema(required)]
    pub(super) currency: Option<String>,
    /// What a small pod costs for a month, in whole units of the currency.
    #[schema(required, value_type = Option<f64>)]
    pub(super) cost_per_month: Option<Number>,
    /// Where the host is reached.
    pub(super) uri: String,
    /// Whether the host has passed its last test of itself; null: it doesn't test itself.
    #[schema(required)]
    pub(super) self_test_success: Option<bool>,
    /// How many pods run. Left out if the operator keeps it (`additional_host_info`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) running_contracts: Option<usize>,
    /// Other hosts, if they were asked for. Left out if the operator keeps them (`additional_host_info`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false)]
    pub(super) peers: Option<Vec<crate::peers::PeerUri>>,
    /// Decimal places of the smallest unit of the currency that is paid in.
    #[schema(required)]
    pub(super) asset_scale: Option<u8>,
    /// What runs pods: `embedded`, `hyperd` or `noop`.
    pub(super) runtime: &'static str,
    /// How pods are kept apart: `shared-kernel`, `virtual-machine` or `none`.
    pub(super) isolation: &'static str,
    /// The sizes of pods that are sold, `small` first.
    pub(super) machines: Vec<Machine>,
    /// What is refused beyond.
    pub(super) limits: Limits,
}

/// A size of pods.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Machine {
    /// What manifests call it.
    pub(super) name: String,
    /// Virtual processors.
    pub(super) vcpus: u32,
    /// Memory, in bytes.
    pub(super) memory: u64,
    /// Disk, in bytes.
    pub(super) disk: u64,
    /// What it costs for a month, in whole units of the currency.
    #[schema(required, value_type = Option<f64>)]
    pub(super) cost_per_month: Option<Number>,
}

/// What a request may ask for, at most.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limits {
    /// Bytes of an upload, also when it is unpacked.
    upload_bytes: usize,
    /// Containers of a pod.
    containers: usize,
    /// Run time bought at once, in seconds.
    duration: u32,
    /// Run time that is bought if nothing is said, in seconds.
    duration_default: u32,
    /// Hosts in one answer of `/peers`.
    peers: u16,
}

/// What pods may still take of the host's memory
#[utoipa::path(get, path = "/memory", tag = "host", responses((status = 200, description = "Free memory", body = Memory)))]
pub(super) async fn memory(State(api): State<Arc<Api>>) -> Json<Memory> {
    Json(Memory { free_mem: api.orders.keeper().room().free_memory_bytes() })
}

/// What the host is, has and costs
#[utoipa::path(
    get,
    path = "/info",
    tag = "host",
    params(("requestPeers" = Option<String>, Query, description = "exactly `true` asks for other hosts, too")),
    responses((status = 200, description = "What the host says of itself", body = Info)),
)]
pub(super) async fn info(State(api): State<Arc<Api>>, uri: Uri) -> Json<Info> {
    let peers_wanted =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).any(|pair| pair == ("requestPeers".into(), "true".into()));
    let peers = (peers_wanted && api.config.additional_host_info).then(|| api.peers.sample(LIMIT_MAX.into()));
    Json(Info { peers, ..facts(&api).await })
}

/// All that is said to everyone.
pub(super) async fn facts(api: &Api) -> Info {
    let keeper = api.orders.keeper();
    let (room, asset, runtime) = (keeper.room(), api.orders.asset(), keeper.capabilities());
    let short = room.short_of(&api.config.rules.machines.small().machine);
    let (currency, asset_scale) = asset.map(|asset| (asset.code, asset.scale)).unzip();
    Info {
        full_mem: short == Some(Resource::Memory),
        accepting_uploads: short.is_none() && !keeper.is_draining() && api.config.gate.is_open() && health::readiness(api).await.ready,
        server_free_memory: room.free_memory_bytes(),
        server_uptime: number(fs::read_to_string("/proc/uptime").await.ok()),
        service_uptime: api.started.elapsed().as_secs(),
        avg_load: number(fs::read_to_string("/proc/loadavg").await.ok()),
        num_peers: api.peers.count(),
        currency,
        cost_per_month: cost(&api.config.cost_per_month.to_string()),
        uri: api.config.public_uri.clone(),
        self_test_success: api.config.gate.success(),
        running_contracts: api.config.additional_host_info.then(|| keeper.running_count()),
        peers: None,
        asset_scale,
        runtime: runtime.name,
        isolation: runtime.isolation,
        machines: api.config.rules.machines.iter().map(|size| machine(&api.config, size)).collect(),
        limits: limits(&api.config),
    }
}

/// What is sold, at what price.
fn machine(config: &ApiConfig, size: &Size) -> Machine {
    Machine {
        name: size.name.clone(),
        vcpus: size.machine.vcpus,
        memory: size.machine.memory_bytes,
        disk: size.machine.disk_bytes,
        cost_per_month: cost(&config.cost_per_month.times(size.price).to_string()),
    }
}

fn limits(config: &ApiConfig) -> Limits {
    Limits {
        upload_bytes: BODY_MAX,
        containers: config.rules.containers_max,
        duration: config.duration_max.get(),
        duration_default: config.duration_default.get(),
        peers: LIMIT_MAX,
    }
}

/// The first number of a line of the kernel's.
fn number(line: Option<String>) -> Option<f64> {
    line?.split_ascii_whitespace().next()?.parse().ok()
}

/// An exact decimal as a JSON number: `10`, not `10.0`.
fn cost(decimal: &str) -> Option<Number> {
    decimal.parse().ok()
}
