//! The data types of this crate: a pod's description, and its state.

use std::{
    fmt,
    net::IpAddr,
    str::FromStr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A pod's name in every runtime: the manifest hash, 52 characters of lower-case base32 (RFC 4648, no padding).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodId(String);

impl PodId {
    /// Length of every id, in characters.
    pub const LENGTH: usize = 52;

    /// The id as text, safe as a file name and a host label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not 52 characters of `a-z2-7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pod id is 52 characters of a-z and 2-7")]
pub struct BadPodId;

impl TryFrom<String> for PodId {
    type Error = BadPodId;

    fn try_from(text: String) -> Result<Self, BadPodId> {
        let base32 = |byte: u8| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte);
        if text.len() == Self::LENGTH && text.bytes().all(base32) { Ok(Self(text)) } else { Err(BadPodId) }
    }
}

impl FromStr for PodId {
    type Err = BadPodId;

    fn from_str(text: &str) -> Result<Self, BadPodId> {
        text.to_owned().try_into()
    }
}

impl From<PodId> for String {
    fn from(id: PodId) -> Self {
        id.0
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodId({})", self.0)
    }
}

/// The size of a pod: the limits all its containers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor share, in whole virtual CPUs.
    pub vcpus: u32,
    /// Memory and swap together, in bytes.
    pub memory_bytes: u64,
    /// Maximum size of what it writes to its disk, in bytes.
    #[serde(default = "Machine::disk_default")]
    pub disk_bytes: u64,
}

impl Machine {
    /// Disk size of a pod started before machines had one, in bytes.
    pub const DISK_DEFAULT: u64 = 1 << 30;

    fn disk_default() -> u64 {
        Self::DISK_DEFAULT
    }
}

/// Everything needed to start a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// The pod's name.
    pub id: PodId,
    /// Its limits.
    pub machine: Machine,
    /// Its containers, at least one; their names are unique.
    pub containers: Vec<ContainerSpec>,
}

/// One container of a pod.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Name inside the pod, `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
    pub name: String,
    /// Image reference, `name@sha256:...`.
    pub image: String,
    /// Replaces the image's command (Docker's CMD); its entrypoint stays.
    pub command: Option<Vec<String>>,
    /// Replaces the image's working directory.
    pub workdir: Option<String>,
    /// Added to (and overriding) the image's environment, in order. Holds private values.
    pub env: Vec<(String, String)>,
}

impl fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ContainerSpec")
            .field("name", &self.name)
            .field("image", &self.image)
            .field("command", &self.command)
            .field("workdir", &self.workdir)
            .field("env", &names) // values may be private
            .finish()
    }
}

/// A running pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningPod {
    /// The address at which the host reaches its ports.
    pub address: IpAddr,
    /// Differs between any two starts of any pods, also across restarts of codiusd: connections are never reused across incarnations.
    pub incarnation: u64,
    /// When its containers were started.
    pub started_at: SystemTime,
}

/// The state of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// At least one container runs.
    Running(RunningPod),
    /// All containers have exited (or the pod was lost with its supervisor); it still holds its name until stopped.
    Exited,
    /// Its machine ended with programs in it, while the daemon kept running: caused by the pod, or by a problem of the host that hit only
    /// this pod. It still holds its name until stopped.
    Crashed {
        /// Distinguishes this run of the pod from any other one.
        incarnation: u64,
    },
    /// It was ended from outside, together with the daemon it ran under, not by its own doing. It still holds its name until stopped.
    Lost,
    /// It runs, but requests to its address may reach another pod: it must not be served there. It still holds its name until stopped.
    Misplaced,
    /// It is being created, or was created and never started because its start was interrupted.
    Unstarted,
}

/// One row of [`crate::Runtime::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// The pod.
    pub id: PodId,
    /// Its state.
    pub state: PodState,
    /// The machine memory it holds by its limit, in bytes.
    pub memory_bytes: u64,
    /// It runs, but should be restarted at the next quiet moment: its runtime can't supervise it any more.
    pub degraded: bool,
}

/// Which output a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl LogStream {
    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One line a container wrote, without its newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The container's name inside the pod.
    pub container: String,
    /// The output it was written to.
    pub stream: LogStream,
    /// The bytes as written; not always UTF-8.
    pub text: Bytes,
}

/// What isolates pods from each other and from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Nothing runs.
    None,
    /// Namespaces, seccomp and control groups, on the machine's own kernel.
    SharedKernel,
    /// A virtual machine for each pod.
    VirtualMachine,
    /// A virtual machine for each pod, executed by an emulator that promises no isolation: for tests only.
    Emulated,
}

/// As shown in `/info`: `none`, `shared-kernel`, `virtual-machine` or `emulated-for-tests`.
impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::SharedKernel => "shared-kernel",
            Self::VirtualMachine => "virtual-machine",
            Self::Emulated => "emulated-for-tests",
        })
    }
}

/// Memory that pods take on the host beyond their machines'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOverhead {
    /// For each pod, in bytes.
    pub fixed_bytes: u64,
    /// In thousandths of its machine's memory.
    pub per_mille: u32,
}

impl MemoryOverhead {
    /// What a pod of a machine with this much memory takes on top, in bytes.
    pub fn of(self, machine_bytes: u64) -> u64 {
        self.fixed_bytes.saturating_add((machine_bytes / 1000).saturating_mul(self.per_mille.into()))
    }
}

/// The properties of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `embedded`, `hyperd` or `noop`.
    pub name: &'static str,
    /// How pods are isolated.
    pub isolation: Isolation,
    /// Memory that pods take on the host beyond their machines'.
    pub memory_overhead: MemoryOverhead,
    /// How long an unknown pod is left alone: other programs may use the same runtime.
    pub orphan_grace: Duration,
}
