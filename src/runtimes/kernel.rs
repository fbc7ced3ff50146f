//! Checks of `codiusd doctor`: what containers need of the kernel and of this process.

use std::{fs, path::Path};

use codiusd_runtime::embedded;

use crate::{error_chain::in_full, finding::Finding};

const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Runs all checks.
pub(super) fn checks() -> Vec<Finding> {
    vec![privileges(), namespaces(), overlay(), seccomp(), control_groups()]
}

fn privileges() -> Finding {
    match embedded::check_privileges() {
        Ok(()) => Finding::good("privileges", "root with the capabilities that containers need"),
        Err(error) => Finding::bad("privileges", in_full(&error), "run this command and codiusd as root"),
    }
}

fn namespaces() -> Finding {
    let missing: Vec<&str> = NAMESPACES.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    if !missing.is_empty() {
        let text = format!("the kernel lacks: {}", missing.join(", "));
        return Finding::bad("namespaces", text, "use a kernel with CONFIG_NAMESPACES and CONFIG_USER_NS, as distributions ship");
    }
    let allowed = fs::read_to_string("/proc/sys/user/max_user_namespaces").ok();
    if allowed.is_some_and(|allowed| allowed.trim() == "0") {
        return Finding::bad("namespaces", "user namespaces are turned off", "sysctl user.max_user_namespaces=65536");
    }
    Finding::good("namespaces", "all kinds available")
}

fn overlay() -> Finding {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let missing: Vec<&str> =
        ["overlay", "ext4"].into_iter().filter(|kind| !known.lines().any(|line| line.trim_end().ends_with(kind))).collect();
    if missing.is_empty() {
        return Finding::good("file systems", "overlay and ext4 available");
    }
    let text = format!("not loaded (yet): {}", missing.join(", "));
    Finding::note("file systems", text, "the kernel may load them on demand; if not: modprobe overlay ext4")
}

fn seccomp() -> Finding {
    if Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        return Finding::good("seccomp", "system call filters available");
    }
    Finding::bad("seccomp", "the kernel has no system call filters", "use a kernel with CONFIG_SECCOMP_FILTER")
}

fn control_groups() -> Finding {
    let root = Path::new("/sys/fs/cgroup");
    let missing: Vec<&str> = match fs::read_to_string(root.join("cgroup.controllers")) {
        Ok(unified) => CONTROLLERS.into_iter().filter(|wanted| !unified.split_whitespace().any(|has| has == *wanted)).collect(),
        Err(_) => CONTROLLERS.into_iter().filter(|wanted| !root.join(wanted).join("cgroup.procs").exists()).collect(),
    };
    if missing.is_empty() {
        return Finding::good("control groups", "cpu, memory and pids available");
    }
    let remedy = "mount them at /sys/fs/cgroup; in a container, run it privileged with its own cgroup namespace";
    Finding::bad("control groups", format!("missing: {}", missing.join(", ")), remedy)
}
