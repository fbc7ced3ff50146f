//! Unpacks one layer's untrusted tar into a directory.
//!
//! The kernel resolves every path with the layer's directory as its root (`openat2`, `RESOLVE_IN_ROOT`): neither `..`, nor absolute links,
//! nor links planted by earlier entries lead out of it. The last component is always newly created (`O_EXCL`, `O_NOFOLLOW`), never written
//! through.
//!
//! A whiteout hides a name in the layers below, but not in its own layer, wherever in the archive it comes (OCI Image Layer 1.1,
//! "Whiteouts"): a name that is both a whiteout and a directory is an opaque directory.
//!
//! Every entry is either unpacked exactly or refused: nothing is silently changed. Only device nodes (a pod gets its own few) and extended
//! attributes without a meaning in a pod ([`tree::set_xattrs`]) are left out.

mod archive;
mod below;
mod stream;
mod tree;

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};

use super::{Digest, ImageLimits};
use archive::{Archive, ArchiveError, Entry, Kind};
pub(super) use stream::Budget;
use stream::{Gate, LayerReader};
use tree::{Attributes, Existing, Kept, make_opaque, remove, set_xattrs, whiteout};

/// Uids and gids of an image are below this: the number a pod has.
const IDS: i64 = 65_536;
/// Maximum nesting of directories; also the maximum number of components of a path.
const DEPTH_MAX: usize = 128;
/// Prefix that marks a name as removed from the layers below (OCI Image Layer 1.1, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory as opaque: its content in the layers below is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names with this prefix are records of aufs, which are ignored.
const AUFS: &[u8] = b".wh..wh.";

/// Why a layer isn't unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("{0}")]
    Archive(ArchiveError),
    #[error("it can't be decompressed: {0}")]
    Compressed(String),
    #[error("it isn't what the image's config says (diff_id)")]
    DiffId,
    #[error("the image has too many files")]
    Entries,
    #[error("it is compressed with {0}; layers are compressed with gzip or zstd")]
    Format(&'static str),
    #[error("a hard link to something that isn't a file of the image")]
    HardLink,
    #[error("its files belong to users or groups of 65536 and more")]
    Ids,
    #[error("the disk doesn't take it")]
    Io(#[from] io::Error),
    #[error("an impossible path")]
    Path,
    #[error("the image is too large when unpacked")]
    Size,
    #[error("it took too long to unpack")]
    Time,
    #[error("an extended attribute that can't be set")]
    Xattr,
}

impl From<Errno> for UnpackError {
    /// The kernel's errors about a path are the archive's fault, all others the disk's.
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::INVAL | Errno::LOOP | Errno::MLINK | Errno::NAMETOOLONG | Errno::NOENT | Errno::NOTDIR | Errno::XDEV => Self::Path,
            other => Self::Io(other.into()),
        }
    }
}

/// Why a layer isn't unpacked, and the entry at fault; `Display` is fit for uploaders.
#[derive(Debug)]
pub(super) struct LayerError {
    pub(super) error: UnpackError,
    path: Option<String>,
}

impl LayerError {
    fn at(path: &[u8], error: UnpackError) -> Self {
        /// Maximum length of a path in the message.
        const TOLD: usize = 200;
        let told: String = String::from_utf8_lossy(path).chars().take(TOLD).collect();
        Self { error, path: (!path.is_empty()).then_some(told) }
    }
}

impl From<UnpackError> for LayerError {
    fn from(error: UnpackError) -> Self {
        Self { error, path: None }
    }
}

impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> Self {
        UnpackError::from(error).into()
    }
}

impl From<Errno> for LayerError {
    fn from(errno: Errno) -> Self {
        UnpackError::from(errno).into()
    }
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{path:?}: {}", self.error),
            None => self.error.fmt(f),
        }
    }
}

