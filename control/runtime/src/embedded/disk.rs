//! The disk of a pod: a file system of fixed size in a file, so that a full one affects only that pod.
//!
//! The file is fully allocated before the pod starts (a pod never sees space that doesn't exist), and unlinked once it is in use: the
//! kernel frees the space when the pod's last process exits, however that happens. This needs no quotas on the host's file system.
//! Formatting takes a program and some time, so it is done once and each pod gets a copy: an empty file system is a few hundred kilobytes
//! in a large sparse file.

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::RangeInclusive,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    libc,
    mount::{MsFlags, mount},
    sys::{statfs::statfs, statvfs::statvfs},
    unistd::{Whence, lseek64},
};
use tempfile::NamedTempFile;

/// Space always kept free on the host's disk, in bytes: the store and the log must keep working.
const KEPT_FREE_BYTES: u64 = 512 << 20;
/// File systems in memory: allocating the space there would use that much memory at once.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
/// No journal, no flushes: a pod's data doesn't survive a crash anyway, and its `fsync` must not reach the host's disk.
const OPTIONS: &str = "noinit_itable,nobarrier,data_err=ignore";
const FEATURES: &str = "^has_journal,^resize_inode,^metadata_csum,^64bit";
const BLOCK_BYTES: u32 = 4096;
/// Another process may take the free loop device between the request for it and its use.
const ATTACH_TRIES: usize = 64;

/// A small disk gets fewer inodes: their table is on it, too.
const BYTES_PER_INODE_MIN: u64 = 4096;

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_SET_DIRECT_IO: libc::c_ulong = 0x4C08;
/// LO_FLAGS_AUTOCLEAR: the device is freed with its last user.
const LOOP_FLAGS: u32 = 4;
/// `_IOR('X', 125, u32)`: EXT4_IOC_SHUTDOWN.
const FS_SHUTDOWN: libc::c_ulong = 0x8004_587D;
const SHUTDOWN_NO_FLUSH: u32 = 2;

/// From linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// From linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// Allowed disk sizes, in bytes: less is too small for a file system, more isn't supported.
const DISK_BYTES: RangeInclusive<u64> = 16 << 20..=1 << 40;

/// Removes templates of an earlier process, whose machines may have had different sizes.
pub(crate) fn forget_templates(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("disk-") && name.ends_with(".ext4")) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Formats the file system that pods' disks of this size are copied from, unless it exists.
pub(crate) fn template(root: &Path, bytes: u64, inodes: u32) -> io::Result<PathBuf> {
    if !DISK_BYTES.contains(&bytes) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a pod's disk has 16 MiB to 1 TiB"));
    }
    if IN_MEMORY.contains(&statfs(root)?.filesystem_type().0) {
        return Err(io::Error::other("the root directory is in memory"));
    }
    let inodes = u64::from(inodes).min(bytes / BYTES_PER_INODE_MIN);
    let path = root.join(format!("disk-{bytes}-{inodes}.ext4"));
    if path.exists() {
        return Ok(path);
    }
    // A unique name: another pod of this size may be starting, too.
    let unfinished = NamedTempFile::with_prefix_in("disk-", root)?;
    unfinished.as_file().set_len(bytes)?;
    let mut format = Command::new("mkfs.ext4");
    format.args(["-q", "-F", "-m", "0", "-b", "4096", "-O", FEATURES, "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"]);
    let output = format.arg("-N").arg(inodes.to_string()).arg(unfinished.path()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("running mkfs.ext4 (of e2fsprogs): {error}")))?;
    if !output.status.success() {
        return Err(io::Error::other(format!("mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    unfinished.as_file().sync_all()?; // after a crash the template is complete or absent
    unfinished.persist(&path).map_err(|error| error.error)?;
    Ok(path)
}

/// Creates a disk from the template; `dir` is the pod's directory, on the file system that holds the disk.
pub(crate) fn create(template: &Path, dir: &Path) -> io::Result<File> {
    let path = dir.join("disk");
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    let filled = fill(&File::open(template)?, &file, dir);
    // From here on the file exists only while it is open.
    fs::remove_file(&path)?;
    filled.map(|()| file)
}

/// Creates a disk and mounts it; returns the device.
pub(crate) fn mount_new(template: &Path, dir: &Path, label: &str, at: &Path) -> io::Result<File> {
    let file = create(template, dir)?;
    let (device, open) = attach(&file, label)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some(&device), at, Some("ext4"), flags, Some(OPTIONS))?;
    Ok(open)
}

/// Switches the loop device to direct I/O, so that data isn't cached twice, by the pod's file system and the host's. Slow, so it runs after
/// the pod's start; not every disk supports it.
pub(crate) fn bypass_cache(device: &File) -> io::Result<()> {
    // SAFETY: plain numbers.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_DIRECT_IO, 1 as libc::c_ulong) };
    Errno::result(done).map(drop).map_err(io::Error::from)
}

/// Discards unwritten data, so that unmounting takes no time.
pub(crate) fn abandon(at: &Path) -> io::Result<()> {
    let root = File::open(at)?;
    let how = SHUTDOWN_NO_FLUSH;
    // SAFETY: the number is read through the call, and only that.
    let done = unsafe { libc::ioctl(root.as_raw_fd(), FS_SHUTDOWN, &raw const how) };
    Errno::result(done).map(drop).map_err(io::Error::from)
}

fn fill(template: &File, file: &File, dir: &Path) -> io::Result<()> {
    let length = template.metadata()?.len();
    let host = statvfs(dir)?;
    let free = host.blocks_available().saturating_mul(host.fragment_size());
    if free.saturating_sub(KEPT_FREE_BYTES) < length {
        return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{free} bytes are free, a pod's disk takes {length}")));
    }
    let size = i64::try_from(length).map_err(io::Error::other)?;
    fallocate(file.as_raw_fd(), FallocateFlags::empty(), 0, size)?;
    let mut at = 0;
    while let Some((start, end)) = next_data(template, at)? {
        let mut piece = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        template.read_exact_at(&mut piece, start)?;
        file.write_all_at(&piece, start)?;
        at = end;
    }
    Ok(())
}

/// The next part of a file that isn't a hole.
fn next_data(file: &File, from: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |from: u64, whence| lseek64(file.as_raw_fd(), i64::try_from(from).unwrap_or(i64::MAX), whence);
    let start = match seek(from, Whence::SeekData) {
        Err(Errno::ENXIO) => return Ok(None),
        found => u64::try_from(found?).map_err(io::Error::other)?,
    };
    let end = u64::try_from(seek(start, Whence::SeekHole)?).map_err(io::Error::other)?;
    Ok(Some((start, end)))
}

/// Attaches the file to a loop device, which exists as long as the returned file is open or the device is mounted.
fn attach(file: &File, label: &str) -> io::Result<(PathBuf, File)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    let mut name = [0; 64];
    name.iter_mut().zip(label.bytes().take(63)).for_each(|(to, from)| *to = from);
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LOOP_FLAGS,
        file_name: name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(file.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let config = LoopConfig { fd, block_size: BLOCK_BYTES, info, reserved: [0; 8] };
    for _ in 0..ATTACH_TRIES {
        // SAFETY: this request takes no argument.
        let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(true).open(&path)?;
        // SAFETY: the kernel reads the structure, whose layout is its own, during the call.
        match Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }) {
            Ok(_) => return Ok((path, device)),
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "no loop device stays free"))
}
