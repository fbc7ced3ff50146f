//! The OCI runtime configuration of one container, a pure function of the order.

use std::path::{Path, PathBuf};

use codiusd_container_rootfs::{
    Prepared,
    confinement::{CORE_BYTES, MASKED, READ_ONLY, ROOT_CAPABILITIES, UMASK},
    is_hosts_own,
};
use serde_json::{Value, json};

use super::{BENCH, surroundings};
use crate::embedded::{
    Defence,
    shim_protocol::{ContainerRequest, ShimRequest},
};

/// The configuration of `container`. Without its variables: we pass those to its first process.
pub(super) fn config(order: &ShimRequest, container: &ContainerRequest, prepared: &Prepared) -> Value {
    let who = &prepared.who;
    let all_mounts = [mounts(order, container), volumes(order, prepared)].concat();
    let capabilities: Vec<&str> = ROOT_CAPABILITIES.iter().filter(|_| who.uid == 0).map(|(name, _)| *name).collect();
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": prepared.rootfs, "readonly": order.read_only },
        "process": {
            "terminal": false,
            "user": { "uid": who.uid, "gid": who.gid, "umask": UMASK, "additionalGids": who.groups },
            "args": container.argv,
            // Keeps libcontainer from looking up the user's home with the image's own files.
            "env": ["HOME=/"],
            "cwd": if prepared.late_cwd().is_some() { Path::new("/") } else { &prepared.cwd },
            "noNewPrivileges": order.without != Some(Defence::SetUserId),
            "oomScoreAdj": order.bounds.oom_score_adj,
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities, "inheritable": [], "ambient": []
            },
            "rlimits": [
                { "type": "RLIMIT_CORE", "soft": CORE_BYTES, "hard": CORE_BYTES },
                { "type": "RLIMIT_NOFILE", "soft": order.bounds.open_files, "hard": order.bounds.open_files },
            ],
        },
        "mounts": all_mounts,
        "linux": {
            // Absolute: with a user namespace, libcontainer passes any other path to systemd.
            "cgroupsPath": order.pod.cgroup.join(&container.name),
            "namespaces": namespaces(),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        },
    })
}

fn namespaces() -> Value {
    let shared = |kind: &str, file: &str| json!({ "type": kind, "path": format!("{BENCH}/ns/{file}") });
    json!([
        shared("user", "user"),
        shared("network", "net"),
        shared("ipc", "ipc"),
        shared("uts", "uts"),
        { "type": "pid" },
        { "type": "mount" },
        { "type": "cgroup" },
    ])
}

/// Volumes stay writable on a read-only root file system: each is bind-mounted over itself.
fn volumes(order: &ShimRequest, prepared: &Prepared) -> Vec<Value> {
    let volumes = prepared.volumes.iter().filter(|path| order.read_only && !is_hosts_own(path) && path.parent().is_some());
    let bind = |path: &PathBuf| {
        let source = prepared.rootfs.join(path.strip_prefix("/").unwrap_or(path));
        json!({ "destination": path, "type": "bind", "source": source, "options": ["bind", "rw", "nosuid", "nodev"] })
    };
    volumes.map(bind).collect()
}

fn mounts(order: &ShimRequest, container: &ContainerRequest) -> Vec<Value> {
    let shm = format!("size={}", order.bounds.shm_bytes);
    let names = surroundings::names_of(container);
    let access = if order.read_only { "ro" } else { "rw" };
    let name = |file: &str| {
        json!({
            "destination": format!("/etc/{file}"), "type": "bind", "source": names.join(file),
            "options": ["bind", access, "nosuid", "nodev", "noexec"],
        })
    };
    let mounts = json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=64k"] },
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", shm] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        {
            "destination": "/sys/fs/cgroup", "type": "bind", "source": surroundings::groups_of(container),
            "options": ["rbind", "ro", "nosuid", "nodev", "noexec"],
        },
        name("hostname"),
        name("hosts"),
        name("resolv.conf"),
    ]);
    if let Value::Array(mounts) = mounts { mounts } else { Vec::new() }
}
