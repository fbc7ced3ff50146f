//! What pods need of the machine.

use std::{
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use codiusd_runtime::{
    clock,
    network::{self, Grade},
};
use rustix::process::{Resource, getrlimit};

use super::{Check, host::Running, nearest};
use crate::{
    app::pods::network_policy,
    config::{Config, RuntimeChoice},
};

/// The first kernel the embedded runtime works on.
const KERNEL_MIN: (u32, u32) = (5, 19);
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const CGROUPS: &str = "/sys/fs/cgroup";
/// When this was written, in seconds since 1970: 2026-11-01.
const LONG_AGO: u64 = 1_793_491_200;
/// Free disk below which hardly a pod fits, and below which not many do.
const DISK_MIN: u64 = 1 << 30;
const DISK_FEW: u64 = 10 << 30;
const MIB: u64 = 1 << 20;

pub(super) fn kernel() -> Vec<Check> {
    vec![version(), namespaces(), overlay(), seccomp()]
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn version() -> Check {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.trim().split(|character: char| !character.is_ascii_digit()).map_while(|part| part.parse().ok());
    let what = format!("Linux {}", release.trim());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_MIN => Check::ok("kernel", what),
        _ => Check::fail("kernel", what, format!("pods need Linux {}.{} or later", KERNEL_MIN.0, KERNEL_MIN.1)),
    }
}

fn namespaces() -> Check {
    let missing: Vec<&str> = NAMESPACES.into_iter().filter(|name| !Path::new("/proc/self/ns").join(name).exists()).collect();
    if !missing.is_empty() {
        return Check::fail(
            "namespaces",
            format!("the kernel has none of {}", missing.join(", ")),
            "run a kernel of a distribution, or one built with them",
        );
    }
    match read("/proc/sys/user/max_user_namespaces").trim() {
        "0" => {
            Check::fail("namespaces", "user namespaces are switched off", "sysctl -w user.max_user_namespaces=15000, and in /etc/sysctl.d")
        }
        _ => Check::ok("namespaces", NAMESPACES.join(", ")),
    }
}

fn overlay() -> Check {
    let known = read("/proc/filesystems");
    let has = |name: &str| known.lines().any(|line| line.split_whitespace().last() == Some(name));
    match (has("overlay"), has("ext4")) {
        (true, true) => Check::ok("file systems", "overlay, ext4"),
        (false, _) => Check::warn(
            "file systems",
            "overlay isn't loaded",
            "modprobe overlay (and a line in /etc/modules-load.d): images are mounted with it",
        ),
        (true, false) => Check::warn("file systems", "ext4 isn't loaded", "modprobe ext4 loop: pods' disks are made with them"),
    }
}

fn seccomp() -> Check {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    if actions.split_whitespace().any(|action| action == "errno") {
        Check::ok("seccomp", "system calls can be filtered")
    } else {
        Check::fail("seccomp", "the kernel filters no system calls", "run a kernel with CONFIG_SECCOMP_FILTER")
    }
}

/// Whether there are groups with limits, and they can be made.
pub(super) fn cgroups(is_root: bool) -> Check {
    let mount = Path::new(CGROUPS);
    let v2 = fs::read_to_string(mount.join("cgroup.controllers"));
    let has = |controller: &str| match &v2 {
        Ok(there) => there.split_whitespace().any(|name| name == controller),
        Err(_) => mount.join(controller).is_dir(),
    };
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|controller| !has(controller)).collect();
    if !missing.is_empty() {
        let remedy = "boot with these controllers (cgroup_enable=memory, or systemd.unified_cgroup_hierarchy=1); in a container or service, delegate them (Delegate=yes)";
        return Check::fail("cgroups", format!("no controller for {}", missing.join(", ")), remedy);
    }
    if !is_root {
        return Check::skipped(
            "cgroups",
            format!("{} are there; whether groups can be made needs root", CONTROLLERS.join(", ")),
            "sudo codiusd doctor",
        );
    }
    let group = if v2.is_ok() { mount.to_owned() } else { mount.join("memory") }.join(format!("codiusd-doctor-{}", std::process::id()));
    match fs::create_dir(&group).and_then(|()| fs::remove_dir(&group)) {
        Ok(()) => Check::ok("cgroups", format!("{}; groups can be made", CONTROLLERS.join(", "))),
        Err(error) => Check::fail(
            "cgroups",
            format!("no group can be made ({error})"),
            format!("let codiusd write to {CGROUPS}; in a container, mount it so"),
        ),
    }
}

