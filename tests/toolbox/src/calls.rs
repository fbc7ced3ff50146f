//! System calls a pod has no business making. Arguments are such that success does no harm.

use std::{ffi::CStr, mem, ptr};

use libc::{c_int, c_long, syscall};

use crate::{Outcome, Refusal, check};

const NOTHING: *const libc::c_void = ptr::null();

/// One system call by name.
pub(crate) fn call(name: &str) -> Outcome {
    // SAFETY: every pointer is null or to something that lives through the call and is as large as the call expects.
    unsafe {
        match name {
            "bpf" => {
                // A map of one entry: type array, key 4, value 4.
                let attributes: [u32; 32] =
                    [2, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                check(syscall(libc::SYS_bpf, 0, attributes.as_ptr(), mem::size_of_val(&attributes)))
            }
            "chroot" => check(libc::chroot(c"/".as_ptr()).into()),
            "clone3" => clone3(),
            "fanotify" => check(syscall(libc::SYS_fanotify_init, 0, 0)),
            "handle" => handle(),
            "init_module" => check(syscall(libc::SYS_init_module, NOTHING, 0, c"".as_ptr())),
            "io_uring" => {
                let parameters = [0_u8; 120];
                check(syscall(libc::SYS_io_uring_setup, 1, parameters.as_ptr()))
            }
            "iopl" => io_ports(),
            "kernel-log" => check(libc::klogctl(3, [0; 64].as_mut_ptr(), 64).into()),
            "keyctl" => check(syscall(libc::SYS_add_key, c"user".as_ptr(), c"toolbox".as_ptr(), c"x".as_ptr(), 1, -2)),
            "mount" => check(libc::mount(c"none".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, NOTHING).into()),
            "mount-in-own-namespaces" => mount_in_own_namespaces(),
            "nice" => check(libc::setpriority(libc::PRIO_PROCESS, 0, -10).into()),
            "open_tree" => check(syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), libc::OPEN_TREE_CLONE)),
            "perf" => perf(),
            "pivot_root" => pivot_root(),
            "process_vm_readv" => look_into_child(),
            "ptrace" => trace_child(),
            // Ctrl-Alt-Del asks the first process: harmless, and as privileged as the rest of this call.
            "reboot" => check(libc::reboot(libc::RB_DISABLE_CAD).into()),
            "setns" => setns(),
            "settimeofday" => check(syscall(libc::SYS_settimeofday, NOTHING, NOTHING)),
            "swapoff" => absent(check(syscall(libc::SYS_swapoff, c"/no/such/swap".as_ptr()))),
            "unshare-network" => check(libc::unshare(libc::CLONE_NEWNET).into()),
            "unshare-user" => check(libc::unshare(libc::CLONE_NEWUSER).into()),
            // UFFD_USER_MODE_ONLY: what anybody may who isn't kept from it.
            "userfaultfd" => check(syscall(libc::SYS_userfaultfd, 1)),
            _ => Err(Refusal::Seen(format!("there is no call {name}"))),
        }
    }
}

/// Opens a socket.
pub(crate) fn socket(family: c_int, kind: c_int, protocol: c_int) -> Outcome {
    // SAFETY: plain numbers.
    check(unsafe { libc::socket(family, kind, protocol) }.into())
}

/// Whoever gets as far as to hear that it isn't there would have been allowed to.
fn absent(outcome: Outcome) -> Outcome {
    match outcome {
        Err(Refusal::Errno(error)) if error.raw_os_error() == Some(libc::ENOENT) => Ok("as far as there is anything".to_owned()),
        other => other,
    }
}

/// In a child: the action changes what the process is.
unsafe fn in_child(action: impl FnOnce() -> c_int) -> Outcome {
    // SAFETY: this process has one thread; the child ends below.
    unsafe {
        let child = libc::fork();
        if child < 0 {
            return crate::refused();
        }
        if child == 0 {
            libc::_exit(action());
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 255 };
        if code == 0 { Ok(String::new()) } else { Err(Refusal::Errno(std::io::Error::from_raw_os_error(code))) }
    }
}

