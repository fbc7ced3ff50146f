//! What a container sees: its root, the kernel's file systems, devices, its names, and what of the machine is hidden from it.
//!
//! Everything is mounted before the process enters its root, on paths that the kernel resolves with that root as theirs ([`Root`]), so that
//! no link of an image leads out of it.

use std::{
    env, fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::symlink,
    },
    path::Path,
};

use codiusd_container_rootfs::{
    Prepared, Root,
    confinement::{MASKED, READ_ONLY},
    is_hosts_own,
};
use codiusd_guest_protocol::Order;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, makedev, mknod, umask},
    unistd::pivot_root,
};

use crate::report::{At, Failed};

const NOSUID: MsFlags = MsFlags::MS_NOSUID;
const NODEV: MsFlags = MsFlags::MS_NODEV;
const NOTHING: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// A file system of the kernel in a container.
struct Mount<'a> {
    at: &'a str,
    kind: &'a str,
    flags: MsFlags,
    options: &'a str,
}

/// Device files, with their numbers.
const DEVICES: [(&str, u64, u64); 6] = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Links in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
/// Directories in `/dev` that something is mounted on.
const DIRECTORIES: [&str; 3] = ["pts", "shm", "mqueue"];
const DEVICE_MODE: Mode = Mode::from_bits_truncate(0o666);

/// Makes all this process's own view, and enters it.
pub(crate) fn enter(order: &Order, prepared: &Prepared, names: &Path) -> Result<(), Failed> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).preparing("making the mount namespace")?;
    // Opened here: a descriptor from outside would lead to the mounts outside.
    let root = Root::open(&prepared.rootfs, 0).preparing("opening the root file system")?;
    let view = View { root: &root };
    view.volumes(order, prepared).preparing("mounting the volumes")?;
    view.kernels(order.bounds.shm_bytes).preparing("mounting the container's file systems")?;
    view.names(names, order.read_only).preparing("mounting the files of /etc")?;
    view.hide().preparing("hiding what is the machine's")?;
    if order.read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | NOSUID | NODEV;
        mount(None::<&str>, &prepared.rootfs, None::<&str>, flags, None::<&str>).preparing("making the root read-only")?;
    }
    enter_root(&prepared.rootfs).preparing("entering the root file system")
}

/// A root file system that is being mounted on.
struct View<'a> {
    root: &'a Root,
}

impl View<'_> {
    /// Volumes stay writable on a read-only root file system: each is mounted over itself.
    fn volumes(&self, order: &Order, prepared: &Prepared) -> io::Result<()> {
        let own = |path: &&std::path::PathBuf| !is_hosts_own(path) && path.parent().is_some();
        for path in prepared.volumes.iter().filter(|path| order.read_only && own(path)) {
            self.bind(&reference(&self.root.open_path(path)?), path, NOSUID | NODEV)?;
        }
        Ok(())
    }

    fn kernels(&self, shm_bytes: u64) -> io::Result<()> {
        let shm = format!("mode=1777,size={shm_bytes}");
        self.mount(&Mount { at: "/proc", kind: "proc", flags: NOTHING, options: "" })?;
        self.mount(&Mount { at: "/dev", kind: "tmpfs", flags: NOSUID | MsFlags::MS_STRICTATIME, options: "mode=755,size=64k" })?;
        self.devices()?;
        let no_exec = NOSUID | MsFlags::MS_NOEXEC;
        for mount in [
            Mount { at: "/dev/pts", kind: "devpts", flags: no_exec, options: "newinstance,ptmxmode=0666,mode=0620,gid=5" },
            Mount { at: "/dev/shm", kind: "tmpfs", flags: NOTHING, options: &shm },
            Mount { at: "/dev/mqueue", kind: "mqueue", flags: NOTHING, options: "" },
            Mount { at: "/sys", kind: "sysfs", flags: NOTHING | MsFlags::MS_RDONLY, options: "" },
            // In its own namespace, so it is the container's group alone.
            Mount { at: "/sys/fs/cgroup", kind: "cgroup2", flags: NOTHING | MsFlags::MS_RDONLY, options: "" },
        ] {
            self.mount(&mount)?;
        }
        Ok(())
    }

    fn devices(&self) -> io::Result<()> {
        let dev = self.root.open_path(Path::new("/dev"))?;
        let path = |name: &str| Path::new(&reference(&dev)).join(name);
        let mask = umask(Mode::empty());
        for (name, major, minor) in DEVICES {
            mknod(&path(name), SFlag::S_IFCHR, DEVICE_MODE, makedev(major, minor))?;
        }
        umask(mask);
        for (target, name) in LINKS {
            symlink(target, path(name))?;
        }
        DIRECTORIES.iter().try_for_each(|name| fs::create_dir(path(name)))
    }

    fn names(&self, names: &Path, read_only: bool) -> io::Result<()> {
        let access = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        for entry in fs::read_dir(names)? {
            let entry = entry?;
            self.bind(&entry.path().to_string_lossy(), &Path::new("/etc").join(entry.file_name()), access | NOTHING)?;
        }
        Ok(())
    }

    fn hide(&self) -> io::Result<()> {
        for path in READ_ONLY {
            if let Some(found) = self.find(path)? {
                self.bind(&reference(&found), Path::new(path), MsFlags::MS_RDONLY | NOTHING)?;
            }
        }
        for path in MASKED {
            let Some(found) = self.find(path)? else { continue };
            if fs::metadata(reference(&found))?.is_dir() {
                self.mount(&Mount { at: path, kind: "tmpfs", flags: NOTHING | MsFlags::MS_RDONLY, options: "" })?;
            } else {
                mount(Some("/dev/null"), &*reference(&found), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            }
        }
        Ok(())
    }

    /// A path that not every kernel has.
    fn find(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        match self.root.open_path(Path::new(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn mount(&self, Mount { at, kind, flags, options }: &Mount<'_>) -> io::Result<()> {
        let on = self.root.open_path(Path::new(at))?;
        let done = mount(Some(*kind), &*reference(&on), Some(*kind), *flags, Some(*options));
        done.map_err(|errno| io::Error::other(format!("{at}: {}", errno.desc())))
    }

    /// Mounts a file or directory; its flags take a second step.
    fn bind(&self, source: &str, at: &Path, flags: MsFlags) -> io::Result<()> {
        let on = self.root.open_path(at)?;
        mount(Some(source), &*reference(&on), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let mounted = self.root.open_path(at)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags;
        Ok(mount(None::<&str>, &*reference(&mounted), None::<&str>, flags, None::<&str>)?)
    }
}

/// A path to an open file.
fn reference(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The old root is mounted over the new one for a moment, and then unmounted.
fn enter_root(root: &Path) -> io::Result<()> {
    env::set_current_dir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    env::set_current_dir("/")
}