/// Payments expire within seconds, by both ends' clocks.
pub(super) fn clock() -> Check {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if now < LONG_AGO {
        return Check::fail(
            "clock",
            "it is years behind",
            "set the clock, and let a time service keep it right (systemd-timesyncd, chrony)",
        );
    }
    let remedy = "let a time service keep it right (systemd-timesyncd, chrony): payments expire within seconds, by the clocks of both ends";
    match clock::is_kept() {
        Ok(true) => Check::ok("clock", "kept right by a time service"),
        Ok(false) => Check::warn("clock", "no time service keeps it right", remedy),
        Err(error) => Check::warn("clock", format!("the kernel doesn't say whether it is kept right ({error})"), remedy),
    }
}

pub(super) fn disk(config: &Config) -> Check {
    let place = nearest(&config.root);
    let free = match rustix::fs::statvfs(&place) {
        Ok(file_system) => file_system.f_bavail.saturating_mul(file_system.f_frsize),
        Err(error) => return Check::fail("disk", format!("{}: {error}", place.display()), "set root to a directory of a disk"),
    };
    let what = format!("{} MiB free at {}", free / MIB, place.display());
    let remedy = "make room, or set root to a directory of a larger disk: pods' disks and images are there (machines, image_disk)";
    match free {
        _ if free < DISK_MIN => Check::fail("disk", what, remedy),
        _ if free < DISK_FEW => Check::warn("disk", what, remedy),
        _ => Check::ok("disk", what),
    }
}

pub(super) fn open_files(config: &Config) -> Check {
    let wanted = u64::try_from(config.front_door.limits.connections).unwrap_or(u64::MAX).saturating_mul(2);
    match getrlimit(Resource::Nofile).maximum {
        Some(files) if files < wanted => Check::warn(
            "open files",
            format!("{files} may be open, and edge_connections would need {wanted}: fewer connections are taken"),
            "LimitNOFILE= in the unit (or ulimit -n), or a smaller edge_connections",
        ),
        Some(files) => Check::ok("open files", format!("{files} may be open")),
        None => Check::ok("open files", "any number may be open"),
    }
}

/// Whether the policy can be made; of a host that runs, whether it is in force. Blocks for a moment.
pub(super) fn nftables(config: &Config, running: &Running, is_root: bool) -> Check {
    let Some(policy) = network_policy(config) else {
        return Check::skipped(
            "nftables",
            "not needed: no pods that have a network policy",
            "set runtime, or hyper_bridge, if there should be",
        );
    };
    if !is_root {
        return Check::needs_root("nftables");
    }
    let findings = match network::check(&policy) {
        Ok(findings) => findings,
        Err(error) => {
            return Check::fail(
                "nftables",
                cause("they can't be used", &error),
                "modprobe nf_tables, and a kernel with CONFIG_NF_TABLES_INET; CAP_NET_ADMIN",
            );
        }
    };
    let bad = findings.into_iter().find(|found| found.grade == Grade::Bad);
    match (running, bad) {
        (Running::Yes(_), Some(bad)) => Check::fail("nftables", bad.text, "codiusd network check says all of it"),
        (Running::Yes(_), None) => Check::ok("nftables", "the pods' network policy is in force"),
        (Running::No | Running::Unknown(_), _) => Check::ok("nftables", "the pods' network policy can be made"),
    }
}

fn cause(what: &str, error: &io::Error) -> String {
    format!("{what} ({error})")
}
