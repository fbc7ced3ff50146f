//! One layer's tar into a directory, whatever it holds.
//!
//! The `tar` crate only parses. Every path is resolved by the kernel with the layer's directory as its root
//! (`openat2`, `RESOLVE_IN_ROOT`): neither `..`, nor absolute links, nor links planted by earlier entries lead out of it.
//! The last component is always created anew (`O_EXCL`, `O_NOFOLLOW`), never written through.
//!
//! A whiteout hides what the layers below have of a name, and leaves alone what its own layer has, wherever in the archive
//! it comes (OCI Image Layer 1.1, "Whiteouts"): a directory that is both is an opaque one.

mod stream;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use tar::{Archive, Entry, EntryType};

use super::{Digest, ImageLimits};
pub(super) use stream::Budget;
use stream::{Gate, LayerReader};

/// Users and groups of an image are below this: it is how many a pod has.
const IDS: u64 = 65_536;
/// Directories above one another, at most; paths have no more components.
const DEPTH_MAX: usize = 128;
/// Marks a name that is removed from the layers below (OCI Image Layer 1.1, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory whose content below is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The same to overlayfs.
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// A layer that isn't unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("a layer isn't what its config says (diff_id)")]
    DiffId,
    #[error("the image has too many files")]
    Entries,
    #[error("a layer holds a hard link to something that isn't a file of it")]
    HardLink,
    #[error("a layer holds a name or extended header that is too long")]
    Headers,
    #[error("a layer's files belong to users or groups of 65536 and more")]
    Ids,
    #[error("the disk doesn't take it")]
    Io(#[from] io::Error),
    #[error("a layer holds an impossible path")]
    Path,
    #[error("the image is too large when unpacked")]
    Size,
    #[error("a layer can't be read as a tar archive")]
    Tar,
    #[error("it took too long to unpack")]
    Time,
}

impl From<Errno> for UnpackError {
    /// What the kernel says of a path is the archive's fault, the rest is the disk's.
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::INVAL | Errno::LOOP | Errno::MLINK | Errno::NAMETOOLONG | Errno::NOENT | Errno::NOTDIR | Errno::XDEV => Self::Path,
            other => Self::Io(other.into()),
        }
    }
}

/// Unpacks the blob at `blob` into `directory`, which is made. `below` are the layers under it, lowest first.
pub(super) fn layer(blob: &Path, directory: &Path, below: &[PathBuf], diff_id: Digest, budget: &Budget) -> Result<(), UnpackError> {
    let gate = Gate::new();
    let mut source = LayerReader::open(File::open(blob)?, budget, &gate)?;
    std::fs::create_dir(directory)?;
    let unpacker = Unpacker { root: open_root(directory)?, below, budget };
    // Some archives end without their padding; a reader that fills it up is none the worse.
    let mut archive = Archive::new((&mut source).chain(io::repeat(0).take(2048)));
    for entry in archive.entries().map_err(|error| gate.cause_of(&error))? {
        let mut entry = entry.map_err(|error| gate.cause_of(&error))?;
        gate.expect_content();
        budget.take_entry()?;
        if entry.header().entry_type() == EntryType::GNUSparse {
            budget.take_bytes(entry.size())?;
        }
        unpacker.entry(&mut entry, &gate)?;
        // Whatever of it nobody wanted.
        io::copy(&mut entry, &mut io::sink()).map_err(|error| gate.cause_of(&error))?;
        gate.expect_headers();
    }
    gate.expect_content();
    io::copy(&mut source, &mut io::sink()).map_err(|error| gate.cause_of(&error))?;
    if source.digest() == diff_id { Ok(()) } else { Err(UnpackError::DiffId) }
}

