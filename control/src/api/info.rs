//! `/info` and `/memory`: the host's properties and capacity for uploaders and peers, with the Node codiusd's field names, in its order.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use codiusd_runtime::Isolation;
use serde::{Serialize, Serializer};
use serde_json::Number;
use tokio::fs;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::{Api, ApiConfig, health, peers::LIMIT_MAX, request::BODY_MAX};
use crate::{capacity::Resource, pod_sizes::PodSize};

/// Memory that pods may still take.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Memory {
    /// In bytes.
    free_mem: u64,
}

/// What the host is, has and costs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Info {
    /// True when a small pod does not fit into the memory that is left.
    pub(super) full_mem: bool,
    /// Whether the host would start a small pod now.
    pub(super) accepting_uploads: bool,
    /// Memory pods may still take, in bytes.
    pub(super) server_free_memory: u64,
    /// Uptime of the machine, in seconds.
    #[schema(required)]
    pub(super) server_uptime: Option<f64>,
    /// Uptime of codiusd, in seconds.
    pub(super) service_uptime: u64,
    /// Load average of the machine over a minute.
    #[schema(required)]
    pub(super) avg_load: Option<f64>,
    /// How many other hosts are known.
    pub(super) num_peers: usize,
    /// Currency of payments; null while there is no Interledger account.
    #[schema(required)]
    pub(super) currency: Option<String>,
    /// Price of a small pod for a month, in whole units of the currency.
    #[schema(required, value_type = Option<f64>)]
    pub(super) cost_per_month: Option<Number>,
    /// Public URI of the host.
    pub(super) uri: String,
    /// Whether the last self-test passed; null: the self-test is off.
    #[schema(required)]
    pub(super) self_test_success: Option<bool>,
    /// Number of running pods. Absent with `additional_host_info = false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) running_contracts: Option<usize>,
    /// Other hosts, with `?requestPeers=true`. Absent with `additional_host_info = false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false)]
    pub(super) peers: Option<Vec<crate::peers::PeerUri>>,
    /// Decimal places of the currency's smallest unit.
    #[schema(required)]
    pub(super) asset_scale: Option<u8>,
    /// Runtime of pods: `embedded`, `hyperd` or `noop`.
    pub(super) runtime: &'static str,
    /// Isolation of pods: `shared-kernel`, `virtual-machine` or `none`.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    pub(super) isolation: Isolation,
    /// Pod sizes that are sold, `small` first.
    pub(super) machines: Vec<Machine>,
    /// Limits of requests.
    pub(super) limits: Limits,
}

/// A pod size.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Machine {
    /// Its name in manifests.
    pub(super) name: String,
    /// Virtual processors.
    pub(super) vcpus: u32,
    /// Memory, in bytes.
    pub(super) memory: u64,
    /// Disk, in bytes.
    pub(super) disk: u64,
    /// Its price for a month, in whole units of the currency.
    #[schema(required, value_type = Option<f64>)]
    pub(super) cost_per_month: Option<Number>,
}

/// Limits of requests.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limits {
    /// Bytes of an upload, before and after decompression.
    upload_bytes: usize,
    /// Containers of a pod.
    containers: usize,
    /// Longest run time of one purchase, in seconds.
    duration: u32,
    /// Run time of a purchase without `duration`, in seconds.
    duration_default: u32,
    /// Hosts in one answer of `/peers`.
    peers: u16,
}

/// Returns the memory that pods may still take, in bytes
#[utoipa::path(get, path = "/memory", tag = "host", responses((status = 200, description = "Free memory", body = Memory)))]
pub(super) async fn memory(State(api): State<Arc<Api>>) -> Json<Memory> {
    Json(Memory { free_mem: api.paid_requests.pods().room().free_memory_bytes() })
}

/// Returns what the host is, has and costs
#[utoipa::path(
    get,
    path = "/info",
    tag = "host",
    params(("requestPeers" = Option<String>, Query, description = "exactly `true`: with `peers`")),
    responses((status = 200, description = "The host", body = Info)),
)]
pub(super) async fn info(State(api): State<Arc<Api>>, uri: Uri) -> Json<Info> {
    let peers_wanted =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).any(|pair| pair == ("requestPeers".into(), "true".into()));
    let peers = (peers_wanted && api.config.additional_host_info).then(|| api.peers.sample(LIMIT_MAX.into()));
    Json(Info { peers, ..facts(&api).await })
}

/// The part of `/info` that is always public.
pub(super) async fn facts(api: &Api) -> Info {
    let manager = api.paid_requests.pods();
    let (room, asset, runtime) = (manager.room(), api.paid_requests.asset(), manager.capabilities());
    let short = room.short_of(&api.config.rules.machines.small().machine);
    let (currency, asset_scale) = asset.map(|asset| (asset.code, asset.scale)).unzip();
    Info {
        full_mem: short == Some(Resource::Memory),
        accepting_uploads: short.is_none() && !manager.is_draining() && api.config.gate.is_open() && health::readiness(api).await.ready,
        server_free_memory: room.free_memory_bytes(),
        server_uptime: number(fs::read_to_string("/proc/uptime").await.ok()),
        service_uptime: api.started.elapsed().as_secs(),
        avg_load: number(fs::read_to_string("/proc/loadavg").await.ok()),
        num_peers: api.peers.count(),
        currency,
        cost_per_month: cost(&api.config.cost_per_month.to_string()),
        uri: api.config.public_uri.clone(),
        self_test_success: api.config.gate.success(),
        running_contracts: api.config.additional_host_info.then(|| manager.running_count()),
        peers: None,
        asset_scale,
        runtime: runtime.name,
        isolation: runtime.isolation,
        machines: api.config.rules.machines.iter().map(|size| machine(&api.config, size)).collect(),
        limits: limits(&api.config),
    }
}

/// What is sold, at which price.
fn machine(config: &ApiConfig, size: &PodSize) -> Machine {
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

/// The first number in a line of a kernel file.
fn number(line: Option<String>) -> Option<f64> {
    line?.split_ascii_whitespace().next()?.parse().ok()
}

/// An exact decimal as a JSON number: `10`, not `10.0`.
fn cost(decimal: &str) -> Option<Number> {
    decimal.parse().ok()
}

fn as_text<S: Serializer>(isolation: &Isolation, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(isolation)
}
