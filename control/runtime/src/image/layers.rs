//! The parts of images on disk, which are directories of unpacked layers and files of merged ones: their size, and their use.
//!
//! Each user of a part (a start under way here, the shim of a pod) holds a shared lock on it, so that the part is in use exactly as long as
//! that process lives; no stored state can be wrong after a crash. Removing a part takes the exclusive lock.

use std::{
    fs::{self, File, Metadata, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::XattrFlags;

/// Attribute of a layer's directory or a merged image's file: its size, in bytes, as decimal digits.
const SIZE: &str = "trusted.codius.bytes";
/// Extension of merged images, and the name of the one of all images without layers.
const MERGED: &str = "erofs";
const NO_LAYERS: &str = "scratch";
/// Upper estimate of the space a file or directory takes beside its content.
pub(super) const ENTRY_BYTES: u64 = 4096;

/// Where the file of a merged image is; `top` is the chain id of its topmost layer, if it has any.
pub(super) fn merged_path(root: &Path, top: Option<&str>) -> PathBuf {
    root.join("merged").join(top.unwrap_or(NO_LAYERS)).with_extension(MERGED)
}

/// Keeps a layer or a merged image from being removed.
#[derive(Clone, Debug)]
pub struct LayerUse {
    _locked: Arc<File>,
}

impl LayerUse {
    /// Marks a layer or a merged image as used; none if it doesn't exist (any more).
    pub(crate) fn take(part: &Path) -> io::Result<Option<Self>> {
        let Some(opened) = open(part)? else { return Ok(None) };
        match opened.try_lock_shared() {
            Err(TryLockError::WouldBlock) => return Ok(None), // it is being removed
            done => done?,
        }
        Ok(is_still(part, &opened)?.then(|| Self { _locked: Arc::new(opened) }))
    }
}

/// Locks a part exclusively, so that it is and stays unused.
pub(super) fn unused(part: &Path) -> io::Result<Option<File>> {
    let Some(opened) = open(part)? else { return Ok(None) };
    match opened.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        done => done?,
    }
    Ok(is_still(part, &opened)?.then_some(opened))
}

/// Stores a part's size.
pub(super) fn note_size(part: &Path, bytes: u64) -> io::Result<()> {
    Ok(rustix::fs::setxattr(part, SIZE, bytes.to_string().as_bytes(), XattrFlags::empty())?)
}

/// A part's size, in bytes; measured if it wasn't stored.
pub(super) fn size(part: &Path) -> io::Result<u64> {
    let mut digits = [0; 20];
    let noted = rustix::fs::getxattr(part, SIZE, &mut digits[..]).ok();
    let noted = noted.and_then(|length| std::str::from_utf8(digits.get(..length)?).ok()?.parse().ok());
    match noted {
        Some(bytes) => Ok(bytes),
        None => {
            let bytes = measure(part, &fs::symlink_metadata(part)?)?;
            note_size(part, bytes)?;
            Ok(bytes)
        }
    }
}

fn measure(path: &Path, about: &Metadata) -> io::Result<u64> {
    if !about.is_dir() {
        return Ok(ENTRY_BYTES + about.blocks() * 512);
    }
    let mut bytes = ENTRY_BYTES;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        bytes += measure(&entry.path(), &entry.metadata()?)?;
    }
    Ok(bytes)
}

fn open(part: &Path) -> io::Result<Option<File>> {
    match File::open(part) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

fn is_still(part: &Path, opened: &File) -> io::Result<bool> {
    match fs::symlink_metadata(part) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(found?.ino() == opened.metadata()?.ino()),
    }
}
