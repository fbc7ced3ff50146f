//! The protocol between daemon and shim: the order for one pod, the answer to it, and the files that outlive the daemon.
//!
//! | file in the pod's directory | written by | content |
//! |---|---|---|
//! | `pod.json` | daemon, before the shim | the host resources the pod holds, so that they can be released even if daemon or shim died |
//! | `lock` | shim | locked (`fcntl`) as long as the shim lives; the kernel names the holder |
//! | `status.json` | shim, once all containers run | when they were started; missing if the start never completed |
//! | `logs/NAME.log`, `logs/NAME.log.1` | shim | the containers' output |
//! | `shim.log` | shim | its own panics |
//!
//! No file holds environment values: the order travels through a pipe and is never written down.

use std::{fs, io, io::Write, net::Ipv4Addr, os::unix::fs::OpenOptionsExt, path::Path, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Defence,
    veth::Veth,
    vm::{engine::Accelerator, kernel::Kernel},
};
use crate::{Machine, PodId, error::Fault};

/// Version of the files; a newer daemon reads those of older shims, and no daemon interprets those of newer ones.
pub(crate) const VERSION: u32 = 1;
pub(crate) const POD_FILE: &str = "pod.json";
pub(crate) const STATUS_FILE: &str = "status.json";
pub(crate) const LOCK_FILE: &str = "lock";
pub(crate) const LOGS_DIR: &str = "logs";
pub(crate) const SHIM_LOG: &str = "shim.log";

/// The host resources of a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) version: u32,
    pub(crate) id: PodId,
    pub(crate) incarnation: u64,
    /// The index that determines its address, uid range and link name (see `config`).
    pub(crate) slot: u32,
    pub(crate) address: Ipv4Addr,
    /// The host's end of the veth pair.
    pub(crate) link: String,
    /// Path of the pod's control group below each hierarchy, absolute. Also the link's alias, which thus identifies the link's pod.
    pub(crate) cgroup: PathBuf,
    pub(crate) memory_bytes: u64,
    /// Names of the containers, in the manifest's order.
    pub(crate) containers: Vec<String>,
    /// What its virtual machine is made of (`VmPlan::fingerprint`); none: it consists of containers on the host's kernel.
    #[serde(default)]
    pub(crate) vm: Option<String>,
}

impl PodRecord {
    /// Name of the pod's directory: unique per start, so that leftovers of a stopped pod don't collide with the next one of that id.
    pub(crate) fn directory(id: &PodId, incarnation: u64) -> String {
        format!("{id}.{incarnation:016x}")
    }
}

/// Written when all containers have been started.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: u32,
    /// Milliseconds since the Unix epoch.
    pub(crate) started_at_ms: u64,
}

/// Everything a shim needs. Holds private values: no `Debug`.
#[derive(Serialize, Deserialize)]
pub(crate) struct ShimRequest {
    pub(crate) pod: PodRecord,
    pub(crate) machine: Machine,
    /// The lock file that claims the pod's network; the shim keeps it locked.
    pub(crate) claim: PathBuf,
    pub(crate) wire: Veth,
    /// First host uid and gid of the pod's 65536.
    pub(crate) uid_base: u32,
    pub(crate) resolv_conf: String,
    /// Containers can't write to their root file systems.
    pub(crate) read_only: bool,
    pub(crate) bounds: Bounds,
    /// No program of an image runs: the first process waits to be checked, and the shim ends (see `probe`).
    pub(crate) probe: bool,
    /// A defence left out by tests; no setting reaches this.
    pub(crate) without: Option<Defence>,
    pub(crate) containers: Vec<ContainerRequest>,
    /// The virtual machine the containers run in; none: they run on the host's kernel.
    pub(crate) vm: Option<VmRequest>,
}

/// What a pod's virtual machine is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VmRequest {
    pub(crate) accelerator: Accelerator,
    /// Path of QEMU.
    pub(crate) program: PathBuf,
    pub(crate) firmware: PathBuf,
    pub(crate) kernel: Kernel,
    /// Image files (erofs), by the index that containers name.
    pub(crate) images: Vec<PathBuf>,
    /// Memory of the guest, in bytes: what was paid for, and what its kernel takes.
    pub(crate) guest_memory_bytes: u64,
    /// Memory limit on the host, in bytes: the guest's, and what QEMU takes.
    pub(crate) host_memory_bytes: u64,
    /// Time limit for the boot and the creation of the containers.
    pub(crate) start_timeout_ms: u64,
    /// Time limit for the answer to a ping.
    pub(crate) silence_ms: u64,
}

