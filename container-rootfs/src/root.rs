//! A container's root file system, with all its layers merged: the one place where an image's paths are resolved.
//!
//! The kernel resolves links with the mounted image as their root (openat2), so none leads out of it. Only regular files are opened for
//! reading: opening a fifo would block. Nothing of the pod runs yet, so what was checked can't change.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat},
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat},
};

/// Maximum number of links on the way to one file, as in the kernel.
const LINKS_MAX: u32 = 40;
/// Directories of the root that are hidden below the host's file systems.
const HOSTS_OWN: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Whether the host's file systems hide everything an image has at this path.
pub fn is_hosts_own(path: &Path) -> bool {
    HOSTS_OWN.iter().any(|own| path.starts_with(own))
}

/// The root file system of a container that is being created.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// Owner of created files: the container's root.
    owner: u32,
}

impl Root {
    /// Opens the root at `path`; files created in it belong to `owner`.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn open(path: &Path, owner: u32) -> io::Result<Self> {
        Ok(Self { fd: File::open(path)?.into(), owner })
    }

    /// Metadata of a path, following links.
    pub(crate) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        File::from(self.open_path(path)?).metadata()
    }

    /// Opens a path without reading or writing it, following links.
    ///
    /// # Errors
    ///
    /// There is no such path inside.
    pub fn open_path(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_at(path, OFlag::O_PATH)
    }

    /// Opens a regular file for reading.
    pub(crate) fn file(&self, path: &Path) -> io::Result<File> {
        if !self.metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(self.open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?.into())
    }

    /// The first bytes of a regular file; `max` at most.
    pub(crate) fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Creates a directory and its parents if missing; links are followed, and their targets are created, too. Returns its path without
    /// links. Creates nothing below the directories that the host mounts its own file systems on.
    pub(crate) fn make_dirs(&self, path: &Path) -> io::Result<PathBuf> {
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
                    let target = PathBuf::from(readlinkat(&parent, name.as_os_str())?);
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

    /// Makes a name in `directory` (a path without links) a directory itself: a file or a link is replaced.
    pub(crate) fn become_dir(&self, directory: &Path, name: &str) -> io::Result<()> {
        let parent = self.real(directory)?;
        match kind(&parent, OsStr::new(name))? {
            Some(SFlag::S_IFDIR) => return Ok(()),
            Some(_) => unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?,
            None => {}
        }
        self.make_dir(&parent, OsStr::new(name))
    }

    /// The same for a regular file; a directory is kept, and is an error.
    pub(crate) fn become_file(&self, directory: &Path, name: &str) -> io::Result<()> {
        let parent = self.real(directory)?;
        match kind(&parent, OsStr::new(name))? {
            Some(SFlag::S_IFREG) => return Ok(()),
            Some(SFlag::S_IFDIR) => return Err(Errno::EISDIR.into()),
            Some(_) => unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?,
            None => {}
        }
        let how = OpenHow::new()
            .flags(OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(0o644));
        drop(openat2(&parent, name, how)?);
        self.give(&parent, OsStr::new(name))
    }

    fn make_dir(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        mkdirat(parent, name, Mode::from_bits_truncate(0o755))?;
        self.give(parent, name)
    }

    fn give(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let owner = (Some(Uid::from_raw(self.owner)), Some(Gid::from_raw(self.owner)));
        Ok(fchownat(parent, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Opens a directory by its path without links.
    fn real(&self, path: &Path) -> io::Result<OwnedFd> {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
        let how = how.resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(&self.fd, path, how)?)
    }

    fn open_at(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC);
        let how = how.resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(&self.fd, path, how)?)
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

/// The type of a directory entry itself, if it exists.
fn kind(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<SFlag>> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(FileStat { st_mode, .. }) => Ok(Some(SFlag::from_bits_truncate(st_mode) & SFlag::S_IFMT)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
    };

    use nix::unistd::{geteuid, mkfifo};
    use tempfile::TempDir;

    use super::*;

    /// A directory beside the image, and the image: links `(path, target)`, directories (`path/`) and files.
    fn image(entries: &[(&str, &str)]) -> (TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("image")).unwrap();
        fs::write(dir.path().join("secret"), "the host's").unwrap();
        for (path, target) in entries {
            let at = dir.path().join("image").join(path.trim_end_matches('/'));
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            match target.strip_prefix("-> ") {
                Some(target) => symlink(target, &at).unwrap(),
                None if path.ends_with('/') => fs::create_dir_all(&at).unwrap(),
                None => fs::write(&at, target).unwrap(),
            }
        }
        let root = Root::open(&dir.path().join("image"), geteuid().as_raw()).unwrap();
        (dir, root)
    }

    fn number(error: &io::Error) -> Option<Errno> {
        error.raw_os_error().map(Errno::from_raw)
    }

    #[test]
    fn files_are_read_through_links_that_stay_inside() {
        let (_dir, root) = image(&[
            ("file", "here"),
            ("lib/file", "in lib"),
            ("absolute", "-> /lib/file"),
            ("relative", "-> lib/../lib/./file"),
            ("above", "-> ../../../lib/file"),
            ("etc", "-> usr/etc"),
            ("usr/etc/passwd", "-> ../../lib/file"),
            ("host", "-> ../secret"),
            ("one", "-> two"),
            ("two", "-> one"),
            ("dangling", "-> nothing"),
            ("directory/", ""),
        ]);
        let table = [
            ("/file", Ok("here")),
            ("/absolute", Ok("in lib")),
            ("/relative", Ok("in lib")),
            ("/above", Ok("in lib")),
            ("/../../file", Ok("here")),
            ("/etc/passwd", Ok("in lib")),
            ("/host", Err(Some(Errno::ENOENT))),
            ("/../secret", Err(Some(Errno::ENOENT))),
            ("/one", Err(Some(Errno::ELOOP))),
            ("/dangling", Err(Some(Errno::ENOENT))),
            ("/file/below", Err(Some(Errno::ENOTDIR))),
            ("/directory", Err(None)),
        ];
        for (path, expected) in table {
            let read = root.read(Path::new(path), 64).map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(read.as_deref().map_err(number), expected, "{path}");
        }
        assert_eq!(root.read(Path::new("/file"), 2).unwrap(), b"he", "no more than is wanted");
    }

    #[test]
    fn a_fifo_is_looked_at_and_not_waited_for() {
        let (dir, root) = image(&[]);
        mkfifo(&dir.path().join("image/fifo"), Mode::S_IRWXU).unwrap();
        assert_eq!(number(&root.read(Path::new("/fifo"), 1).unwrap_err()), None);
        assert!(!root.metadata(Path::new("/fifo")).unwrap().is_file());
    }

    #[test]
    fn directories_are_made_where_links_lead_and_never_outside() {
        let entries = &[
            ("there/", ""),
            ("etc", "-> usr/etc"),
            ("absolute", "-> /var/absolute"),
            ("out", "-> ../../../../outside"),
            ("proc-link", "-> /proc/self"),
            ("one", "-> two"),
            ("two", "-> one"),
            ("self", "-> self/x"),
            ("file", ""),
        ];
        let table = [
            ("/", Ok("/")),
            ("/a/b/../c/./d", Ok("/a/c/d")),
            ("/../..", Ok("/")),
            ("/there/new", Ok("/there/new")),
            ("/etc/x", Ok("/usr/etc/x")),
            ("/absolute/x", Ok("/var/absolute/x")),
            ("/out/x", Ok("/outside/x")),
            ("/proc/x/y", Ok("/proc/x/y")),
            ("/proc-link/fd", Ok("/proc/self/fd")),
            ("/one", Err(Some(Errno::ELOOP))),
            ("/self", Err(Some(Errno::ELOOP))),
            ("/file", Err(Some(Errno::ENOTDIR))),
            ("/file/x", Err(Some(Errno::ENOTDIR))),
        ];
        for (path, expected) in table {
            let (dir, root) = image(entries);
            let made = root.make_dirs(Path::new(path));
            assert_eq!(made.as_deref().map_err(number), expected.map(Path::new), "{path}");
            let mut beside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            beside.sort();
            assert_eq!(beside, ["image", "secret"], "{path}: made outside of the image");
            if let Some(real) = made.ok().filter(|real| !is_hosts_own(real)) {
                let made = fs::symlink_metadata(dir.path().join("image").join(real.strip_prefix("/").unwrap())).unwrap();
                assert!(made.is_dir() && made.uid() == geteuid().as_raw(), "{path}");
            }
            assert!(!dir.path().join("image/proc").exists(), "{path}: hidden in the container, and made all the same");
        }
    }

    #[test]
    fn a_name_becomes_a_file_or_a_directory_whatever_it_was() {
        let entries = &[
            ("file", "kept"),
            ("directory/kept", ""),
            ("dangling", "-> ../run/nowhere"),
            ("absolute", "-> /file"),
            ("outside", "-> ../../secret"),
            ("loop", "-> loop"),
        ];
        let is_file = |name: &str| (name != "directory").then_some(()).ok_or(Some(Errno::EISDIR));
        for name in ["file", "directory", "dangling", "absolute", "outside", "loop", "missing"] {
            let (dir, root) = image(entries);
            let at = dir.path().join("image").join(name);
            assert_eq!(root.become_file(Path::new("/"), name).map_err(|error| number(&error)), is_file(name), "{name}");
            assert_eq!(fs::symlink_metadata(&at).unwrap().is_file(), name != "directory", "{name}");
            assert_eq!(fs::read_to_string(dir.path().join("image/file")).unwrap(), "kept", "{name}");
            let (dir, root) = image(entries);
            let at = dir.path().join("image").join(name);
            root.become_dir(Path::new("/"), name).unwrap();
            assert!(fs::symlink_metadata(&at).unwrap().is_dir(), "{name}");
            assert!(dir.path().join("image/directory/kept").exists(), "{name}");
            assert_eq!(fs::read_to_string(dir.path().join("secret")).unwrap(), "the host's", "{name}");
        }
    }
}
