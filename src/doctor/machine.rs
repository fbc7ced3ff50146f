//! What this machine has to offer.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use codiusd_runtime::{
    embedded,
    network::{self, Grade},
};
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::{
    app::{pods::network_policy, sizes::divided},
    causes::in_full,
    config::{Config, RuntimeChoice},
};

const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const GIB: u64 = 1 << 30;
/// Less is soon full of images.
const DISK_MIN: u64 = 10 * GIB;
/// A clock before this (2025-01-01) was never set.
const CLOCK_MIN: u64 = 1_735_689_600;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let mut found = vec![clock(), disk(&config.root), open_files(config), sizes(config)];
    match &config.runtime {
        RuntimeChoice::Embedded => found.extend([privileges(), namespaces(), overlay(), seccomp(), control_groups()]),
        RuntimeChoice::Hyperd(socket) => found.push(hyperd(socket)),
        RuntimeChoice::Noop => {
            found.push(Finding::note("runtime", "noop: uploads are charged, and nothing runs", "runtime = embedded, or hyperd"));
        }
    }
    found.extend(policy(config));
    found
}

fn clock() -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now < CLOCK_MIN {
        let remedy = "set it, and keep it right with systemd-timesyncd or chrony: certificates and payments are judged by it";
        return Finding::bad("clock", "it was never set", remedy);
    }
    match codiusd_runtime::clock::is_kept() {
        Ok(true) => Finding::good("clock", "it is set, and kept right"),
        Ok(false) => Finding::note(
            "clock",
            "nobody keeps it right, as far as the kernel knows",
            "systemd-timesyncd or chrony, unless what this machine runs on does: certificates and payments are judged by it",
        ),
        Err(error) => Finding::note("clock", format!("the kernel doesn't say who keeps it right: {error}"), "see that it is right: date"),
    }
}

fn sizes(config: &Config) -> Finding {
    let remedy = "CODIUS_MACHINES: sizes this machine can start; uploads of others are refused";
    match divided(config) {
        Ok((sold, unsold)) if unsold.is_empty() => {
            let names: Vec<&str> = sold.iter().map(|size| size.name.as_str()).collect();
            Finding::good("sizes", format!("{} can be started", names.join(", ")))
        }
        Ok((_, unsold)) => {
            let unsold: Vec<String> = unsold.iter().map(|(size, against)| format!("{}: {against}", size.name)).collect();
            Finding::note("sizes", format!("not sold, for no pod can be started with them: {}", unsold.join("; ")), remedy)
        }
        Err(error) => Finding::bad("sizes", in_full(&error), remedy),
    }
}

/// The file system of a directory that may not be there yet.
fn disk(root: &Path) -> Finding {
    let there = root.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/"));
    let free = match rustix::fs::statvfs(there) {
        Ok(system) => system.f_bavail.saturating_mul(system.f_frsize),
        Err(error) => return Finding::bad("disk", format!("{}: {error}", there.display()), "choose another directory (CODIUS_ROOT)"),
    };
    let text = format!("{} GiB free for {}", free / GIB, root.display());
    if free >= DISK_MIN {
        return Finding::good("disk", text);
    }
    Finding::note("disk", text, "images and pods' disks are kept there: 10 GiB and more are better (CODIUS_ROOT, CODIUS_IMAGE_DISK)")
}

fn open_files(config: &Config) -> Finding {
    let Some(allowed) = getrlimit(Resource::Nofile).maximum else { return Finding::good("open files", "as many as it takes") };
    let asked = u64::try_from(config.front_door.limits.connections).unwrap_or(u64::MAX);
    let text = format!("{allowed} may be open, for up to {asked} client connections");
    if allowed >= asked.saturating_mul(2) {
        return Finding::good("open files", text);
    }
    Finding::note(
        "open files",
        text,
        "two per connection are needed: LimitNOFILE=1048576 in the unit (deploy/codiusd.service), or ulimit -n",
    )
}

