//! From the kernel's initramfs to a machine with devices.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::stat::{Mode, umask},
    unistd::chroot,
};

use crate::{
    failure::{Failure, Step},
    groups,
};

/// Modules of the kernel, in the initramfs.
const MODULES: &str = "/modules";
/// Names of files in [`MODULES`], one a line, in the order in which they are loaded.
const MODULES_ORDER: &str = "order";
/// The root in which everything happens: a root that is the initramfs can't be left by `pivot_root`, which containers need.
const NEW_ROOT: &str = "/new";
const NEW_ROOT_OPTIONS: &str = "mode=0755,size=16m";
/// The kernel's file systems, and their directories.
const KERNELS: [(&str, &str, MsFlags); 3] = [
    ("proc", "/proc", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC)),
    ("sysfs", "/sys", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC)),
    ("devtmpfs", "/dev", MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC)),
];
/// This process must not be killed for want of memory.
const OOM_SCORE: &str = "-1000";

/// Mounts the kernel's file systems, loads its modules, and moves to a root in memory.
pub(crate) fn boot() -> Result<(), Failure> {
    umask(Mode::from_bits_truncate(0o022));
    for (kind, at, flags) in KERNELS {
        dir(Path::new(at)).step("mounting the kernel's file systems")?;
        mount(Some(kind), at, Some(kind), flags, None::<&str>).step("mounting the kernel's file systems")?;
    }
    fs::write("/proc/self/oom_score_adj", OOM_SCORE).step("lowering the OOM score")?;
    load_modules(Path::new(MODULES)).step("loading modules")?;
    leave_initramfs().step("leaving the initramfs")?;
    dir(Path::new("/run")).step("making a directory")?;
    groups::mount_all().step("mounting the control groups")
}

fn load_modules(directory: &Path) -> io::Result<()> {
    let order = fs::read_to_string(directory.join(MODULES_ORDER))?;
    for path in modules(directory, &order) {
        let load = || finit_module(File::open(&path)?, c"", ModuleInitFlags::empty()).map_err(io::Error::from);
        match load() {
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
            done => done.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?,
        }
    }
    fs::remove_dir_all(directory) // their memory is free again
}

fn modules(directory: &Path, order: &str) -> Vec<PathBuf> {
    order.lines().map(str::trim).filter(|name| !name.is_empty()).map(|name| directory.join(name)).collect()
}

fn leave_initramfs() -> io::Result<()> {
    let new = Path::new(NEW_ROOT);
    dir(new)?;
    mount(Some("root"), new, Some("tmpfs"), MsFlags::MS_NOSUID, Some(NEW_ROOT_OPTIONS))?;
    for (_, at, _) in KERNELS {
        let to = new.join(at.trim_start_matches('/'));
        dir(&to)?;
        mount(Some(at), &to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    }
    env::set_current_dir(new)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    env::set_current_dir("/")
}

/// A directory that may be there.
fn dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_in_their_files_order() {
        let found = modules(Path::new("/modules"), "virtio_ring.ko\n\n  virtio.ko\r\n");
        assert_eq!(found, [Path::new("/modules/virtio_ring.ko"), Path::new("/modules/virtio.ko")]);
        assert!(load_modules(Path::new("/nonexistent")).is_err());
    }
}
