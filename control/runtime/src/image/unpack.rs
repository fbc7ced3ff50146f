//! One layer's tar into a directory, whatever it holds.
//!
//! The `tar` crate only parses. Every path is resolved by the kernel with the layer's directory as its root
//! (`openat2`, `RESOLVE_IN_ROOT`): neither `..`, nor absolute links, nor links planted by earlier entries lead out of it.
//! The last component is always created anew (`O_EXCL`, `O_NOFOLLOW`), never written through.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, BufReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    time::Instant,
};

use flate2::read::MultiGzDecoder;
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry, EntryType};

use super::{Digest, ImageLimits};

/// Users and groups of an image are below this: it is how many a pod has.
const IDS: u64 = 65_536;
/// Path components, at most.
const DEPTH_MAX: usize = 128;
/// Marks a name that is removed from the layers below (OCI Image Layer 1.1, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory whose content below is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A layer that isn't unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("a layer isn't what its config says (diff_id)")]
    DiffId,
    #[error("a layer has too many files")]
    Entries,
    #[error("a layer holds a hard link to something that isn't a file of it")]
    HardLink,
    #[error("a layer's files belong to users or groups of 65536 and more")]
    Ids,
    #[error("the disk doesn't take it")]
    Io(#[from] io::Error),
    #[error("a layer holds an impossible path")]
    Path,
    #[error("a layer is too large when unpacked")]
    Size,
    #[error("a layer can't be read as a tar archive")]
    Tar,
    #[error("it took too long to unpack")]
    Time,
}

impl From<Errno> for UnpackError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Unpacks the blob at `blob` into `directory`, which is made. `below` are the layers under it, lowest first.
pub(super) fn layer(
    blob: &Path,
    directory: &Path,
    below: &[PathBuf],
    diff_id: Digest,
    limits: &ImageLimits,
    deadline: Instant,
) -> Result<(), UnpackError> {
    let mut source = Counted { inner: decompress(File::open(blob)?)?, hasher: Sha256::new(), left: limits.layer_bytes_max };
    fs::mkdir(directory, Mode::from_raw_mode(0o755))?;
    let unpacker = Unpacker { root: open_root(directory)?, below };
    // Some archives end without their padding; a reader that fills it up is none the worse.
    let mut archive = Archive::new((&mut source).chain(io::repeat(0).take(2048)));
    let (mut entries, mut failure) = (0, None);
    for entry in archive.entries().map_err(|_| UnpackError::Tar)? {
        entries += 1;
        let unpacked = match entry {
            Err(_) => Err(UnpackError::Tar),
            Ok(_) if entries > limits.layer_entries_max => Err(UnpackError::Entries),
            Ok(_) if Instant::now() > deadline => Err(UnpackError::Time),
            Ok(mut entry) => unpacker.entry(&mut entry),
        };
        if let Err(error) = unpacked {
            failure = Some(error);
            break;
        }
    }
    drop(archive);
    if source.left == 0 {
        return Err(UnpackError::Size);
    }
    if let Some(error) = failure {
        return Err(error);
    }
    io::copy(&mut source, &mut io::sink()).map_err(|_| UnpackError::Tar)?;
    if source.left == 0 {
        return Err(UnpackError::Size);
    }
    if <[u8; 32]>::from(source.hasher.finalize()) == diff_id.0 { Ok(()) } else { Err(UnpackError::DiffId) }
}

/// The tar inside, by its first bytes: media types are not always right.
fn decompress(file: File) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(128 * 1024, file);
    let start = io::BufRead::fill_buf(&mut reader)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(BufReader::new(MultiGzDecoder::new(reader))))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Ok(Box::new(zstd::Decoder::with_buffer(reader)?))
    } else {
        Ok(Box::new(reader))
    }
}

/// Hashes what is read, and ends before it is too much.
struct Counted {
    inner: Box<dyn Read>,
    hasher: Sha256,
    left: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let (wanted, _) = buffer.split_at_mut(most);
        let count = self.inner.read(wanted)?;
        self.hasher.update(wanted.get(..count).unwrap_or_default());
        self.left -= count as u64;
        Ok(count)
    }
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
    root: OwnedFd,
    below: &'a [PathBuf],
}

impl Unpacker<'_> {
    fn entry(&self, entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
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
            return self.hide_below(parents);
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return whiteout(&parent, hidden);
        }
        let owner = owner(entry)?;
        let existing = fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| FileType::from_raw_mode(stat.st_mode));
        if existing.is_some() && !(existing == Some(FileType::Directory) && kind == EntryType::Directory) {
            remove(&parent, name, 0)?;
        }
        let mode = Mode::from_raw_mode(entry.header().mode().map_err(|_| UnpackError::Tar)? & 0o7777);
        match kind {
            EntryType::Directory if existing == Some(FileType::Directory) => {}
            EntryType::Directory => fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
                io::copy(entry, &mut file)?;
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
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Err(UnpackError::Path),
            Err(errno) => return Err(errno.into()),
        }
        let (name, above) = parents.split_last().ok_or(UnpackError::Path)?;
        let above = self.parent(above)?;
        match fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            // It is there, but leads nowhere: a dangling link, or a file.
            Err(Errno::EXIST) => return Err(UnpackError::Path),
            Err(errno) => return Err(errno.into()),
        }
        for layer in self.below.iter().rev() {
            let Ok(like) = open_root(layer).and_then(|root| open_in(root, &path, flags)) else { continue };
            let stat = fs::fstat(&like)?;
            let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            set_attributes(&above, name, EntryType::Directory, Mode::from_raw_mode(stat.st_mode & 0o7777), owner, 0)?;
            break;
        }
        Ok(open_in(&self.root, &path, flags)?)
    }

    fn hide_below(&self, parents: &[OsString]) -> Result<(), UnpackError> {
        let path: PathBuf = parents.iter().collect();
        let directory = open_in(&self.root, &path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())?)
    }

    fn hard_link(&self, target: &[u8], parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
        let path: PathBuf = components(target)?.iter().collect();
        let target = open_in(&self.root, &path, OFlags::PATH | OFlags::NOFOLLOW).map_err(|_| UnpackError::HardLink)?;
        if FileType::from_raw_mode(fs::fstat(&target)?.st_mode) != FileType::RegularFile {
            return Err(UnpackError::HardLink);
        }
        Ok(fs::linkat(&target, "", parent, name, AtFlags::EMPTY_PATH)?)
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
fn whiteout(parent: &OwnedFd, hidden: &[u8]) -> Result<(), UnpackError> {
    let name = OsStr::from_bytes(hidden);
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(UnpackError::Path);
    }
    if fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        remove(parent, name, 0)?;
    }
    Ok(fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)?)
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
