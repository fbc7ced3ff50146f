//! Operations on a directory of a layer. Names are single components, so no link is followed.

use std::ffi::OsStr;

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::os::{fd::OwnedFd, unix::ffi::OsStrExt};

use super::{DEPTH_MAX, UnpackError, archive::Time};

/// Marks an opaque directory for overlayfs.
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Access control lists.
const LISTS: &[&[u8]] = &[b"system.posix_acl_access", b"system.posix_acl_default"];

/// What the layer has under a name so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    Directory,
    File,
    Nothing,
    Whiteout,
}

impl Existing {
    pub(super) fn at(parent: &OwnedFd, name: &OsStr) -> Result<Self, UnpackError> {
        let stat = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Self::Nothing),
            Err(errno) => return Err(errno.into()),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Self::Directory,
            // Devices in the archive are never created.
            FileType::CharacterDevice => Self::Whiteout,
            _ => Self::File,
        })
    }
}

/// Owner, permissions and time of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) mode: Mode,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) mtime: Time,
}

impl Attributes {
    /// The attributes of an existing file.
    pub(super) fn of(stat: &Stat) -> Self {
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
        Self {
            mode: Mode::from_raw_mode(stat.st_mode & 0o7777),
            uid: Uid::from_raw(stat.st_uid),
            gid: Gid::from_raw(stat.st_gid),
            mtime: Time { seconds: stat.st_mtime, nanoseconds },
        }
    }

    /// Applies them to a newly created file.
    pub(super) fn set(&self, parent: &OwnedFd, name: &OsStr, is_link: bool) -> Result<(), UnpackError> {
        fs::chownat(parent, name, Some(self.uid), Some(self.gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_link {
            // After the owner: changing that clears the set-uid bit.
            fs::chmodat(parent, name, self.mode, AtFlags::empty())?;
        }
        set_time(parent, name, self.mtime)
    }
}

fn set_time(parent: &OwnedFd, name: &OsStr, time: Time) -> Result<(), UnpackError> {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Preserves the time of a directory, which changes when entries are added to it.
pub(super) struct Kept(Time);

impl Kept {
    pub(super) fn of(directory: &OwnedFd) -> Result<Self, UnpackError> {
        Ok(Self(Attributes::of(&fs::fstat(directory)?).mtime))
    }

    pub(super) fn restore(&self, directory: &OwnedFd) -> Result<(), UnpackError> {
        set_time(directory, OsStr::new("."), self.0)
    }
}

/// Sets the extended attributes that have a meaning in a pod: `user` ones, and access control lists. File capabilities have none (no
/// container gains privileges), and `trusted` ones would be mistaken for ours.
pub(super) fn set_xattrs(parent: &OwnedFd, name: &OsStr, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), UnpackError> {
    let mut wanted = xattrs.iter().filter(|(name, _)| name.starts_with(b"user.") || LISTS.contains(&&**name)).peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(parent, name, flags, Mode::empty())?;
    for (name, value) in wanted {
        match fs::fsetxattr(&file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            // The file system doesn't support them: other runtimes ignore them there, too.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(Errno::TOOBIG | Errno::RANGE | Errno::INVAL) => return Err(UnpackError::Xattr),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// `.wh.NAME`: overlayfs represents it as a 0:0 character device.
pub(super) fn whiteout(parent: &OwnedFd, hidden: &OsStr) -> Result<(), UnpackError> {
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(UnpackError::Path);
    }
    match Existing::at(parent, hidden)? {
        Existing::Directory => make_opaque(parent, hidden),
        // A file or whiteout hides what is below by its existence.
        Existing::File | Existing::Whiteout => Ok(()),
        Existing::Nothing => Ok(fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)?),
    }
}

/// Hides the directory's content in the layers below.
pub(super) fn make_opaque(parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
    Ok(fs::fsetxattr(open_directory(parent, name)?, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())?)
}

/// Whether a directory hides its content in the layers below.
pub(super) fn is_opaque(parent: &OwnedFd, name: &OsStr) -> Result<bool, UnpackError> {
    let mut value = [0; 4];
    let length = fs::fgetxattr(open_directory(parent, name)?, OPAQUE_ATTRIBUTE, &mut value[..]).unwrap_or_default();
    Ok(value.get(..length) == Some(b"y"))
}

fn open_directory(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, UnpackError> {
    Ok(fs::openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Removes what an earlier entry of the same layer made.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), UnpackError> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        outcome => return Ok(outcome?),
    }
    if depth > DEPTH_MAX {
        return Err(UnpackError::Path);
    }
    let directory = open_directory(parent, name)?;
    for entry in fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let inner = OsStr::from_bytes(entry.file_name().to_bytes());
        if inner != "." && inner != ".." {
            remove(&directory, inner, depth + 1)?;
        }
    }
    Ok(fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