/// Unpacks the blob at `blob` into `directory`, which is created. `below` are the layers under it, lowest first.
pub(super) fn layer(blob: &Path, directory: &Path, below: &[PathBuf], diff_id: Digest, budget: &Budget) -> Result<(), LayerError> {
    let gate = Gate::default();
    let mut source = LayerReader::open(File::open(blob)?, budget, &gate)?;
    std::fs::create_dir(directory)?;
    let unpacker = Unpacker { root: open_root(directory)?, below, budget };
    let mut archive = Archive::new(&mut source);
    loop {
        let entry = archive.next().map_err(|error| LayerError::at(archive.at(), gate.cause().unwrap_or_else(|| error.into())))?;
        let Some(entry) = entry else { break };
        let done = unpacker.entry(&entry, &mut archive);
        done.map_err(|error| LayerError::at(&entry.path, gate.cause().unwrap_or(error)))?;
    }
    io::copy(&mut source, &mut io::sink()).map_err(|error| gate.cause().unwrap_or(UnpackError::Io(error)))?;
    if source.digest() == diff_id { Ok(()) } else { Err(UnpackError::DiffId.into()) }
}

/// The size of an archive's files without holes, in bytes; none if it can't be read.
pub(super) fn content_of(archive: &[u8]) -> Option<u64> {
    let (mut archive, mut sum) = (Archive::new(archive), 0);
    while let Some(entry) = archive.next().ok()? {
        let content = io::copy(&mut archive, &mut io::sink()).ok()?;
        let dense = entry.segments.map_or(entry.size, |segments| segments.iter().map(|segment| segment.length).sum());
        sum += if dense == content { content } else { return None };
    }
    Some(sum)
}

impl From<ArchiveError> for UnpackError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Io(error) if error.raw_os_error().is_some() => Self::Io(error),
            ArchiveError::Io(_) => Self::Archive(ArchiveError::Unreadable),
            other => Self::Archive(other),
        }
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

fn new_file(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?))
}

struct Unpacker<'a> {
    budget: &'a Budget,
    root: OwnedFd,
    below: &'a [PathBuf],
}

