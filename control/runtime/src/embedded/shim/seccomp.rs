//! The system calls a container may make.
//!
//! Container engines' list, hardened: no calls that create or enter namespaces, mount, load code into the kernel or inspect other
//! processes; only socket families that a server needs. Unlisted calls fail with EPERM, except those that C libraries must believe to be
//! missing so that they fall back to listed ones: ENOSYS for `clone3`, whose flags a filter can't read (those of `clone` it can), and for
//! calls newer than the list.

use std::{collections::BTreeMap, env::consts::ARCH, ops::Range};

use nix::libc::{self, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition as Condition, SeccompFilter,
    SeccompRule, TargetArch,
};

mod allowed;

/// Flags of `clone` that create namespaces.
const NAMESPACE_FLAGS: c_long = 0x7E02_0000 | 0x80;
const ERRNO_MASK: u32 = 0xffff;

/// Calls newer than this list, with the same numbers on every architecture.
const NEWER: Range<c_long> = 453..512;

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// The filters, in the order in which they are applied.
pub(super) fn filters() -> Result<Vec<BpfProgram>, BackendError> {
    let arch: TargetArch = ARCH.try_into()?;
    let missing = std::iter::once(libc::SYS_clone3).chain(NEWER).map(|call| (call, Vec::new())).collect();
    let missing = SeccompFilter::new(missing, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
    let listed = SeccompFilter::new(rules()?, errno(libc::EPERM), SeccompAction::Allow, arch)?;
    // If both filters refuse a call, the error of the one applied last is returned.
    Ok(vec![listed.try_into()?, missing.try_into()?])
}

fn errno(errno: i32) -> SeccompAction {
    SeccompAction::Errno(errno.unsigned_abs() & ERRNO_MASK)
}

fn rules() -> Result<Rules, BackendError> {
    let mut rules: Rules = allowed::CALLS.iter().chain(allowed::CALLS_OF_ARCH).map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![all([when(0, Is::MaskedEq(unsigned(NAMESPACE_FLAGS)), 0)?])?]);
    let family = |family: i32| when(0, Is::Eq, unsigned(family));
    let route = when(2, Is::Eq, unsigned(libc::NETLINK_ROUTE))?;
    let sockets = vec![
        all([family(libc::AF_UNIX)?])?,
        all([family(libc::AF_INET)?])?,
        all([family(libc::AF_INET6)?])?,
        all([family(libc::AF_NETLINK)?, route])?,
    ];
    rules.insert(libc::SYS_socket, sockets);
    // Named pipes, not device nodes.
    let pipe = |mode: u8| all([when(mode, Is::MaskedEq(unsigned(libc::S_IFMT)), unsigned(libc::S_IFIFO))?]);
    rules.insert(libc::SYS_mknodat, vec![pipe(2)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_mknod, vec![pipe(1)?]);
    rules.insert(libc::SYS_socketpair, vec![all([family(libc::AF_UNIX)?])?]);
    let personas = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
    let personas = personas.into_iter().map(|persona| all([when(0, Is::Eq, persona)?])).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_personality, personas);
    Ok(rules)
}

fn all<const N: usize>(conditions: [Condition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

/// A condition on the low 32 bits of an argument: the kernel ignores the rest of these.
fn when(argument: u8, operator: Is, value: u64) -> Result<Condition, BackendError> {
    Condition::new(argument, Length::Dword, operator, value)
}

fn unsigned(value: impl TryInto<u64>) -> u64 {
    value.try_into().unwrap_or(u64::MAX)
}
