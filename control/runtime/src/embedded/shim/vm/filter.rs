//! System calls that QEMU may not make, besides those that its own `-sandbox` denies: what would give a program that broke out of its guest
//! new namespaces, and with them capabilities and more of the kernel to attack.
//!
//! A list of what is denied, because QEMU's calls differ by version; the list of those it makes would have to be kept for each.

use std::{collections::BTreeMap, env::consts::ARCH};

use nix::libc::{self, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition as Condition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Namespaces, mounts, other processes, and parts of the kernel that no virtual machine needs.
const DENIED: [c_long; 34] = [
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Calls that programs must believe to be missing, so that they fall back to others: `clone3`, whose flags a filter can't read, and io_uring.
const MISSING: [c_long; 4] = [libc::SYS_clone3, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_io_uring_setup];

/// Flags of `clone` that create namespaces.
const NAMESPACE_FLAGS: [c_long; 8] = [
    libc::CLONE_NEWCGROUP as c_long,
    libc::CLONE_NEWIPC as c_long,
    libc::CLONE_NEWNET as c_long,
    libc::CLONE_NEWNS as c_long,
    libc::CLONE_NEWPID as c_long,
    0x80, // CLONE_NEWTIME
    libc::CLONE_NEWUSER as c_long,
    libc::CLONE_NEWUTS as c_long,
];

/// The filters, in the order in which they are applied.
pub(super) fn filters() -> Result<Vec<BpfProgram>, BackendError> {
    let arch: TargetArch = ARCH.try_into()?;
    let mut denied: BTreeMap<c_long, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let with = |flag: &c_long| {
        let flag = u64::try_from(*flag).unwrap_or_default();
        SeccompRule::new(vec![Condition::new(0, Length::Dword, Is::MaskedEq(flag), flag)?])
    };
    denied.insert(libc::SYS_clone, NAMESPACE_FLAGS.iter().map(with).collect::<Result<_, _>>()?);
    let missing = MISSING.iter().map(|call| (*call, Vec::new())).collect();
    let filter =
        |rules, errno: i32| SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()), arch)?.try_into();
    Ok(vec![filter(denied, libc::EPERM)?, filter(missing, libc::ENOSYS)?])
}