impl Unpacker<'_> {
    fn entry(&self, entry: &Entry, content: &mut Archive<impl Read>) -> Result<(), UnpackError> {
        self.budget.take_entry()?;
        let parts = components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            let is_directory = entry.kind == Kind::Directory;
            return if is_directory { set_attributes(&self.root, OsStr::new("."), entry) } else { Err(UnpackError::Path) };
        };
        if parts.iter().take(1).any(|first| first.as_bytes().starts_with(AUFS) && first.as_bytes() != OPAQUE) {
            return Ok(());
        }
        let parent = self.parent(parents)?;
        let kept = Kept::of(&parent)?;
        if name.as_bytes() == OPAQUE {
            make_opaque(&parent, OsStr::new("."))?;
        } else if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            whiteout(&parent, OsStr::from_bytes(hidden))?;
        } else {
            self.put(entry, &parent, name, content)?;
        }
        kept.restore(&parent)
    }

    fn put(&self, entry: &Entry, parent: &OwnedFd, name: &OsStr, content: &mut Archive<impl Read>) -> Result<(), UnpackError> {
        let existing = Existing::at(parent, name)?;
        let replaces = existing == Existing::Directory && entry.kind != Kind::Directory;
        if replaces || matches!(existing, Existing::File | Existing::Whiteout) {
            remove(parent, name, 0)?;
        }
        match entry.kind {
            Kind::Directory if existing == Existing::Directory => {}
            Kind::Directory => self.make_directory(parent, name, existing)?,
            Kind::File => self.file(entry, parent, name, content)?,
            Kind::Symlink => fs::symlinkat(OsStr::from_bytes(&entry.link), parent, name)?,
            Kind::HardLink => return self.hard_link(&entry.link, parent, name),
            Kind::Fifo => fs::mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
            Kind::Device => return Ok(()),
        }
        set_attributes(parent, name, entry)
    }

    fn file(&self, entry: &Entry, parent: &OwnedFd, name: &OsStr, content: &mut Archive<impl Read>) -> Result<(), UnpackError> {
        let Some(segments) = &entry.segments else {
            return copy(content, &mut new_file(parent, name)?);
        };
        // Holes count at full size, because a pod may write to them. Checked before anything is created.
        let dense: u64 = segments.iter().map(|segment| segment.length).sum();
        self.budget.take_bytes(entry.size.saturating_sub(dense))?;
        let mut file = new_file(parent, name)?;
        for segment in segments {
            file.seek(SeekFrom::Start(segment.offset))?;
            copy(&mut content.by_ref().take(segment.length), &mut file)?;
        }
        Ok(file.set_len(entry.size)?)
    }

    /// Opens an entry's parent directory. Components without an entry are created with their attributes from the layers below.
    fn parent(&self, parents: &[OsString]) -> Result<OwnedFd, UnpackError> {
        let path: PathBuf = parents.iter().collect();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match open_in(&self.root, &path, flags) {
            Ok(directory) => return Ok(directory),
            // A component doesn't exist yet, or only as a whiteout.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let (name, above) = parents.split_last().ok_or(UnpackError::Path)?;
        let above = self.parent(above)?;
        let kept = Kept::of(&above)?;
        let existing = Existing::at(&above, name)?;
        match existing {
            Existing::Nothing => {}
            Existing::Whiteout => remove(&above, name, 0)?,
            // It isn't a directory: a dangling link, or a file.
            Existing::Directory | Existing::File => return Err(UnpackError::Path),
        }
        self.budget.take_entry()?; // one entry of the archive can create a hundred directories
        self.make_directory(&above, name, existing)?;
        let like = self.below.iter().rev().find_map(|layer| open_in(open_root(layer).ok()?, &path, flags).ok());
        if let (Existing::Nothing, Some(like)) = (existing, like) {
            Attributes::of(&fs::fstat(&like)?).set(&above, name, false)?;
        }
        kept.restore(&above)?;
        Ok(open_in(&self.root, &path, flags)?)
    }

    /// Creates a directory; one that replaces a whiteout is opaque.
    fn make_directory(&self, parent: &OwnedFd, name: &OsStr, instead_of: Existing) -> Result<(), UnpackError> {
        // Links make paths shorter than the real ones, which is what removing the directories has to walk.
        if self.depth(parent)? >= DEPTH_MAX {
            return Err(UnpackError::Path);
        }
        fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        if instead_of == Existing::Whiteout { make_opaque(parent, name) } else { Ok(()) }
    }

    /// The real depth of a directory below the layer's root.
    fn depth(&self, directory: &OwnedFd) -> Result<usize, UnpackError> {
        let path = |fd: &OwnedFd| fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new());
        let separators = |path: std::ffi::CString| path.to_bytes().iter().filter(|byte| **byte == b'/').count();
        Ok(separators(path(directory)?).saturating_sub(separators(path(&self.root)?)))
    }

    fn hard_link(&self, target: &[u8], parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
        let parts = components(target).map_err(|_| UnpackError::HardLink)?;
        let path: PathBuf = parts.iter().collect();
        let find = || open_in(&self.root, &path, OFlags::PATH | OFlags::NOFOLLOW);
        let target = match find() {
            Err(Errno::NOENT) => {
                self.copy_up(&parts)?;
                find()
            }
            found => found,
        };
        let target = target.map_err(|_| UnpackError::HardLink)?;
        match FileType::from_raw_mode(fs::fstat(&target)?.st_mode) {
            FileType::RegularFile | FileType::Symlink => Ok(fs::linkat(&target, "", parent, name, AtFlags::EMPTY_PATH)?),
            _ => Err(UnpackError::HardLink),
        }
    }
}

/// Copies content of an archive; errors in the archive are distinguished from the disk's.
fn copy(content: &mut impl Read, file: &mut File) -> Result<(), UnpackError> {
    io::copy(content, file).map(drop).map_err(|error| ArchiveError::Io(error).into())
}

/// A path's components, with `..` resolved textually.
fn components(path: &[u8]) -> Result<Vec<OsString>, UnpackError> {
    let mut names: Vec<OsString> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop().ok_or(UnpackError::Path)?),
            name if name.len() > 255 || name.contains(&0) => return Err(UnpackError::Path),
            name => names.push(OsString::from_vec(name.to_vec())),
        }
    }
    if names.len() > DEPTH_MAX { Err(UnpackError::Path) } else { Ok(names) }
}

fn set_attributes(parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), UnpackError> {
    let id = |id: i64| u32::try_from(id).ok().filter(|_| id < IDS).ok_or(UnpackError::Ids);
    let attributes = Attributes {
        mode: Mode::from_raw_mode(entry.mode),
        uid: Uid::from_raw(id(entry.uid)?),
        gid: Gid::from_raw(id(entry.gid)?),
        mtime: entry.mtime,
    };
    // We just created the name; it is a link only if the entry is.
    attributes.set(parent, name, entry.kind == Kind::Symlink)?;
    if matches!(entry.kind, Kind::File | Kind::Directory) { set_xattrs(parent, name, &entry.xattrs) } else { Ok(()) }
}