fn open_root(directory: &Path) -> rustix::io::Result<OwnedFd> {
    fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens a path as if `root` were `/`.
pub(super) fn open_in(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

struct Unpacker<'a> {
    budget: &'a Budget,
    root: OwnedFd,
    below: &'a [PathBuf],
}

impl Unpacker<'_> {
    fn entry(&self, entry: &mut Entry<'_, impl Read>, gate: &Gate) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink) {
            return Ok(());
        }
        let parts = components(&entry.path_bytes())?;
        let Some((name, parents)) = parts.split_last() else {
            return if kind == EntryType::Directory { self.attributes_of_root(entry) } else { Err(UnpackError::Path) };
        };
        let parent = self.parent(parents)?;
        if name.as_bytes() == OPAQUE {
            return make_opaque(&parent, OsStr::new("."));
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return whiteout(&parent, OsStr::from_bytes(hidden));
        }
        let owner = owner(entry)?;
        let existing = Existing::at(&parent, name)?;
        if matches!(existing, Existing::File | Existing::Whiteout) || (existing == Existing::Directory && kind != EntryType::Directory) {
            remove(&parent, name, 0)?;
        }
        let mode = Mode::from_raw_mode(entry.header().mode().map_err(|_| UnpackError::Tar)? & 0o7777);
        match kind {
            EntryType::Directory if existing == Existing::Directory => {}
            EntryType::Directory => self.make_directory(&parent, name, existing)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
                io::copy(entry, &mut file).map_err(|error| gate.cause_of(&error))?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or(UnpackError::Tar)?;
                fs::symlinkat(OsStr::from_bytes(&target), &parent, name)?;
            }
            EntryType::Link => return self.hard_link(&entry.link_name_bytes().ok_or(UnpackError::Tar)?, &parent, name),
            EntryType::Fifo => fs::mknodat(&parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
            // Devices: a pod gets its own few.
            _ => return Ok(()),
        }
        set_attributes(&parent, name, kind, mode, owner, entry.header().mtime().unwrap_or(0))
    }

    fn attributes_of_root(&self, entry: &Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(entry.header().mode().map_err(|_| UnpackError::Tar)? & 0o7777);
        set_attributes(&self.root, OsStr::new("."), EntryType::Directory, mode, owner(entry)?, entry.header().mtime().unwrap_or(0))
    }

    /// The directory an entry goes into. What of it no entry has made looks as it does in the layers below.
    fn parent(&self, parents: &[OsString]) -> Result<OwnedFd, UnpackError> {
        let path: PathBuf = parents.iter().collect();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match open_in(&self.root, &path, flags) {
            Ok(directory) => return Ok(directory),
            // A component of it isn't there yet, or only as a whiteout.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let (name, above) = parents.split_last().ok_or(UnpackError::Path)?;
        let above = self.parent(above)?;
        let existing = Existing::at(&above, name)?;
        match existing {
            Existing::Nothing => {}
            Existing::Whiteout => remove(&above, name, 0)?,
            // It leads nowhere: a dangling link, or a file.
            Existing::Directory | Existing::File => return Err(UnpackError::Path),
        }
        self.budget.take_entry()?; // one entry of the archive can be a hundred directories
        self.make_directory(&above, name, existing)?;
        let like = self.below.iter().rev().find_map(|layer| open_in(open_root(layer).ok()?, &path, flags).ok());
        if let (Existing::Nothing, Some(like)) = (existing, like) {
            let stat = fs::fstat(&like)?;
            let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            set_attributes(&above, name, EntryType::Directory, Mode::from_raw_mode(stat.st_mode & 0o7777), owner, 0)?;
        }
        Ok(open_in(&self.root, &path, flags)?)
    }

    /// A new directory; one in place of a whiteout hides what is below it.
    fn make_directory(&self, parent: &OwnedFd, name: &OsStr, instead_of: Existing) -> Result<(), UnpackError> {
        // Links make paths shorter than they are: whoever removes the directories goes the whole way.
        if self.depth(parent)? >= DEPTH_MAX {
            return Err(UnpackError::Path);
        }
        fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        if instead_of == Existing::Whiteout { make_opaque(parent, name) } else { Ok(()) }
    }

    /// How many directories below the layer's root a directory really is.
    fn depth(&self, directory: &OwnedFd) -> Result<usize, UnpackError> {
        let path = |fd: &OwnedFd| fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new());
        let separators = |path: std::ffi::CString| path.to_bytes().iter().filter(|byte| **byte == b'/').count();
        Ok(separators(path(directory)?).saturating_sub(separators(path(&self.root)?)))
    }

    fn hard_link(&self, target: &[u8], parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
        let path: PathBuf = components(target)?.iter().collect();
        let target = open_in(&self.root, &path, OFlags::PATH | OFlags::NOFOLLOW).map_err(|_| UnpackError::HardLink)?;
        match FileType::from_raw_mode(fs::fstat(&target)?.st_mode) {
            FileType::RegularFile | FileType::Symlink => Ok(fs::linkat(&target, "", parent, name, AtFlags::EMPTY_PATH)?),
            _ => Err(UnpackError::HardLink),
        }
    }
}

