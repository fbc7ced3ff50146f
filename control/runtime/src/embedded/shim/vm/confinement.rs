//! Reads back from the kernel that QEMU is confined as required: a jail that a security module or a missing kernel option left open would
//! look the same from outside.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use nix::unistd::Pid;

use super::{super::BENCH, machine::Machine};
use crate::{
    Machine as Limits,
    embedded::{cgroup, shim_protocol::ShimRequest},
};

use super::GROUP;

/// Those of `filter`, and QEMU's own.
const FILTERS_MIN: u64 = 3;
/// Namespaces that must differ from the shim's.
const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
/// What the jail's root contains besides the directories of libraries.
const VISIBLE: [&str; 6] = ["dev", "initramfs", "kernel", "lib", "lib64", "usr"];
/// Devices of the jail.
const DEVICES: [&str; 3] = ["kvm", "null", "urandom"];

/// Fails at the first deviation; the error names it.
pub(super) fn check(machine: &Machine, order: &ShimRequest, limits: Limits, threads: u32) -> io::Result<()> {
    let pid = machine.pid();
    has_no_privileges(pid, order.uid_base)?;
    is_filtered(pid)?;
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
    if score.trim() != order.bounds.oom_score_adj.to_string() {
        return Err(io::Error::other(format!("the OOM score of QEMU is {}", score.trim())));
    }
    let network = fs::metadata(Path::new(BENCH).join("ns/net"))?.ino();
    if fs::metadata(format!("/proc/{pid}/ns/net"))?.ino() != network {
        return Err(io::Error::other("the network namespace of QEMU isn't the pod's"));
    }
    for kind in NAMESPACES {
        if fs::read_link(format!("/proc/{pid}/ns/{kind}"))? == fs::read_link(format!("/proc/self/ns/{kind}"))? {
            return Err(io::Error::other(format!("the {kind} namespace of QEMU is the host's")));
        }
    }
    sees_only(pid, "/", &VISIBLE)?;
    sees_only(pid, "/dev", &DEVICES)?;
    writes_nowhere(pid)?;
    cgroup::verify(&order.pod.cgroup, limits, threads)?;
    cgroup::verify(&order.pod.cgroup.join(GROUP), limits, threads)?;
    let group = order.pod.cgroup.join(GROUP);
    if !cgroup::contains(&group, pid)? {
        return Err(io::Error::other(format!("QEMU isn't in its control group {}", group.display())));
    }
    Ok(())
}

fn has_no_privileges(pid: Pid, user: u32) -> io::Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ids = format!("{user} {user} {user} {user}");
    let none = "0000000000000000";
    let wanted = [
        ("Uid", &*ids),
        ("Gid", &ids),
        ("Groups", ""),
        ("CapInh", none),
        ("CapPrm", none),
        ("CapEff", none),
        ("CapBnd", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ];
    for (field, value) in wanted {
        let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or("missing");
        if !found.split_whitespace().eq(value.split_whitespace()) {
            return Err(io::Error::other(format!("{field} of QEMU is {} and should be {value:?}", found.trim())));
        }
    }
    Ok(())
}

/// codiusd may have filters of its own, from its service manager: QEMU must have more.
fn is_filtered(pid: Pid) -> io::Result<()> {
    let count = |process: &str| -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")?.trim().parse().ok());
        count.ok_or_else(|| io::Error::other("the kernel doesn't count system call filters (5.9 or later is needed)"))
    };
    let (own, theirs) = (count("self")?, count(&pid.to_string())?);
    if theirs < own + FILTERS_MIN {
        return Err(io::Error::other(format!("QEMU has {theirs} system call filters, {own} of them inherited")));
    }
    Ok(())
}

/// Every mount is read-only.
fn writes_nowhere(pid: Pid) -> io::Result<()> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    let is_read_only = |line: &&str| line.split(' ').nth(3).is_some_and(|options| options.split(',').any(|option| option == "ro"));
    match mounts.lines().find(|line| !is_read_only(line)) {
        Some(line) => Err(io::Error::other(format!("QEMU sees a mount that isn't read-only: {line}"))),
        None => Ok(()),
    }
}

fn sees_only(pid: Pid, directory: &str, allowed: &[&str]) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/root{directory}"))? {
        let name = entry?.file_name();
        if !allowed.iter().any(|allowed| *allowed == name) {
            return Err(io::Error::other(format!("QEMU sees {} in {directory}", name.display())));
        }
    }
    Ok(())
}
