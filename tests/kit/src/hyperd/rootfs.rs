//! Roots of containers: busybox, a page to serve, and what every Linux has.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use super::state::Container;

const PAGE: &str = "<h1>hello from a codius pod</h1>\n";
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\n\
                     ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
/// Waits until it is told to end.
const MONEYD: &str = "#!/bin/sh\nexec sleep 1000000\n";
/// Of the machine: a busybox, or a program, may need them.
const LIBRARIES: &[&str] = &["/lib", "/lib64", "/usr/lib"];

fn bin(dir: &Path) -> PathBuf {
    dir.join("bin")
}

/// The root of a container, seen from the host.
pub(super) fn root(dir: &Path, container: &str) -> PathBuf {
    dir.join("roots").join(container)
}

/// Makes the `/bin` that all share.
pub(super) fn make_bin(dir: &Path) -> io::Result<()> {
    let bin = bin(dir);
    if bin.exists() {
        return Ok(());
    }
    let next = dir.join("bin.next");
    fs::create_dir_all(&next)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let busybox = std::env::split_paths(&path).map(|dir| dir.join("busybox")).find(|file| file.exists());
    let busybox = busybox.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "busybox isn't installed"))?;
    fs::copy(&busybox, next.join("busybox"))?;
    let applets = Command::new(&busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", next.join(applet))?;
    }
    fs::write(next.join("moneyd"), MONEYD)?;
    fs::set_permissions(next.join("moneyd"), fs::Permissions::from_mode(0o755))?;
    fs::rename(next, bin)
}

/// Makes a container's root.
pub(super) fn make(dir: &Path, container: &str) -> io::Result<()> {
    let root = root(dir, container);
    for below in ["www", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(below))?;
    }
    fs::write(root.join("www/index.html"), PAGE)?;
    fs::write(root.join("etc/hosts"), HOSTS)?;
    fs::write(root.join("etc/resolv.conf"), fs::read("/etc/resolv.conf").unwrap_or_default())
}

/// Removes a container's root.
pub(super) fn remove(dir: &Path, container: &str) {
    let _ = fs::remove_dir_all(root(dir, container));
}

/// What is mounted into a container's root: from, to.
pub(super) fn binds(dir: &Path, container: &Container) -> Vec<(PathBuf, PathBuf)> {
    let mut binds = vec![(bin(dir), "/bin".into()), ("/dev".into(), "/dev".into())];
    binds.extend(LIBRARIES.iter().map(PathBuf::from).filter(|library| library.is_dir()).map(|library| (library.clone(), library)));
    if let Some(program) = &container.program {
        let name = program.file_name().unwrap_or_else(|| OsStr::new("program"));
        binds.push((program.clone(), Path::new("/").join(name)));
    }
    binds
}