/// The limits a shim enforces, as defined in `config::Limits`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bounds {
    pub(crate) pids: u32,
    pub(crate) scratch: Scratch,
    pub(crate) scratch_inodes: u32,
    pub(crate) shm_bytes: u64,
    pub(crate) open_files: u64,
    pub(crate) stop_grace_ms: u64,
    pub(crate) oom_score_adj: i32,
    pub(crate) log: LogBounds,
}

/// The step that fails if pods can't have disks of their own here.
pub(crate) const DISK_STEP: &str = "making the pod's disk";
/// The step that fails if the host's disk has no room for one.
pub(crate) const DISK_FULL_STEP: &str = "setting the pod's disk aside: the host's is full";

/// Where containers' writes go.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scratch {
    /// A file system of its own, in a file copied from this template.
    Disk { template: PathBuf },
    /// The pod's own memory.
    Memory { bytes: u64 },
}

/// Bounds of a pod's logs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct LogBounds {
    pub(crate) line_bytes: usize,
    /// Per log file; a container has two.
    pub(crate) file_bytes: u64,
    /// Of all containers together.
    pub(crate) bytes_per_second: u64,
}

/// One container, image configuration and manifest merged.
#[derive(Serialize, Deserialize)]
pub(crate) struct ContainerRequest {
    pub(crate) name: String,
    /// Unpacked layers, lowest first; none in a virtual machine.
    pub(crate) layers: Vec<PathBuf>,
    /// Index of its image among those of the virtual machine.
    pub(crate) image: u16,
    pub(crate) argv: Vec<String>,
    /// `NAME=value`, names unique.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    /// `user[:group]`, to be looked up in the image; empty is root.
    pub(crate) user: String,
    /// Directories that must exist.
    pub(crate) volumes: Vec<String>,
}

/// The shim's one line of answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ShimReply {
    Started {
        started_at_ms: u64,
    },
    Failed {
        /// Who must act.
        fault: Fault,
        /// The failed step, worded for the uploader.
        step: String,
        /// The full cause, for the log.
        cause: String,
    },
}

/// Writes `value` atomically, so that a reader gets the old file or the new one; readable only by root.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    fs::rename(&partial, path)
}

/// The version of a file, ignoring its other fields.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads what [`write_json`] wrote; `None` when the file doesn't exist, or is incomplete because the machine went down. A file of a newer
/// version is an error: treating its pod as dead would remove a running pod.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            if let Ok(Versioned { version }) = serde_json::from_slice(&bytes)
                && version > VERSION
            {
                let what = format!("{} has version {version}, written by a newer codiusd; use that version", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            Ok(serde_json::from_slice(&bytes)
                .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "file unreadable; ignored"))
                .ok())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the format of the first release.
    const FIRST: &str = r#"{"version":1,"id":"ID","incarnation":7,"slot":0,"address":"10.200.0.2","link":"cdp0000","cgroup":"/codius/x","memory_bytes":1,"containers":["app"]}"#;

    #[test]
    fn files_of_older_versions_are_read_and_those_of_newer_ones_are_not_guessed_at() {
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join(POD_FILE);
        let first = FIRST.replace("ID", &"a".repeat(52));
        fs::write(&path, &first).unwrap();
        let record: PodRecord = read_json(&path).unwrap().expect("the first release's file");
        assert_eq!((record.version, record.incarnation, record.containers.as_slice()), (1, 7, &["app".to_owned()][..]));
        for newer in [first.replace(r#""version":1"#, r#""version":2"#), r#"{"version":2,"of another shape":true}"#.to_owned()] {
            fs::write(&path, newer).unwrap();
            let error = read_json::<PodRecord>(&path).unwrap_err().to_string();
            assert!(error.contains("version 2") && error.contains("newer codiusd"), "{error}");
        }
        fs::write(&path, &first[..20]).unwrap();
        assert!(read_json::<PodRecord>(&path).unwrap().is_none(), "the machine went down while it was written");
    }
}
