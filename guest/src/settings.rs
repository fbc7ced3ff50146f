//! The machine's clock and names, and what the kernel lets every user do.

use std::{fs, io};

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
    unistd::sethostname,
};

/// Users of a container, and groups, are below this.
const IDS: u32 = 65_536;
const NANOSECONDS: u64 = 1_000_000_000;

/// Sets the clock to nanoseconds since the Unix epoch.
pub(crate) fn set_clock(unix_ns: u64) -> io::Result<()> {
    let part = |value: u64| i64::try_from(value).map_err(io::Error::other);
    let time = TimeSpec::new(part(unix_ns / NANOSECONDS)?, part(unix_ns % NANOSECONDS)?);
    Ok(clock_settime(ClockId::CLOCK_REALTIME, time)?)
}

/// Sets the host name, and what all containers share.
pub(crate) fn apply(hostname: &str) -> io::Result<()> {
    sethostname(hostname)?;
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?; // lets users other than root serve port 80
    fs::write("/proc/sys/net/ipv4/ping_group_range", format!("0 {}", IDS - 1)) // no container has raw sockets, but every user may ping
}
