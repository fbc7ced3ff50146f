//! The jail's namespaces, and the root file system in them.

use std::{
    env,
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::Path,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount},
    process::pivot_root,
    thread::{UnshareFlags, unshare_unsafe},
};

use super::Errand;

/// Paths inside.
pub(super) const PROGRAM: &str = "/mkfs.erofs";
pub(super) const OUTPUT: &str = "/out";
pub(super) const TREE: &str = "/tree";

/// Names beside `/usr` under which programs and their interpreters are found.
const USRS_OWN: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];
/// The tmpfs holds a few empty directories and links.
const TMPFS: &std::ffi::CStr = c"mode=0755,size=1m,nr_inodes=2k";

/// Moves the calling thread into the jail.
pub(super) fn enter(errand: &Errand<'_>) -> io::Result<()> {
    let own = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: the table of file descriptors stays shared (no `FILES`).
    unsafe { unshare_unsafe(own) }.map_err(at("making namespaces"))?;
    // Slave, not private: the jail must not pin what the host unmounts meanwhile.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(at("detaching mounts"))?;
    mount("jail", errand.mount_point, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, TMPFS).map_err(at("mounting the jail's root"))?;
    // From here on paths are relative to the new root. The thread has a working directory of its own, with its mount namespace.
    env::set_current_dir(errand.mount_point)?;
    programs(errand.program)?;
    tree(errand)?;
    File::create("out")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    bind(errand.output, Path::new("out"), flags)?;
    mount_remount(".", MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, c"")?;
    pivot_root(".", ".").map_err(at("changing the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(at("leaving the host's root"))?;
    env::set_current_dir("/")
}

/// `/usr`, what is linked to it, and the program.
fn programs(program: &Path) -> io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    fs::create_dir("usr")?;
    bind(Path::new("/usr"), Path::new("usr"), flags)?;
    for name in USRS_OWN {
        let host = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&host) {
            symlink(target, name)?;
        } else if host.is_dir() {
            fs::create_dir(name)?;
            bind(&host, Path::new(name), flags)?;
        }
    }
    File::create("mkfs.erofs")?;
    bind(program, Path::new("mkfs.erofs"), flags)
}

/// The layers, merged as a container would see them.
fn tree(errand: &Errand<'_>) -> io::Result<()> {
    fs::create_dir("tree")?;
    if errand.layers.is_empty() {
        return Ok(());
    }
    // The names are short because the kernel takes one page of options. The lowest layer is empty: an overlay that can't be written to
    // has two layers at least.
    fs::create_dir("l")?;
    fs::create_dir("l/empty")?;
    let mut lowers = Vec::new();
    for (index, layer) in errand.layers.iter().enumerate() {
        let at = format!("l/{index}");
        fs::create_dir(&at)?;
        bind(layer, Path::new(&at), MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)?;
        lowers.push(at);
    }
    let topmost_first: Vec<&str> = lowers.iter().rev().map(String::as_str).chain(["l/empty"]).collect();
    let options = CString::new(format!("lowerdir={}", topmost_first.join(":")))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tree", "tree", "overlay", flags, &*options).map_err(at("mounting the overlay of the layers"))?;
    // The overlay holds copies of these mounts.
    lowers.iter().try_for_each(|lower| unmount(lower, UnmountFlags::DETACH)).map_err(io::Error::from)
}

/// Makes something of the host visible inside, with these flags.
fn bind(what: &Path, inside: &Path, flags: MountFlags) -> io::Result<()> {
    mount_bind(what, inside).and_then(|()| mount_remount(inside, MountFlags::BIND | flags, c"")).map_err(at("mounting a part of the host"))
}

fn at(step: &'static str) -> impl Fn(rustix::io::Errno) -> io::Error {
    move |errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("{step}: {error}"))
    }
}
