//! The shim's own mount namespace and the root file systems in it.
//!
//! Everything a pod needs on the way is made below a tmpfs over `/run` that only the shim sees: short paths every mapped
//! user can traverse, whatever the permissions of the state directory, and nothing to clean up when the shim is gone.
//! What containers write goes to a second tmpfs of limited size; it counts as their memory, so one pod can neither fill
//! the disk nor another's memory, and no quota of the host's file system is needed.

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
use crate::embedded::record::{ContainerOrder, Order};

/// Room for bundles, state and sockets of a pod, in bytes.
const BENCH_BYTES: u64 = 16 << 20;
/// Files and directories the containers of a pod may create.
const SCRATCH_INODES: u32 = 65536;
const SCRATCH: &str = "/run/scratch";

/// Enters a mount namespace of its own and lays out the bench.
pub(super) fn enter(order: &Order) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Slave, not private: what the host unmounts later must not stay pinned by pods.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bench"), BENCH, Some("tmpfs"), flags, Some(&*format!("mode=0711,size={BENCH_BYTES}")))?;
    dir(Path::new(SCRATCH))?;
    let options = format!("mode=0711,size={},nr_inodes={SCRATCH_INODES}", order.bounds.scratch_bytes);
    mount(Some("scratch"), SCRATCH, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(&*options))?;
    write_names(order)
}

/// The files of `/etc` that say who and where the pod is.
fn write_names(order: &Order) -> io::Result<()> {
    let (id, address) = (&order.pod.id, order.pod.address);
    let etc = Path::new(BENCH).join("etc");
    dir(&etc)?;
    fs::write(etc.join("hostname"), format!("{id}\n"))?;
    fs::write(etc.join("hosts"), format!("127.0.0.1\tlocalhost\n{address}\t{id}\n"))?;
    fs::write(etc.join("resolv.conf"), &order.resolv_conf)
}

/// Mounts the root file system of the container: its layers, seen through the pod's uid range, under a writable one.
pub(super) fn rootfs(container: &ContainerOrder, uid_base: u32) -> io::Result<PathBuf> {
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
    let root = overlay(container, &lower, uid_base)?;
    // The overlay holds copies of these mounts.
    for index in 0..container.layers.len() {
        umount2(&work.join(index.to_string()), MntFlags::MNT_DETACH)?;
    }
    fs::remove_dir_all(&work)?;
    Ok(root)
}

fn overlay(container: &ContainerOrder, lower: &[PathBuf], uid_base: u32) -> io::Result<PathBuf> {
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
    let options = format!("lowerdir={},upperdir={writable}/upper,workdir={writable}/work", lowers.join(":"));
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(&*options))?;
    Ok(root)
}

/// A directory others may traverse and only root may list.
pub(super) fn dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}
