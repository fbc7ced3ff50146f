//! Whether a time service keeps this machine's clock right, as reported by the kernel.

use std::{io, mem::MaybeUninit};

use nix::{errno::Errno, libc};

/// Whether a time service has set the clock, and continues to. Needs no privileges.
pub fn is_kept() -> io::Result<bool> {
    // SAFETY: all its fields are integers, for which zeros are values; no mode is set, so nothing is changed.
    let mut asked: libc::timex = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: it is ours, and lives until the call returns.
    let state = Errno::result(unsafe { libc::adjtimex(&raw mut asked) })?;
    Ok(state != libc::TIME_ERROR && asked.status & libc::STA_UNSYNC == 0)
}
