//! The host's directory: creates and locks it, and binds the socket in it.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use super::StartError;
use crate::{config::Config, lock_file::lock_file, ready_file::ReadyFile, runtimes};

/// Creates the host's directories, and keeps other hosts out of them while the locks are held.
pub(super) fn take(config: &Config) -> Result<(PathBuf, (File, Option<File>)), StartError> {
    let run = prepare_root(&config.root)?;
    let locks = (lock(&config.root)?, runtimes::plan(config).lock()?);
    ReadyFile::forget(&run).map_err(|source| StartError::Root { path: run.clone(), operation: "remove ready.json", source })?;
    Ok((run, locks))
}

/// Creates the directories. The set-up of containers runs as an unprivileged user and must be able to traverse the root.
fn prepare_root(root: &Path) -> Result<PathBuf, StartError> {
    let make = |path: &Path, mode: u32| {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| StartError::Root { path: path.to_owned(), operation: "make the directory", source })
    };
    make(root, 0o711)?;
    let run = root.join("run");
    make(&run, 0o700)?;
    Ok(run)
}

/// Keeps a second codiusd out. The kernel releases the lock when the process ends, however it ends.
fn lock(root: &Path) -> Result<File, StartError> {
    let path = root.join("lock");
    match lock_file(&path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(StartError::Locked(root.to_owned())),
        Err(source) => Err(StartError::Root { path, operation: "lock it", source }),
    }
}

/// Binds the control API's socket, in a directory that only codiusd's user may enter.
pub(super) fn bind_socket(path: &Path) -> Result<UnixListener, StartError> {
    let fail =
        |source| StartError::Root { path: path.to_owned(), operation: "make the socket (is the path longer than 100 characters?)", source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    UnixListener::bind(path).map_err(fail)
}
