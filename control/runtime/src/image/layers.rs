//! The directories of unpacked layers: their size, and their use.
//!
//! Each user of a layer (a start under way here, the shim of a pod) holds a shared lock on its directory, so that the layer is in use
//! exactly as long as that process lives; no stored state can be wrong after a crash. Removing a layer takes the exclusive lock.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use rustix::fs::XattrFlags;

/// Attribute of a layer's directory: its size, in bytes, as decimal digits.
const SIZE: &str = "trusted.codius.bytes";
/// Upper estimate of the space a file or directory takes beside its content.
pub(super) const ENTRY_BYTES: u64 = 4096;

/// Keeps a layer from being removed.
#[derive(Clone, Debug)]
pub struct LayerUse {
    _locked: Arc<File>,
}

impl LayerUse {
    /// Marks a layer as used; none if it doesn't exist (any more).
    pub(crate) fn take(layer: &Path) -> io::Result<Option<Self>> {
        let Some(directory) = open(layer)? else { return Ok(None) };
        match directory.try_lock_shared() {
            Err(TryLockError::WouldBlock) => return Ok(None), // it is being removed
            done => done?,
        }
        Ok(is_still(layer, &directory)?.then(|| Self { _locked: Arc::new(directory) }))
    }
}

/// Locks the layer's directory exclusively, so that it is and stays unused.
pub(super) fn unused(layer: &Path) -> io::Result<Option<File>> {
    let Some(directory) = open(layer)? else { return Ok(None) };
    match directory.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        done => done?,
    }
    Ok(is_still(layer, &directory)?.then_some(directory))
}

/// Stores a layer's size.
pub(super) fn note_size(layer: &Path, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::setxattr(layer, SIZE, bytes.to_string().as_bytes(), XattrFlags::empty())?)
}

/// A layer's size, in bytes; measured if it wasn't stored.
pub(super) fn size(layer: &Path) -> io::Result<u64> {
    let mut digits = [0; 20];
    let noted = rustix::fs::getxattr(layer, SIZE, &mut digits[..]).ok();
    let noted = noted.and_then(|length| std::str::from_utf8(digits.get(..length)?).ok()?.parse().ok());
    match noted {
        Some(bytes) => Ok(bytes),
        None => {
            let bytes = measure(layer)?;
            note_size(layer, bytes)?;
            Ok(bytes)
        }
    }
}

fn measure(directory: &Path) -> io::Result<u64> {
    let mut bytes = ENTRY_BYTES;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { measure(&entry.path())? } else { ENTRY_BYTES + about.blocks() * 512 };
    }
    Ok(bytes)
}

fn open(layer: &Path) -> io::Result<Option<File>> {
    match File::open(layer) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

fn is_still(layer: &Path, directory: &File) -> io::Result<bool> {
    match fs::symlink_metadata(layer) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(found?.ino() == directory.metadata()?.ino()),
    }
}
