//! Settings and limits of the embedded runtime, and how it assigns addresses and users to pods.

use std::{net::Ipv4Addr, path::Path, path::PathBuf, time::Duration};

use codiusd_net::Ipv4Cidr;
use codiusd_supervisor::Supervisor;
use serde::{Deserialize, Serialize};

use super::vm::Accelerator;
use crate::{
    image::ImageConfig,
    network::{self, Links, NetworkRules, Policy},
};

/// Host uids and gids of one pod.
const IDS_PER_POD: u32 = 65536;
/// Pods whose uid ranges fit between the default `uid_base` and the end of the 32 bits.
const SLOTS_MAX: u32 = 32768;
/// How long a pod's processes have to exit on SIGTERM. Short: this time is beyond what was paid for.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// Interface names have at most 15 characters; the slot takes four.
const LINK_PREFIX_MAX: usize = 11;

/// Configuration of an embedded runtime.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// State directory; not below `/run`. Only one process may use it at a time.
    pub root: PathBuf,
    /// Images.
    pub images: ImageConfig,
    /// Pod addresses; the first is the host's side.
    pub subnet: Ipv4Cidr,
    /// Name of the nftables table and of the control group above all pods: one per codiusd on a machine.
    pub instance: String,
    /// Prefix of the host-side link names of pods, 1 to 11 characters: unique per codiusd on a machine.
    pub link_prefix: String,
    /// First host uid of the first pod.
    pub uid_base: u32,
    /// The pods' network rules. Without name servers, the host's own are used, as far as pods can reach them.
    pub network: NetworkRules,
    /// Counts how often the network policy had to be restored.
    pub policy_restored: prometheus::IntCounter,
    /// Is notified when one of the runtime's threads ends.
    pub supervisor: Supervisor,
    /// The program that acts as a shim when its first argument is [`super::SHIM_ARGUMENT`].
    pub shim_exe: PathBuf,
    /// Pods can write only to their `/dev/shm`.
    pub read_only: bool,
    /// What pods run in.
    pub isolation: IsolationChoice,
    /// Directory with `boot/` and `lib/modules/` of the virtual machines' kernel.
    pub guest_kernel_root: PathBuf,
    /// What executes virtual machines. Only tests choose [`Accelerator::Tcg`].
    pub accelerator: Accelerator,
    /// Bounds.
    pub limits: Limits,
    /// A defence to leave out. For tests that show what each defence is for; no setting reaches this.
    #[doc(hidden)]
    pub without: Option<Defence>,
}

/// What pods run in, as the operator chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolationChoice {
    /// Virtual machines where a probe boots, else containers, with a warning.
    Auto,
    /// Virtual machines; without them the runtime can't be opened.
    Vm,
    /// Containers on the host's kernel.
    Container,
}

/// A defence that confines pods, which a test can disable to show its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[doc(hidden)]
pub enum Defence {
    /// The system call filter.
    Seccomp,
    /// `nosuid` of all mounts, and `no_new_privs`.
    SetUserId,
}

impl EmbeddedConfig {
    /// The default configuration with its state in `root`.
    pub fn new(root: PathBuf, images: ImageConfig) -> Self {
        Self {
            root,
            images,
            subnet: Ipv4Cidr { network: Ipv4Addr::new(10, 200, 0, 0), prefix: 16 },
            instance: "codius".to_owned(),
            link_prefix: "cdp".to_owned(),
            uid_base: 0x1000_0000,
            network: NetworkRules::default(),
            policy_restored: network::restored_counter(),
            supervisor: Supervisor::default(),
            shim_exe: "/proc/self/exe".into(),
            read_only: false,
            isolation: IsolationChoice::Container,
            guest_kernel_root: "/".into(),
            accelerator: Accelerator::Kvm,
            limits: Limits::default(),
            without: None,
        }
    }

