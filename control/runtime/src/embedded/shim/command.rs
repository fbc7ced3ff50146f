//! Checks of the image before anything runs: where the command is, and that the working directory exists.
//!
//! Every path is resolved by the kernel inside the container's root (`RESOLVE_IN_ROOT`): the image is not trusted.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{MetadataExt, fchown},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
};

use super::{Failure, Step};
use crate::embedded::record::ContainerOrder;

const EXECUTABLE: u32 = 0o111;

/// Makes sure of the working directory (created when missing, as image builders do) and finds the program to execute.
pub(super) fn find(container: &ContainerOrder, rootfs: &Path, uid_base: u32) -> Result<PathBuf, Failure> {
    let root = OwnedFd::from(File::open(rootfs).step("opening the root file system")?);
    let cwd = Path::new(&container.cwd);
    make_dirs(&root, cwd, uid_base)
        .map_err(|error| Failure::uploader(format!("container {}: working directory {}: {error}", container.name, cwd.display())))?;
    let command = container.argv.first().map_or("", String::as_str);
    let found = candidates(container, command).into_iter().find(|path| is_executable(&root, path));
    found.ok_or_else(|| Failure::uploader(format!("container {}: {command:?} is not an executable file of the image", container.name)))
}

fn candidates(container: &ContainerOrder, command: &str) -> Vec<PathBuf> {
    if command.is_empty() {
        return Vec::new();
    }
    if command.contains('/') {
        return vec![Path::new(&container.cwd).join(command)];
    }
    let path = container.env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':').map(|dir| Path::new(&container.cwd).join(dir).join(command)).collect()
}

fn is_executable(root: &OwnedFd, path: &Path) -> bool {
    let Ok(file) = open(root, path, OFlag::O_PATH) else { return false };
    File::from(file).metadata().is_ok_and(|found| found.is_file() && found.mode() & EXECUTABLE != 0)
}

fn make_dirs(root: &OwnedFd, path: &Path, owner: u32) -> io::Result<()> {
    let mut at = open(root, Path::new("/"), OFlag::O_DIRECTORY)?;
    let mut walked = PathBuf::from("/");
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        walked.push(name);
        at = match open(root, &walked, OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => make_dir(&at, name, owner)?,
            found => found?,
        };
    }
    Ok(())
}

fn make_dir(parent: &OwnedFd, name: &OsStr, owner: u32) -> io::Result<OwnedFd> {
    mkdirat(Some(parent.as_raw_fd()), name, Mode::from_bits_truncate(0o755))?;
    let made = open(parent, Path::new(name), OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
    fchown(&made, Some(owner), Some(owner))?;
    Ok(made)
}

fn open(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(root.as_raw_fd(), path, how)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
