//! The host's directory: made, locked, and the socket in it.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use super::StartError;
use crate::{
    config::{Config, RuntimeChoice},
    ready::ReadyFile,
};

/// Makes the host's directories, and keeps other hosts out of them while the locks are held.
pub(super) fn take(config: &Config) -> Result<(PathBuf, (File, Option<File>)), StartError> {
    let run = prepare_root(&config.root)?;
    let locks = (lock(&config.root)?, claim(config)?);
    ReadyFile::forget(&run).map_err(|source| StartError::Root { path: run.clone(), operation: "remove ready.json", source })?;
    Ok((run, locks))
}

/// Makes the directories. Containers' set-up, an unprivileged user of this machine, must be able to pass through.
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

/// Keeps a second codiusd out. The lock goes with the process, however that ends.
fn lock(root: &Path) -> Result<File, StartError> {
    let path = root.join("lock");
    match lock_file(&path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(StartError::Locked(root.to_owned())),
        Err(source) => Err(StartError::Root { path, operation: "lock it", source }),
    }
}

/// A file, locked; none if another process has it locked.
fn lock_file(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Keeps two hosts from one hyperd: each would take the other's pods for orphans.
fn claim(config: &Config) -> Result<Option<File>, StartError> {
    let RuntimeChoice::Hyperd(socket) = &config.runtime else { return Ok(None) };
    let path = socket.with_extension("codiusd.lock");
    match lock_file(&path) {
        Ok(Some(file)) => Ok(Some(file)),
        Ok(None) => Err(StartError::HyperdInUse(socket.clone())),
        Err(error) => {
            tracing::warn!(%error, file = %path.display(), "can't be locked; make sure that no other codiusd uses this hyperd");
            Ok(None)
        }
    }
}

/// The control API's socket, in a directory only we may enter.
pub(super) fn bind_socket(path: &Path) -> Result<UnixListener, StartError> {
    let fail =
        |source| StartError::Root { path: path.to_owned(), operation: "make the socket (is the path longer than 100 characters?)", source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    UnixListener::bind(path).map_err(fail)
}
