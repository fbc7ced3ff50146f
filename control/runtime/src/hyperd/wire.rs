//! Requests to hyperd and the parts of its answers that are read. Fields it omits when they are empty have defaults.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{addresses::NewInterface, names::Attempt};
use crate::{ContainerSpec, PodSpec};

/// Memory of a pod that doesn't specify any, in MiB.
const MEMORY_DEFAULT: u64 = 128;
const MIB: u64 = 1024 * 1024;

/// Body of `/pod/create`.
#[derive(Debug, Serialize)]
pub(super) struct NewPod {
    id: String,
    resource: Resource,
    log: Log,
    pub(super) containers: Vec<NewContainer>,
    /// If empty, hyperd chooses one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<NewInterface>,
}

#[derive(Debug, Serialize)]
struct Resource {
    vcpu: u32,
    memory: u64,
}

/// Log driver. Always specified: hyperd uses one pod's setting as the default of later ones without any. Never `none`: the daemon crashes
/// when such a pod is deleted.
#[derive(Debug, Serialize)]
struct Log {
    r#type: &'static str,
    config: LogConfig,
}

/// How much of a container's output is kept: this size in this many files, the oldest being overwritten.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct LogConfig {
    max_size: &'static str,
    max_file: &'static str,
}

const LOG: Log = Log { r#type: "json-file", config: LogConfig { max_size: "1m", max_file: "2" } };

/// One container of the pod. `Debug` shows no variables: they may be private.
#[derive(Serialize)]
pub(super) struct NewContainer {
    pub(super) name: String,
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workdir: Option<String>,
    envs: Vec<Variable>,
    /// Adopts a container left by a failed create.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
}

impl std::fmt::Debug for NewContainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewContainer").field("name", &self.name).field("image", &self.image).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Variable {
    env: String,
    value: String,
}

impl NewPod {
    pub(super) fn of(spec: &PodSpec, attempt: Attempt, interface: Option<&NewInterface>) -> Self {
        let container = |container: &ContainerSpec| NewContainer {
            name: attempt.name_of(&spec.id, &container.name),
            image: container.image.clone(),
            command: container.command.clone(),
            workdir: container.workdir.clone().filter(|workdir| !workdir.is_empty()),
            envs: container.env.iter().map(|(env, value)| Variable { env: env.clone(), value: value.clone() }).collect(),
            id: None,
        };
        Self {
            id: spec.id.as_str().to_owned(),
            resource: Resource { vcpu: spec.machine.vcpus, memory: (spec.machine.memory_bytes / MIB).max(1) },
            log: LOG,
            containers: spec.containers.iter().map(container).collect(),
            interfaces: interface.cloned().into_iter().collect(),
        }
    }
}

/// `/pod/info`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Info {
    /// The machine it first ran in; not always the current one.
    #[serde(default)]
    pub(super) vm: String,
    /// Unix seconds.
    #[serde(default)]
    pub(super) created_at: u64,
    pub(super) spec: InfoSpec,
    pub(super) status: InfoStatus,
}

#[derive(Debug, Deserialize)]
pub(super) struct InfoSpec {
    #[serde(default)]
    memory: Option<u64>,
    #[serde(default)]
    pub(super) containers: Vec<InfoContainer>,
}

#[derive(Debug, Deserialize)]
pub(super) struct InfoContainer {
    #[serde(default)]
    pub(super) image: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InfoStatus {
    pub(super) phase: String,
    /// Addresses with their prefix lengths.
    #[serde(default, rename = "podIP")]
    pub(super) pod_ip: Vec<String>,
    #[serde(default)]
    pub(super) container_status: Vec<ContainerStatus>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    pub(super) phase: ContainerPhase,
    #[serde(default)]
    pub(super) terminated: Terminated,
}

/// hyperd's exit code for a container whose machine ended; programs may exit with it, too.
const ENDED_WITH_MACHINE: i32 = 255;

impl ContainerStatus {
    /// Whether the containers look as if their machine had ended.
    pub(super) fn looks_lost(&self) -> bool {
        self.phase == ContainerPhase::Failed && self.terminated.exit_code == ENDED_WITH_MACHINE
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Terminated {
    /// Absent if it was 0, or if there was none.
    #[serde(default, rename = "exitCode")]
    pub(super) exit_code: i32,
}

/// The state of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ContainerPhase {
    /// Not started, or started and exited before a restart of the daemon.
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl ContainerPhase {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "pending" => Some(Self::Pending),
            "running" => Some(Self::Running),
            "succeeded" => Some(Self::Succeeded),
            "failed" => Some(Self::Failed),
            _ => None,
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(self) -> bool {
        matches!(self, Self::Failed | Self::Succeeded)
    }
}

impl Info {
    /// Whether a create is still working on it.
    pub(super) fn is_being_created(&self) -> bool {
        self.status.phase == "Pending"
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.spec.memory.unwrap_or(MEMORY_DEFAULT).saturating_mul(MIB)
    }
}

/// The fields read of any pod, ours or others'.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PodSize {
    #[serde(default)]
    spec: SizeSpec,
    #[serde(default)]
    status: SizeStatus,
}

#[derive(Debug, Default, Deserialize)]
struct SizeStatus {
    #[serde(default, rename = "podIP")]
    pod_ip: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct SizeSpec {
    #[serde(default)]
    memory: Option<u64>,
}

/// The first of several addresses with prefix lengths.
pub(super) fn first_address(pod_ip: &[String]) -> Option<IpAddr> {
    pod_ip.first()?.split('/').next()?.parse().ok()
}

impl PodSize {
    pub(super) fn address(&self) -> Option<IpAddr> {
        first_address(&self.status.pod_ip)
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.spec.memory.unwrap_or(MEMORY_DEFAULT).saturating_mul(MIB)
    }
}

/// `/list`, of pods, containers or machines.
#[derive(Debug, Deserialize)]
pub(super) struct List {
    #[serde(default, rename = "podData")]
    pub(super) pods: Vec<String>,
    #[serde(default, rename = "cData")]
    pub(super) containers: Vec<String>,
    /// `vm:pod:state`.
    #[serde(default, rename = "vmData")]
    pub(super) machines: Vec<String>,
}

/// A row of the list of pods: `id:name:vm:status`.
pub(super) struct PodRow<'a> {
    pub(super) id: &'a str,
    pub(super) vm: &'a str,
    pub(super) status: &'a str,
}

impl<'a> PodRow<'a> {
    pub(super) fn parse(row: &'a str) -> Option<Self> {
        let mut fields = row.split(':');
        let (id, _name, vm, status) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Self { id, vm, status })
    }

    /// Whether its machine exists; `failed` is any pod without one.
    pub(super) fn holds_memory(&self) -> bool {
        self.status != "failed"
    }
}
