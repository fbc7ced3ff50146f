//! The operator's API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Version of codiusd.
    pub version: String,
    /// Time since the start of codiusd, in seconds.
    pub uptime: u64,
    /// Whether uploads and extensions are refused.
    pub draining: bool,
    /// Runtime of pods: embedded, hyperd or noop.
    pub runtime: String,
    /// Isolation of pods: virtual-machine, shared-kernel or none; emulated-for-tests: none, either.
    pub isolation: String,
    /// Why pods share the host's kernel, if codiusd was to run virtual machines where that is possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_note: Option<String>,
    /// `ready`, or why uploads are refused.
    pub ready: String,
    /// Asset of payments; absent without an Interledger connection.
    pub asset_code: Option<String>,
    /// Decimal places of its smallest unit.
    pub asset_scale: Option<u8>,
    /// Price of a small pod for a month.
    pub cost_per_month: String,
    /// Numbers of pods.
    pub pods: PodCounts,
    /// Capacity that pods hold.
    pub held: Capacity,
    /// Capacity that pods may hold.
    pub max: Capacity,
    /// Earnings by asset.
    pub earnings: Vec<Earnings>,
    /// Number of bans.
    pub bans: u64,
    /// Number of other hosts that are known.
    pub peers: u64,
    /// The last self-test; absent when the self-test is off.
    pub self_test: Option<SelfTest>,
    /// The log filter.
    pub log: String,
}

/// Numbers of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PodCounts {
    /// In every state.
    pub known: u64,
    /// Running.
    pub running: u64,
}

/// An amount of capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// In bytes.
    pub memory: u64,
    /// Virtual processors.
    pub vcpus: u64,
    /// In bytes; absent when the runtime keeps the pods' disks elsewhere.
    pub disk: Option<u64>,
}

/// Earnings in one asset. Amounts are decimal digits in its smallest unit, because JSON numbers may be read as doubles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Earnings {
    /// The asset.
    pub asset_code: String,
    /// Decimal places of its smallest unit.
    pub asset_scale: u8,
    /// Credited by payments.
    pub received: String,
    /// Spent on run time.
    pub earned: String,
    /// Credit that expired before it was used.
    pub forfeited: String,
    /// Credit on open invoices.
    pub credit: String,
}

/// All pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PodList {
    /// Sorted by manifest hash.
    pub pods: Vec<PodEntry>,
}

/// A pod, without its private values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodEntry {
    /// Its name.
    pub manifest_hash: String,
    /// crashed, exited, restarting, running, starting, stopping or unknown.
    pub state: String,
    /// Its pod size.
    pub machine: String,
    /// Memory it holds, in bytes.
    pub memory: u64,
    /// Images of its containers.
    pub images: Vec<String>,
    /// Time of its last start, ISO 8601; only of a running pod.
    pub start: Option<String>,
    /// When it expires, ISO 8601; only of a running pod.
    pub expiry: Option<String>,
    /// Time until it expires, in seconds.
    pub remaining: Option<u64>,
    /// Finished requests and tunnels; only of a pod with a route.
    pub requests: Option<u64>,
    /// Of these, the ones with status 500 or above.
    pub errors: Option<u64>,
    /// Bytes of bodies and tunnels from visitors.
    pub received: Option<u64>,
    /// Bytes of bodies and tunnels to visitors.
    pub sent: Option<u64>,
}

/// All bans.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BanList {
    /// Sorted by what they cover.
    pub bans: Vec<BanEntry>,
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BanEntry {
    /// `manifest` or `image`.
    pub kind: String,
    /// A manifest hash, an image digest, or a repository.
    pub subject: String,
    /// Whether running pods under it are stopped.
    pub stop: bool,
}

/// The pods that were to be stopped, or that a ban covers, by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopReport {
    /// Stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Vec<String>>,
    /// Still stopping; their routes are withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<Vec<String>>,
    /// Covered by the ban and still running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Vec<String>>,
    /// Why stopping takes longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The last self-test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelfTest {
    /// Whether every step passed; absent until the first test has finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_test_success: Option<bool>,
    /// When it finished, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// What it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// Its steps, in order, without those that depend on a failed step.
    #[serde(default)]
    pub steps: Vec<SelfTestStep>,
    /// Whether a test is running now.
    #[serde(default)]
    pub running: bool,
}

/// One step of a self-test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SelfTestStep {
    /// name, wildcard, connect, certificate, quote, payer, upload, page, websocket, log or stop.
    pub step: String,
    /// ok, skipped or failed.
    pub result: String,
    /// The kind of failure, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What was found.
    pub what: String,
    /// What to do about a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What it took.
    pub milliseconds: u64,
}

/// Selects a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSelector {
    /// Its name.
    #[schema(required)]
    pub manifest_hash: Option<String>,
}

/// A new ban: either of a manifest or of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BanRequest {
    /// A manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_hash: Option<String>,
    /// An image digest (`sha256:...`, `name@sha256:...`), or a repository without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Whether running pods under it are stopped.
    #[serde(default)]
    pub stop: bool,
}

/// A new log filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogFilter {
    /// A level, or MODULE=LEVEL separated by commas.
    pub log: String,
}
