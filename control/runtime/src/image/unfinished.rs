//! What is being written, and is renamed when it is complete: `*.tmp`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A file or directory that is removed when this is dropped, unless it has been renamed.
pub(super) struct Unfinished(pub(super) PathBuf);

impl Unfinished {
    /// An unfinished version of what is going to be at `path`, under a name that nobody else uses.
    pub(super) fn of(path: &Path) -> Self {
        Self(path.with_extension(format!("{:08x}.tmp", rand::random::<u32>())))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Leftovers are removed at the next start.
        let _ = remove(&self.0);
    }
}

/// Removes a file, or a directory with its content.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Removes what a killed process left.
pub(super) fn remove_all(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            remove(&path)?;
        }
    }
    Ok(())
}