    /// Why this configuration can't work, if it can't.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let named = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        match self {
            _ if !self.root.is_absolute() || self.root.starts_with("/run") => Some("the root is an absolute path not below /run"),
            _ if !named(&self.instance) => Some("the instance is made of letters, digits, - and _"),
            _ if !named(&self.link_prefix) || self.link_prefix.len() > LINK_PREFIX_MAX => {
                Some("the link prefix is 1 to 11 letters or digits")
            }
            _ if !(8..=30).contains(&self.subnet.prefix) => Some("the subnet's prefix is 8 to 30 bits"),
            _ => None,
        }
    }

    /// The maximum number of pods.
    pub(crate) fn slots(&self) -> u32 {
        let addresses = self.subnet.size().saturating_sub(2); // the host's side, the broadcast address
        addresses.min(SLOTS_MAX).min(self.limits.pods_max).min((u32::MAX - self.uid_base) / IDS_PER_POD)
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.subnet.address(1)
    }

    /// The parent of all pods' control groups.
    pub(crate) fn cgroup(&self) -> PathBuf {
        Path::new("/").join(&self.instance)
    }

    pub(crate) fn address(&self, slot: u32) -> Ipv4Addr {
        self.subnet.address(slot + 2)
    }

    pub(crate) fn link(&self, slot: u32) -> String {
        format!("{}{slot:04x}", self.link_prefix)
    }

    pub(crate) fn uids(&self, slot: u32) -> u32 {
        self.uid_base + slot * IDS_PER_POD
    }

    /// The network policy.
    pub fn policy(&self) -> Policy {
        Policy::new(&self.instance, Links::Prefix(self.link_prefix.clone()), Some(self.subnet), &self.network.resolved())
    }

    /// The pods' `/etc/resolv.conf`.
    pub(crate) fn resolv_conf(&self) -> String {
        self.network.resolved().nameservers.iter().map(|server| format!("nameserver {server}\n")).collect()
    }
}

/// Bounds of the embedded runtime.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of pods.
    pub pods_max: u32,
    /// Concurrent starts.
    pub starts_max: usize,
    /// Starts that may wait for a slot; beyond that the host reports that it is busy.
    pub starts_waiting_max: usize,
    /// Time limit for creating a pod whose images are already unpacked.
    pub start_timeout: Duration,
    /// Between SIGTERM and SIGKILL; a pod runs at most this much longer than was paid for.
    pub stop_grace: Duration,
    /// How long a virtual machine may leave a ping unanswered before it is ended. A host under load needs more than an idle one.
    pub vm_silence_max: Duration,
    /// Maximum number of processes and threads of a pod.
    pub pids_max: u32,
    /// Maximum number of open files per process; the host's own limit if that is lower.
    pub open_files_max: u64,
    /// What a pod's containers may write to their file systems.
    pub scratch: ScratchLimit,
    /// Maximum number of files, directories and links a pod's containers may create.
    pub scratch_inodes_max: u32,
    /// Size of a container's `/dev/shm`, in bytes; half the pod's memory if that is less. It counts as the pod's memory.
    pub shm_bytes_max: u64,
    /// Maximum length of a log line, in bytes; a longer one is split.
    pub log_line_bytes_max: usize,
    /// Maximum size of a log file, in bytes; a container has two.
    pub log_file_bytes_max: u64,
    /// Log rate limit of a pod, in bytes per second, with a burst of four seconds' worth; beyond that the pod's writes block.
    pub log_bytes_per_second_max: u64,
}

/// Where pods' writes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScratchLimit {
    /// On disk, in one file system per pod of the machine's disk size, fully allocated when the pod starts. In memory if this host doesn't
    /// support that.
    Disk,
    /// In the pod's own memory, half of it at most.
    Memory,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pods_max: 1024,
            starts_max: 4,
            starts_waiting_max: 64,
            start_timeout: Duration::from_secs(30),
            stop_grace: STOP_GRACE,
            vm_silence_max: Duration::from_secs(30),
            pids_max: 1024,
            open_files_max: 65536,
            scratch: ScratchLimit::Disk,
            scratch_inodes_max: 65536,
            shm_bytes_max: 64 << 20,
            log_line_bytes_max: 16 << 10,
            log_file_bytes_max: 4 << 20,
            log_bytes_per_second_max: 1 << 20,
        }
    }
}
