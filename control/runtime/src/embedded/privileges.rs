//! Whether this process has the privileges to run containers: checked first, because otherwise each step that needs them would fail with a
//! message of its own.

use std::{fs, io};

use nix::unistd::geteuid;

use super::{error::OpenError, launch::unavailable};

/// From linux/capability.h.
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const NEEDED: u64 = CAP_NET_ADMIN | CAP_SYS_ADMIN;

/// Fails if this process can't run containers.
pub fn check() -> Result<(), OpenError> {
    if !geteuid().is_root() {
        return Err(OpenError::NotRoot);
    }
    let effective = effective().map_err(|error| unavailable("reading own capabilities", error))?;
    if effective & NEEDED == NEEDED { Ok(()) } else { Err(OpenError::LacksCapabilities) }
}

fn effective() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(field.trim(), 16).map_err(io::Error::other)
}
