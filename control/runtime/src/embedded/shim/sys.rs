//! System calls that nix doesn't wrap, one small function each.

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
};

use nix::{
    libc::{self, c_long},
    sys::signal::{SigSet, SigmaskHow, sigprocmask},
};

/// The number of signals, and the size of a signal set in bytes.
const SIGNALS: c_long = 64;
const SIGNAL_SET_BYTES: usize = 8;

/// A detached copy of the mount at `path`.
pub(super) fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = cstring(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: `path` is a valid C string for the length of the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a detached mount read-only and maps its owners by `userns`.
pub(super) fn idmap_read_only(tree: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(userns.as_raw_fd()).unwrap_or_default(),
    };
    let size = mem::size_of::<libc::mount_attr>();
    // SAFETY: an empty path with AT_EMPTY_PATH names `tree`; the struct lives through the call and `size` is its size.
    let done =
        unsafe { libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, &raw const attributes, size) };
    check(done).map(drop)
}

/// Attaches a detached mount at `path`.
pub(super) fn move_mount(tree: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = cstring(path)?;
    // SAFETY: both paths are valid C strings for the length of the call.
    let done = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, path.as_ptr(), libc::MOVE_MOUNT_F_EMPTY_PATH)
    };
    check(done).map(drop)
}

/// Resets every signal to its default action and unblocks all: the executed program inherits ignored and blocked signals. Every Rust
/// program ignores SIGPIPE; others may be ignored by the daemon's parent (`nohup`).
pub(super) fn default_signals() -> io::Result<()> {
    // The default action, no flags, nothing blocked meanwhile: all zeroes in the kernel's layout, regardless of field order.
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        // Bypasses the C library, which reserves two signals. SIGKILL and SIGSTOP are refused, and always have their default action.
        // SAFETY: the structure lives through the call and is as long as the kernel's; no handler is installed.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, ptr::null_mut::<u64>(), SIGNAL_SET_BYTES) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(io::Error::from)
}

/// Writes to a file descriptor that this process inherited by number; errors are ignored because there is no way to report them.
pub(super) fn write_inherited(fd: RawFd, text: &[u8]) {
    // SAFETY: the buffer is valid for its length; a bad descriptor is an error, not undefined.
    unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
}

/// Closes a file descriptor that this process inherited by number, and waits to be killed.
pub(super) fn wait_closing(fd: RawFd) -> ! {
    // SAFETY: nothing in this process uses the descriptor any more.
    unsafe { libc::close(fd) };
    loop {
        // SAFETY: always allowed.
        unsafe { libc::pause() };
    }
}

/// Ends a forked child without running the parent's exit handlers.
pub(super) fn exit_child(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

fn cstring(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn check(result: c_long) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
