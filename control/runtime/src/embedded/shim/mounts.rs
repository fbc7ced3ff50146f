//! The shim's own mount namespace and the root file systems in it.
//!
//! All of a pod's working files are in a tmpfs over `/run` that is visible only to the shim: paths are short, every mapped user can
//! traverse them whatever the permissions of the state directory, and nothing needs cleaning up when the shim exits. Containers write to
//! the pod's own disk (`disk`), or to a second tmpfs that counts as their memory: both are of limited size, so one pod can fill neither the
//! host's disk nor another's memory.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, chown},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::{BENCH, sys};
use crate::embedded::{
    Defence, disk,
    shim_protocol::{ContainerRequest, Scratch, ShimRequest},
};

/// Size of the tmpfs for a pod's bundles, state and sockets, in bytes.
const BENCH_BYTES: u64 = 16 << 20;
pub(super) const SCRATCH: &str = "/run/scratch";

/// Enters a new mount namespace and mounts the bench.
pub(super) fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Slave, not private: pods must not pin what the host unmounts later.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bench"), BENCH, Some("tmpfs"), flags, Some(&*format!("mode=0711,size={BENCH_BYTES}"))).map_err(io::Error::from)
}

/// Mounts what containers write to, and returns the device if it is on one; `pod` is the pod's directory.
pub(super) fn scratch(pod: &Path, order: &ShimRequest) -> io::Result<Option<File>> {
    dir(Path::new(SCRATCH))?;
    match &order.bounds.scratch {
        Scratch::Disk { template } => disk::mount_new(template, pod, order.pod.id.as_str(), Path::new(SCRATCH)).map(Some),
        Scratch::Memory { bytes } => {
            let options = format!("mode=0711,size={bytes},nr_inodes={}", order.bounds.scratch_inodes);
            mount(Some("scratch"), SCRATCH, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(&*options))?;
            Ok(None)
        }
    }
}

/// Called when nothing runs any more: the written data isn't needed.
pub(super) fn abandon(order: &ShimRequest) -> io::Result<()> {
    match order.bounds.scratch {
        Scratch::Disk { .. } => disk::abandon(Path::new(SCRATCH)),
        Scratch::Memory { .. } => Ok(()),
    }
}

/// Mounts the container's root file system: its layers, idmapped to the pod's uid range, below a writable one.
pub(super) fn rootfs(order: &ShimRequest, container: &ContainerRequest) -> io::Result<PathBuf> {
    let userns = File::open(Path::new(BENCH).join("ns/user"))?;
    let work = Path::new(BENCH).join("layers");
    dir(&work)?;
    let mut lower = Vec::new();
    for (index, layer) in container.layers.iter().enumerate() {
        let at = work.join(index.to_string());
        dir(&at)?;
        let tree = sys::open_tree(layer)?;
        sys::idmap_read_only(tree.as_fd(), userns.as_fd())?;
        sys::move_mount(tree.as_fd(), &at)?;
        lower.push(at);
    }
    if lower.is_empty() {
        let empty = work.join("empty");
        dir(&empty)?;
        lower.push(empty);
    }
    let root = overlay(order, container, &lower)?;
    // The overlay holds copies of these mounts.
    for index in 0..container.layers.len() {
        umount2(&work.join(index.to_string()), MntFlags::MNT_DETACH)?;
    }
    fs::remove_dir_all(&work)?;
    Ok(root)
}

fn overlay(order: &ShimRequest, container: &ContainerRequest, lower: &[PathBuf]) -> io::Result<PathBuf> {
    let uid_base = order.uid_base;
    let writable = Path::new(SCRATCH).join(&container.name);
    let root = Path::new(BENCH).join("root").join(&container.name);
    dir(&root)?;
    for part in ["upper", "work"] {
        let part = writable.join(part);
        dir(&part)?;
        chown(&part, Some(uid_base), Some(uid_base))?;
    }
    fs::set_permissions(writable.join("upper"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let lowers: Vec<String> = lower.iter().rev().map(|path| path.display().to_string()).collect(); // overlayfs expects the topmost first
    let writable = writable.display();
    // Volatile: a pod that syncs all the time would otherwise keep the host's disk busy for data that doesn't survive a crash anyway.
    let options = format!("lowerdir={},upperdir={writable}/upper,workdir={writable}/work,volatile", lowers.join(":"));
    let nosuid = if order.without == Some(Defence::SetUserId) { MsFlags::empty() } else { MsFlags::MS_NOSUID };
    mount(Some("overlay"), &root, Some("overlay"), nosuid | MsFlags::MS_NODEV, Some(&*options))?;
    Ok(root)
}

/// A directory others may traverse and only root may list.
pub(super) fn dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}
