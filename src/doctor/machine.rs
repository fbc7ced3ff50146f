//! Checks of this machine.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use codiusd_runtime::network::{self, Grade, Policy};
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::{app::sizes::divided, config::Config, error_chain::in_full, runtimes};

const GIB: u64 = 1 << 30;
/// Least disk size: a smaller disk soon fills up with images.
const DISK_MIN: u64 = 10 * GIB;
/// An earlier time (before 2025-01-01) means that the clock was never set.
const CLOCK_MIN: u64 = 1_735_689_600;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let mut found = vec![clock(), disk(&config.root), open_files(config), sizes(config)];
    let plan = runtimes::plan(config);
    found.extend(plan.doctor_checks());
    found.extend(policy(plan.network_policy()));
    found
}

fn clock() -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now < CLOCK_MIN {
        let remedy = "set it, and synchronise it with systemd-timesyncd or chrony: certificates and payments depend on it";
        return Finding::bad("clock", "never set", remedy);
    }
    match codiusd_runtime::time_sync::is_kept() {
        Ok(true) => Finding::good("clock", "synchronised"),
        Ok(false) => Finding::note(
            "clock",
            "not synchronised, as far as the kernel knows",
            "run systemd-timesyncd or chrony, unless the hypervisor synchronises it: certificates and payments depend on it",
        ),
        Err(error) => Finding::note("clock", format!("the kernel does not tell whether it is synchronised: {error}"), "check it with date"),
    }
}

fn sizes(config: &Config) -> Finding {
    let remedy = "set pod_size (CODIUS_MACHINES) to sizes this machine can start; uploads of others are refused";
    match divided(config) {
        Ok((sold, unsold)) if unsold.is_empty() => {
            let names: Vec<&str> = sold.iter().map(|size| size.name.as_str()).collect();
            Finding::good("sizes", format!("{} can be started", names.join(", ")))
        }
        Ok((_, unsold)) => {
            let unsold: Vec<String> = unsold.iter().map(|(size, against)| format!("{}: {against}", size.name)).collect();
            Finding::note("sizes", format!("not sold, because no pod of these sizes can start: {}", unsold.join("; ")), remedy)
        }
        Err(error) => Finding::bad("sizes", in_full(&error), remedy),
    }
}

/// Checks the file system of a directory that may not exist yet.
fn disk(root: &Path) -> Finding {
    let there = root.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/"));
    let free = match rustix::fs::statvfs(there) {
        Ok(system) => system.f_bavail.saturating_mul(system.f_frsize),
        Err(error) => return Finding::bad("disk", format!("{}: {error}", there.display()), "choose another directory (root, CODIUS_ROOT)"),
    };
    let text = format!("{} GiB free for {}", free / GIB, root.display());
    if free >= DISK_MIN {
        return Finding::good("disk", text);
    }
    Finding::note("disk", text, "10 GiB or more for images and pods' disks are better (root, images.disk)")
}

fn open_files(config: &Config) -> Finding {
    let Some(allowed) = getrlimit(Resource::Nofile).maximum else { return Finding::good("open files", "no limit") };
    let asked = u64::try_from(config.edge_limits.limits.connections).unwrap_or(u64::MAX);
    let text = format!("limit of {allowed} for up to {asked} client connections");
    if allowed >= asked.saturating_mul(2) {
        return Finding::good("open files", text);
    }
    Finding::note("open files", text, "each connection needs two: set LimitNOFILE=1048576 in the unit, or ulimit -n")
}

/// Whether the kernel enforces the pods' network policy; a host installs it when it starts.
fn policy(policy: Option<Policy>) -> Option<Finding> {
    let policy = policy?;
    let check = "network policy";
    let is_usable = network::is_usable(&policy);
    let findings = match network::check(&policy) {
        Ok(findings) => findings,
        Err(error) => return Some(Finding::bad(check, error.to_string(), "run as root on a kernel with nf_tables")),
    };
    let bad: Vec<&str> = findings.iter().filter(|found| found.grade == Grade::Bad).map(|found| found.text.as_str()).collect();
    Some(match bad.as_slice() {
        [] => Finding::good(check, format!("table inet {} is in force", policy.table)),
        bad if !is_usable => Finding::bad(check, bad.join("; "), "start hyperd; pods can't run until then"),
        bad => Finding::note(check, bad.join("; "), "codiusd installs it when it starts; codiusd network check has details"),
    })
}