fn code(result: c_long) -> c_int {
    if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(255) } else { 0 }
}

unsafe fn clone3() -> Outcome {
    // SAFETY: the structure is as large as is said; a child of no flags is a fork.
    unsafe {
        let mut arguments = [0_u64; 11];
        arguments[0] = libc::CLONE_NEWUSER as u64;
        arguments[4] = libc::SIGCHLD as u64;
        let child = syscall(libc::SYS_clone3, arguments.as_ptr(), mem::size_of_val(&arguments));
        if child == 0 {
            libc::_exit(0);
        }
        check(child)
    }
}

unsafe fn mount_in_own_namespaces() -> Outcome {
    // SAFETY: as `call`.
    unsafe {
        in_child(|| match code(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).into()) {
            0 => code(libc::mount(c"none".as_ptr(), c"/dev/shm".as_ptr(), c"tmpfs".as_ptr(), 0, NOTHING).into()),
            refused => refused,
        })
    }
}

unsafe fn pivot_root() -> Outcome {
    // EINVAL is for those who may: the new root is none.
    // SAFETY: as `call`.
    match unsafe { check(syscall(libc::SYS_pivot_root, c"/".as_ptr(), c"/".as_ptr())) } {
        Err(Refusal::Errno(error)) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBUSY)) => {
            Ok("as far as it makes sense".to_owned())
        }
        other => other,
    }
}

unsafe fn setns() -> Outcome {
    // SAFETY: as `call`.
    unsafe {
        let own = libc::open(c"/proc/self/ns/net".as_ptr(), libc::O_RDONLY);
        check(libc::setns(own, libc::CLONE_NEWNET).into())
    }
}

unsafe fn handle() -> Outcome {
    // A handle nobody made: who may open handles hears that it is stale, and could guess on.
    let guess: [u32; 6] = [8, 1, 2, 0, 0, 0];
    // SAFETY: as `call`.
    unsafe {
        let root = libc::open(c"/".as_ptr(), libc::O_RDONLY);
        match check(syscall(libc::SYS_open_by_handle_at, root, guess.as_ptr(), libc::O_RDONLY)) {
            Err(Refusal::Errno(error)) if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::EINVAL)) => {
                Ok("as far as the guess goes".to_owned())
            }
            other => other,
        }
    }
}

unsafe fn perf() -> Outcome {
    // A counter of this process's own time: type software, its size, task clock; not the kernel's.
    let mut attributes = [0_u64; 16];
    attributes[0] = 1 | 128 << 32;
    attributes[1] = 1;
    attributes[5] = 1 << 5 | 1 << 6;
    // SAFETY: as `call`.
    unsafe { check(syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0)) }
}

#[cfg(target_arch = "x86_64")]
unsafe fn io_ports() -> Outcome {
    // SAFETY: plain numbers.
    unsafe { check(syscall(libc::SYS_iopl, 3)) }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn io_ports() -> Outcome {
    Err(Refusal::Seen("this processor has none".to_owned()))
}

unsafe fn trace_child() -> Outcome {
    // SAFETY: as `call`; the child waits until it is killed.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::pause();
            libc::_exit(0);
        }
        let outcome = check(libc::ptrace(libc::PTRACE_SEIZE, child, 0, 0));
        libc::kill(child, libc::SIGKILL);
        outcome
    }
}

unsafe fn look_into_child() -> Outcome {
    static SECRET: &CStr = c"secret";
    // SAFETY: as `call`; the address is the same in the child.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::pause();
            libc::_exit(0);
        }
        let mut found = [0_u8; 6];
        let local = libc::iovec { iov_base: found.as_mut_ptr().cast(), iov_len: found.len() };
        let remote = libc::iovec { iov_base: SECRET.as_ptr().cast_mut().cast(), iov_len: found.len() };
        let outcome = check(libc::process_vm_readv(child, &raw const local, 1, &raw const remote, 1, 0) as c_long);
        libc::kill(child, libc::SIGKILL);
        outcome
    }
}
