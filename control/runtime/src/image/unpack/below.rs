//! Hard links to files of the layers below: the file is copied into this layer, as overlayfs does on a write, and linked there.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    UnpackError, Unpacker, open_root,
    tree::{Attributes, is_opaque},
};

/// The result of looking up a path in one layer.
enum Found {
    /// Its parent directory.
    Here(OwnedFd),
    /// Not in this layer, but the layers below may have it.
    Below,
    /// It doesn't exist, and the layers below are hidden.
    Hidden,
}

impl Unpacker<'_> {
    /// Copies a file of a layer below into this one.
    pub(super) fn copy_up(&self, path: &[OsString]) -> Result<(), UnpackError> {
        let (name, parents) = path.split_last().ok_or(UnpackError::HardLink)?;
        let own = self.root.try_clone()?;
        if !matches!(find(own, name, parents)?, Found::Below) {
            return Err(UnpackError::HardLink);
        }
        for layer in self.below.iter().rev() {
            match find(open_root(layer)?, name, parents)? {
                Found::Here(directory) => return self.copy(&directory, name, parents),
                Found::Below => {}
                Found::Hidden => break,
            }
        }
        Err(UnpackError::HardLink)
    }

    fn copy(&self, from: &OwnedFd, name: &OsStr, parents: &[OsString]) -> Result<(), UnpackError> {
        let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.budget.take_entry()?;
        let into = self.parent(parents)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                self.budget.take_bytes(size)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let from = File::from(fs::openat(from, name, flags, Mode::empty())?);
                io::copy(&mut from.take(size), &mut super::new_file(&into, name)?)?;
            }
            FileType::Symlink => fs::symlinkat(&*fs::readlinkat(from, name, Vec::new())?, &into, name)?,
            _ => return Err(UnpackError::HardLink),
        }
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        Attributes::of(&stat).set(&into, name, is_link)
    }
}

/// Looks up a path in one layer. Links on the way aren't followed: their targets may be in yet another layer.
fn find(root: OwnedFd, name: &OsStr, parents: &[OsString]) -> Result<Found, UnpackError> {
    let (mut at, mut hides) = (root, false);
    for (index, part) in parents.iter().map(OsString::as_os_str).chain([name]).enumerate() {
        match fs::statat(&at, part, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Err(Errno::NOENT) => return Ok(if hides { Found::Hidden } else { Found::Below }),
            Err(errno) => return Err(errno.into()),
            Ok(FileType::CharacterDevice) => return Ok(Found::Hidden),
            Ok(_) if index == parents.len() => return Ok(Found::Here(at)),
            Ok(FileType::Directory) => {
                hides |= is_opaque(&at, part)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                at = fs::openat(&at, Path::new(OsStr::from_bytes(part.as_bytes())), flags, Mode::empty())?;
            }
            Ok(_) => return Ok(Found::Hidden),
        }
    }
    Ok(Found::Hidden)
}