/// What the layer has of a name so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existing {
    Directory,
    File,
    Nothing,
    Whiteout,
}

impl Existing {
    fn at(parent: &OwnedFd, name: &OsStr) -> Result<Self, UnpackError> {
        let stat = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Self::Nothing),
            Err(errno) => return Err(errno.into()),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Self::Directory,
            // Devices of the archive are never made.
            FileType::CharacterDevice => Self::Whiteout,
            _ => Self::File,
        })
    }
}

/// A path's names; none of them special.
fn components(path: &[u8]) -> Result<Vec<OsString>, UnpackError> {
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    let bad = |name: &&[u8]| *name == b".." || name.len() > 255 || name.contains(&0);
    if names.len() > DEPTH_MAX || names.iter().any(bad) {
        return Err(UnpackError::Path);
    }
    Ok(names.into_iter().map(|name| OsString::from_vec(name.to_vec())).collect())
}

fn owner(entry: &Entry<'_, impl Read>) -> Result<(Uid, Gid), UnpackError> {
    let id = |id: io::Result<u64>| id.ok().filter(|id| *id < IDS).and_then(|id| u32::try_from(id).ok()).ok_or(UnpackError::Ids);
    Ok((Uid::from_raw(id(entry.header().uid())?), Gid::from_raw(id(entry.header().gid())?)))
}

fn set_attributes(
    parent: &OwnedFd,
    name: &OsStr,
    kind: EntryType,
    mode: Mode,
    (uid, gid): (Uid, Gid),
    mtime: u64,
) -> Result<(), UnpackError> {
    fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != EntryType::Symlink {
        // After the owner: changing that takes the set-uid bit away. The name was just made by us and is no link.
        fs::chmodat(parent, name, mode, AtFlags::empty())?;
    }
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(0), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// `.wh.NAME`: a 0:0 character device is how overlayfs knows it.
fn whiteout(parent: &OwnedFd, hidden: &OsStr) -> Result<(), UnpackError> {
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(UnpackError::Path);
    }
    match Existing::at(parent, hidden)? {
        Existing::Directory => make_opaque(parent, hidden),
        // It hides what is below by being there.
        Existing::File | Existing::Whiteout => Ok(()),
        Existing::Nothing => Ok(fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)?),
    }
}

/// Hides what the layers below have in a directory.
fn make_opaque(parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = fs::openat(parent, name, flags, Mode::empty())?;
    Ok(fs::fsetxattr(directory, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())?)
}

/// Removes what an earlier entry of the same layer made.
fn remove(parent: &OwnedFd, name: &OsStr, depth: usize) -> Result<(), UnpackError> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        outcome => return Ok(outcome?),
    }
    if depth > DEPTH_MAX {
        return Err(UnpackError::Path);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = fs::openat(parent, name, flags, Mode::empty())?;
    for entry in fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let inner = OsStr::from_bytes(entry.file_name().to_bytes());
        if inner != "." && inner != ".." {
            remove(&directory, inner, depth + 1)?;
        }
    }
    Ok(fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
