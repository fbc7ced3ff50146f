//! A pod's control group: the limits all its containers share, and the certain end of every process in it.
//!
//! Works on the separate hierarchies of cgroup v1 and on the one of v2; libcontainer makes the leaf per container below.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::Machine;

const MOUNT: &str = "/sys/fs/cgroup";
/// One second of processor time is given out in slices of this many microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// How long processes that were sent SIGKILL may take to be gone.
const EMPTY_WAIT: Duration = Duration::from_secs(5);
/// Between two looks at a group that is not empty yet.
const EMPTY_POLL: Duration = Duration::from_millis(2);

/// Makes the group `path` (absolute below each hierarchy) and sets its limits.
pub(crate) fn create(path: &Path, machine: Machine, pids: u32) -> io::Result<()> {
    let quota = u64::from(machine.vcpus) * CPU_PERIOD_US;
    if is_v2() {
        enable_controllers(path)?;
        let group = join(Path::new(MOUNT), path);
        set(&group.join("memory.max"), machine.memory_bytes.to_string())?;
        optional(set(&group.join("memory.swap.max"), "0"))?; // memory and swap together: none of it is swap
        set(&group.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
        return set(&group.join("pids.max"), pids.to_string());
    }
    let group = |controller: &str| -> io::Result<PathBuf> {
        let group = join(&Path::new(MOUNT).join(controller), path);
        fs::create_dir_all(&group)?;
        Ok(group)
    };
    let memory = group("memory")?;
    set(&memory.join("memory.limit_in_bytes"), machine.memory_bytes.to_string())?;
    optional(set(&memory.join("memory.memsw.limit_in_bytes"), machine.memory_bytes.to_string()))?;
    let cpu = group("cpu")?;
    set(&cpu.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
    set(&cpu.join("cpu.cfs_quota_us"), quota.to_string())?;
    set(&group("pids")?.join("pids.max"), pids.to_string())
}

/// Kills every process in the group and removes it from all hierarchies. Fine when it isn't there.
pub(crate) fn destroy(path: &Path) -> io::Result<()> {
    let groups = groups(path)?;
    let deadline = Instant::now() + EMPTY_WAIT;
    loop {
        let mut left = 0;
        for group in &groups {
            left += kill_all(group)?;
        }
        if left == 0 {
            break;
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{left} processes of {} survive SIGKILL", path.display())));
        }
        thread::sleep(EMPTY_POLL);
    }
    groups.iter().try_for_each(|group| remove(group, deadline))
}

/// Sends SIGKILL to every process in the group.
pub(crate) fn kill_everything(path: &Path) -> io::Result<()> {
    groups(path)?.iter().try_for_each(|group| kill_all(group).map(drop))
}

/// Removes the group from all hierarchies, unless something is in it.
pub(crate) fn remove_empty(path: &Path) -> io::Result<()> {
    for group in groups(path)? {
        match fs::remove_dir(&group) {
            Err(error) if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty) => {}
            done => done?,
        }
    }
    Ok(())
}

/// The group in every hierarchy that has it.
fn groups(path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(hierarchies()?.iter().map(|hierarchy| join(hierarchy, path)).filter(|group| group.exists()).collect())
}

fn is_v2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

fn hierarchies() -> io::Result<Vec<PathBuf>> {
    if is_v2() {
        return Ok(vec![MOUNT.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(MOUNT)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path()); // `cpu,cpuacct` and the like are one directory and links to it
        }
    }
    Ok(found)
}

/// On v2 a controller works in a group only if every group above hands it down.
fn enable_controllers(path: &Path) -> io::Result<()> {
    let mut group = PathBuf::from(MOUNT);
    for name in path.strip_prefix("/").unwrap_or(path) {
        for controller in ["+memory", "+cpu", "+pids"] {
            set(&group.join("cgroup.subtree_control"), controller)?;
        }
        group.push(name);
        match fs::create_dir(&group) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
    }
    ["+memory", "+cpu", "+pids"].iter().try_for_each(|controller| set(&group.join("cgroup.subtree_control"), controller))
}

fn join(hierarchy: &Path, path: &Path) -> PathBuf {
    hierarchy.join(path.strip_prefix("/").unwrap_or(path))
}

/// Writes a setting that exists: nothing may look set that isn't.
fn set(path: &Path, value: impl AsRef<[u8]>) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_ref())
}

/// Some kernels are built without swap accounting.
fn optional(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(()),
        done => done,
    }
}

/// Sends SIGKILL to all processes of the group and those below; returns how many there were.
fn kill_all(group: &Path) -> io::Result<usize> {
    let procs = match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(procs) => procs,
        // ENODEV: removed between look and read.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut count = 0;
    for pid in procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok(); // gone is as good
        count += 1;
    }
    for child in children(group)? {
        count += kill_all(&child)?;
    }
    Ok(count)
}

fn children(group: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove(group: &Path, deadline: Instant) -> io::Result<()> {
    for child in children(group)? {
        remove(&child, deadline)?;
    }
    loop {
        match fs::remove_dir(group) {
            // A killed process stays counted for a moment after it has left `cgroup.procs`.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => thread::sleep(EMPTY_POLL),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done,
        }
    }
}