fn privileges() -> Finding {
    match embedded::check_privileges() {
        Ok(()) => Finding::good("privileges", "root, with what containers take"),
        Err(error) => Finding::bad("privileges", in_full(&error), "run this, and codiusd, as root"),
    }
}

fn namespaces() -> Finding {
    let missing: Vec<&str> = NAMESPACES.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    if !missing.is_empty() {
        let text = format!("the kernel has none of these kinds: {}", missing.join(", "));
        return Finding::bad("namespaces", text, "a kernel with CONFIG_NAMESPACES and CONFIG_USER_NS, as all distributions have");
    }
    let allowed = fs::read_to_string("/proc/sys/user/max_user_namespaces").ok();
    if allowed.is_some_and(|allowed| allowed.trim() == "0") {
        return Finding::bad("namespaces", "user namespaces are turned off", "sysctl user.max_user_namespaces=65536");
    }
    Finding::good("namespaces", "all kinds are there")
}

fn overlay() -> Finding {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let missing: Vec<&str> =
        ["overlay", "ext4"].into_iter().filter(|kind| !known.lines().any(|line| line.trim_end().ends_with(kind))).collect();
    if missing.is_empty() {
        return Finding::good("file systems", "overlay and ext4 are there");
    }
    let text = format!("not there (yet): {}", missing.join(", "));
    Finding::note("file systems", text, "the kernel may load them when they are needed; if not: modprobe overlay ext4")
}

fn seccomp() -> Finding {
    if Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        return Finding::good("seccomp", "system calls can be filtered");
    }
    Finding::bad("seccomp", "the kernel filters no system calls", "a kernel with CONFIG_SECCOMP_FILTER")
}

fn control_groups() -> Finding {
    let root = Path::new("/sys/fs/cgroup");
    let missing: Vec<&str> = match fs::read_to_string(root.join("cgroup.controllers")) {
        Ok(unified) => CONTROLLERS.into_iter().filter(|wanted| !unified.split_whitespace().any(|has| has == *wanted)).collect(),
        Err(_) => CONTROLLERS.into_iter().filter(|wanted| !root.join(wanted).join("cgroup.procs").exists()).collect(),
    };
    if missing.is_empty() {
        return Finding::good("control groups", "cpu, memory and pids are there");
    }
    let remedy = "mount them at /sys/fs/cgroup; in a container, run it privileged and with its own cgroup namespace";
    Finding::bad("control groups", format!("missing: {}", missing.join(", ")), remedy)
}

fn hyperd(socket: &Path) -> Finding {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => Finding::good("hyperd", format!("it listens at {}", socket.display())),
        Err(error) => {
            Finding::bad("hyperd", format!("{}: {error}", socket.display()), "start hyperd, or say where it is (CODIUS_HYPER_SOCKET)")
        }
    }
}

/// What the kernel does of the pods' network policy; a host puts it in force when it starts.
fn policy(config: &Config) -> Option<Finding> {
    let policy = network_policy(config)?;
    let check = "network policy";
    let (is_hyperd, bridge_is_there) = (matches!(config.runtime, RuntimeChoice::Hyperd(_)), network::is_usable(&policy));
    let findings = match network::check(&policy) {
        Ok(findings) => findings,
        Err(error) => return Some(Finding::bad(check, error.to_string(), "root, and a kernel with nf_tables")),
    };
    let bad: Vec<&str> = findings.iter().filter(|found| found.grade == Grade::Bad).map(|found| found.text.as_str()).collect();
    Some(match bad.as_slice() {
        [] => Finding::good(check, format!("table inet {} is in force", policy.table)),
        bad if is_hyperd && !bridge_is_there => Finding::bad(check, bad.join("; "), "pods can't be run until then"),
        bad => Finding::note(check, bad.join("; "), "it is put in force when codiusd starts; codiusd network check says more"),
    })
}
