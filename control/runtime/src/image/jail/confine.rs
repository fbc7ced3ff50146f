//! What the child gives up between fork and exec.

use std::{io, os::fd::BorrowedFd};

use codiusd_container_rootfs::confinement::CORE_BYTES;
use nix::libc;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, configure_capability_in_ambient_set, remove_capability_from_bounding_set,
        set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use seccompiler::BpfProgram;

/// The jailed program's user and group: nobody's else, just below the users of pods (`uid_base`).
pub(in crate::image) const UID: u32 = 0x0fff_ffff;
/// Maximum memory of the program, in bytes: it keeps about 5 KB for each file of the image.
const MEMORY_BYTES_MAX: u64 = 2 << 30;

/// The only capability: it reads files that the image's other users may not.
const READS_ALL: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;
const FILES_MAX: u64 = 1024;
/// Threads, of all jails together.
const THREADS_MAX: u64 = 256;

/// What depends on the image.
pub(super) struct Bounds {
    /// Maximum size of a file.
    pub(super) bytes_max: u64,
    /// Maximum processor time.
    pub(super) seconds_max: u64,
}

/// Confines the calling process, which has just been forked from a program with many threads: everything here is a system call.
/// `daemon` refers to that program.
pub(super) fn confine(bounds: &Bounds, filter: &BpfProgram, daemon: BorrowedFd<'_>) -> io::Result<()> {
    limit(bounds)?;
    close_inherited()?;
    for capability in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)).filter(|capability| *capability != READS_ALL) {
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => break, // the kernel has no more
            Err(errno) => return Err(errno.into()),
        }
    }
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_capabilities(None, CapabilitySets { effective: READS_ALL, permitted: READS_ALL, inheritable: READS_ALL })?;
    configure_capability_in_ambient_set(READS_ALL, true)?; // survives the exec
    set_no_new_privs(true)?;
    // After the change of user, which resets it. The thread that started this process counts as its parent, and waits for it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if is_gone(daemon)? {
        return Err(Errno::SRCH.into());
    }
    seccompiler::apply_filter(filter).map_err(|_| io::Error::from(Errno::OPNOTSUPP))
}

fn limit(bounds: &Bounds) -> rustix::io::Result<()> {
    let limits = [
        (Resource::As, MEMORY_BYTES_MAX),
        (Resource::Core, CORE_BYTES),
        (Resource::Cpu, bounds.seconds_max),
        (Resource::Fsize, bounds.bytes_max),
        (Resource::Nofile, FILES_MAX),
        (Resource::Nproc, THREADS_MAX),
    ];
    limits.into_iter().try_for_each(|(resource, most)| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }))
}

/// Has the exec close all files but the standard streams: what this program inherited from its own parent may stay open otherwise.
fn close_inherited() -> io::Result<()> {
    // SAFETY: no file is closed before the exec, so nothing here loses its own.
    let done = unsafe { libc::syscall(libc::SYS_close_range, libc::STDERR_FILENO + 1, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a process has ended before it could be asked to take this one with it.
fn is_gone(process: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut polled = [PollFd::new(&process, PollFlags::IN)];
    Ok(poll(&mut polled, Some(&Timespec::default()))? > 0)
}
