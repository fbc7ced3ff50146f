//! The shim's own mount namespace and the root file systems in it.
//!
//! Everything a pod needs on the way is made below a tmpfs over `/run` that only the shim sees: short paths every mapped
//! user can traverse, whatever the permissions of the state directory, and nothing to clean up when the shim is gone.
//! What containers write goes to the pod's own disk (`disk`), or to a second tmpfs that counts as their memory: either
//! way of limited size, so one pod can neither fill the host's disk nor another's memory.

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
    record::{ContainerOrder, Order, Scratch},
};

/// Room for bundles, state and sockets of a pod, in bytes.
const BENCH_BYTES: u64 = 16 << 20;
pub(super) const SCRATCH: &str = "/run/scratch";

/// Enters a mount namespace of its own and lays out the bench.
pub(super) fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Slave, not private: what the host unmounts later must not stay pinned by pods.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bench"), BENCH, Some("tmpfs"), flags, Some(&*format!("mode=0711,size={BENCH_BYTES}"))).map_err(io::Error::from)
}

/// Mounts what containers write to, and answers the device if it is on one; `pod` is the pod's directory.
pub(super) fn scratch(pod: &Path, order: &Order) -> io::Result<Option<File>> {
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

/// When nothing runs any more: what was written is nobody's.
pub(super) fn abandon(order: &Order) -> io::Result<()> {
    match order.bounds.scratch {
        Scratch::Disk { .. } => disk::abandon(Path::new(SCRATCH)),
        Scratch::Memory { .. } => Ok(()),
    }
}

/// Mounts the root file system of the container: its layers, seen through the pod's uid range, under a writable one.
pub(super) fn rootfs(order: &Order, container: &ContainerOrder) -> io::Result<PathBuf> {
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

fn overlay(order: &Order, container: &ContainerOrder, lower: &[PathBuf]) -> io::Result<PathBuf> {
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
    let lowers: Vec<String> = lower.iter().rev().map(|path| path.display().to_string()).collect(); // overlayfs wants the topmost first
    let writable = writable.display();
    // Volatile: a pod that syncs all the time would keep the host's disk busy for what isn't there after a crash anyway.
    let options = format!("lowerdir={},upperdir={writable}/upper,workdir={writable}/work,volatile", lowers.join(":"));
    let nosuid = if order.without == Some(Defence::SetUserId) { MsFlags::empty() } else { MsFlags::MS_NOSUID };
    mount(Some("overlay"), &root, Some("overlay"), nosuid | MsFlags::MS_NODEV, Some(&*options))?;
    Ok(root)
}

/// A directory others may traverse and only root may list.
pub(super) fn dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}
