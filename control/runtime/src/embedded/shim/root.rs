//! A container's root file system, as all its layers together show it: the one place where an image's paths are followed.
//!
//! Links are resolved by the kernel with the mounted image as their root (openat2), so none leads out of it, and only regular
//! files are opened for more than a look: a fifo would be waited for. Nothing of the pod runs yet, so what has been looked at stays.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat},
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat},
};

/// Links on the way to one file, at most, as the kernel has it.
const LINKS_MAX: u32 = 40;
/// Directories of the root that are hidden below file systems of the host.
const HOSTS_OWN: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Whether nothing an image has there is seen in its container.
pub(super) fn is_hosts_own(path: &Path) -> bool {
    HOSTS_OWN.iter().any(|own| path.starts_with(own))
}

/// The root file system of a container that is being made.
pub(super) struct Root {
    fd: OwnedFd,
    /// Owner of what is made: the container's root.
    owner: u32,
}

impl Root {
    /// The one at `path`; what is made in it belongs to `owner`.
    pub(super) fn open(path: &Path, owner: u32) -> io::Result<Self> {
        Ok(Self { fd: File::open(path)?.into(), owner })
    }

    /// What is at a path, links followed.
    pub(super) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        File::from(self.open_at(path, OFlag::O_PATH)?).metadata()
    }

    /// A regular file, to be read.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        if !self.metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(self.open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?.into())
    }

    /// The first bytes of a regular file; `max` at most.
    pub(super) fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Makes sure of a directory, and of all above it; links lead on, and what they lead to is made, too. Returns its path without
    /// links. Nothing is made below what the host puts its own file systems over.
    pub(super) fn make_dirs(&self, path: &Path) -> io::Result<PathBuf> {
        let mut ahead = names(path);
        let mut real = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            if is_hosts_own(&real.join(&name)) {
                real.push(name);
                continue;
            }
            let parent = self.real(&real)?;
            match kind(&parent, &name)? {
                Some(SFlag::S_IFDIR) => real.push(name),
                Some(SFlag::S_IFLNK) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::ELOOP.into());
                    }
                    let target = PathBuf::from(readlinkat(Some(parent.as_raw_fd()), name.as_os_str())?);
                    if target.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    for name in names(&target).into_iter().rev() {
                        ahead.push_front(name);
                    }
                }
                Some(_) => return Err(Errno::ENOTDIR.into()),
                None => {
                    self.make_dir(&parent, &name)?;
                    real.push(name);
                }
            }
        }
        Ok(real)
    }

    /// Makes sure that a name of `directory` (a path without links) is a directory itself: a file or a link makes room for it.
    pub(super) fn become_dir(&self, directory: &Path, name: &str) -> io::Result<()> {
        let parent = self.real(directory)?;
        match kind(&parent, OsStr::new(name))? {
            Some(SFlag::S_IFDIR) => return Ok(()),
            Some(_) => unlinkat(Some(parent.as_raw_fd()), name, UnlinkatFlags::NoRemoveDir)?,
            None => {}
        }
        self.make_dir(&parent, OsStr::new(name))
    }

    /// The same for a regular file; a directory stays, and is an error.
    pub(super) fn become_file(&self, directory: &Path, name: &str) -> io::Result<()> {
        let parent = self.real(directory)?;
        match kind(&parent, OsStr::new(name))? {
            Some(SFlag::S_IFREG) => return Ok(()),
            Some(SFlag::S_IFDIR) => return Err(Errno::EISDIR.into()),
            Some(_) => unlinkat(Some(parent.as_raw_fd()), name, UnlinkatFlags::NoRemoveDir)?,
            None => {}
        }
        let how = OpenHow::new()
            .flags(OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(0o644));
        drop(owned(openat2(parent.as_raw_fd(), name, how)?));
        self.give(&parent, OsStr::new(name))
    }

    fn make_dir(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        mkdirat(Some(parent.as_raw_fd()), name, Mode::from_bits_truncate(0o755))?;
        self.give(parent, name)
    }

    fn give(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let owner = (Some(Uid::from_raw(self.owner)), Some(Gid::from_raw(self.owner)));
        Ok(fchownat(Some(parent.as_raw_fd()), name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// A directory by its path without links.
    fn real(&self, path: &Path) -> io::Result<OwnedFd> {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
        let how = how.resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(owned(openat2(self.fd.as_raw_fd(), path, how)?))
    }

    fn open_at(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY);
        let how = how.resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(owned(openat2(self.fd.as_raw_fd(), path, how)?))
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// What a name of a directory is itself, if there is anything.
fn kind(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<SFlag>> {
    match fstatat(Some(parent.as_raw_fd()), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(FileStat { st_mode, .. }) => Ok(Some(SFlag::from_bits_truncate(st_mode) & SFlag::S_IFMT)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
