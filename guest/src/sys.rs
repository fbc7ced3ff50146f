//! System calls that nix doesn't wrap, one small function each.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use codiusd_container_rootfs::confinement::ROOT_CAPABILITY_MASK;
use nix::{
    libc::{self, c_int, c_long, c_ulong},
    sys::signal::{SigSet, SigmaskHow, sigprocmask},
    unistd::Pid,
};

/// The number of signals, and the size of a signal set in bytes.
const SIGNALS: c_long = 64;
const SIGNAL_SET_BYTES: usize = 8;
/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits, in two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// More than the kernel has capabilities.
const CAPABILITIES_MAX: c_ulong = 64;

/// Flag of `clone3` (linux/sched.h): the child begins in a control group. libc's constant has too few bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A program of the system call filter, as the kernel takes it.
#[derive(Clone, Debug)]
pub(crate) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// From instructions as the protocol packs them.
    pub(crate) fn new(program: &[u64]) -> Self {
        let instruction = |packed: &u64| {
            let [c0, c1, jt, jf, k0, k1, k2, k3] = packed.to_le_bytes();
            libc::sock_filter { code: u16::from_le_bytes([c0, c1]), jt, jf, k: u32::from_le_bytes([k0, k1, k2, k3]) }
        };
        Self(program.iter().map(instruction).collect())
    }

    /// Applies it to this process for ever; `no_new_privs` must be set.
    pub(crate) fn apply(&self) -> io::Result<()> {
        let length = u16::try_from(self.0.len()).map_err(io::Error::other)?;
        let program = libc::sock_fprog { len: length, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program, which lives through the call, and doesn't write to it.
        check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })
    }
}

/// Forks a child into a control group and new namespaces; none in the child, which may continue as an ordinary program because the parent
/// has one thread.
pub(crate) fn clone_into(group: BorrowedFd<'_>, namespaces: c_int) -> io::Result<Option<Pid>> {
    let number = |value: c_int| u64::from(value.unsigned_abs());
    let mut arguments = libc::clone_args {
        flags: number(namespaces) | CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: number(libc::SIGCHLD),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: number(group.as_raw_fd()),
    };
    // SAFETY: without CLONE_VM the child has a copy of all memory, and returns here on a copy of the stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, mem::size_of::<libc::clone_args>()) };
    match i32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Some(Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends a forked child.
pub(crate) fn exit_child(code: c_int) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// Resets every signal to its default action and unblocks all: the executed program inherits ignored and blocked signals.
pub(crate) fn default_signals() -> io::Result<()> {
    // The default action, no flags, nothing blocked meanwhile: all zeroes in the kernel's layout, regardless of field order.
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        // Bypasses the C library, which reserves two signals. SIGKILL and SIGSTOP are refused, and always have their default action.
        // SAFETY: the structure lives through the call and is as long as the kernel's; no handler is installed.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, ptr::null_mut::<u64>(), SIGNAL_SET_BYTES) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(io::Error::from)
}

/// Limits what programs this process executes can ever have: `kept`.
pub(crate) fn bound_capabilities(kept: u64) -> io::Result<()> {
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: reads a bit of this process; an unknown capability is an error.
        let has = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
        if has > 0 && kept & (1 << capability) == 0 {
            // SAFETY: changes a bit of this process.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }.into())?;
        }
    }
    // SAFETY: changes bits of this process.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }.into())
}

/// Reduces this process's own capabilities to those of a container's root.
pub(crate) fn limit_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let half = |shift: u32| u32::try_from((ROOT_CAPABILITY_MASK >> shift) & u64::from(u32::MAX)).unwrap_or_default();
    let sets = |half: u32| Sets { effective: half, permitted: half, inheritable: 0 };
    let header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let data = [sets(half(0)), sets(half(u32::BITS))];
    // SAFETY: both live through the call, and are laid out as this version of the call requires.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
}

fn check(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_unpacked_as_the_kernel_lays_them_out() {
        let Filter(program) = Filter::new(&[0x7fff_0000_0201_0006]);
        let [found] = program[..] else { panic!("one instruction") };
        assert_eq!((found.code, found.jt, found.jf, found.k), (6, 1, 2, 0x7fff_0000));
    }
}
