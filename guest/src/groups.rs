//! The control groups (version 2) of the pod and its containers.
//!
//! Each container's group has the pod's limits, too: programs size heaps and pools by the limits they read in their own group.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use codiusd_guest_protocol::Bounds;
use nix::mount::{MsFlags, mount};

const MOUNT: &str = "/sys/fs/cgroup";
const POD: &str = "/sys/fs/cgroup/pod";
/// Memory that isn't the containers': this process and the logs keep working when they use theirs up.
const RESERVE_BYTES: u64 = 24 << 20;
/// Controllers that limit something.
const CONTROLLERS: &str = "+memory +pids";

/// Mounts the hierarchy.
pub(crate) fn mount_all() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("cgroup2"), MOUNT, Some("cgroup2"), flags, None::<&str>)?)
}

/// Creates the pod's group.
pub(crate) fn create_pod(bounds: &Bounds) -> io::Result<()> {
    set(&Path::new(MOUNT).join("cgroup.subtree_control"), CONTROLLERS)?;
    limit(Path::new(POD), bounds)?;
    set(&Path::new(POD).join("cgroup.subtree_control"), CONTROLLERS)
}

/// Creates a container's group, and opens it.
pub(crate) fn create_container(container: u16, bounds: &Bounds) -> io::Result<File> {
    limit(&path(container), bounds)?;
    File::open(path(container))
}

/// Whether the kernel has killed a process of the container for want of memory.
pub(crate) fn was_out_of_memory(container: u16) -> io::Result<bool> {
    Ok(kills(&fs::read_to_string(path(container).join("memory.events"))?) > 0)
}

fn path(container: u16) -> PathBuf {
    Path::new(POD).join(container.to_string())
}

fn limit(group: &Path, bounds: &Bounds) -> io::Result<()> {
    fs::create_dir(group)?;
    let most = memory_bytes()?.saturating_sub(RESERVE_BYTES);
    set(&group.join("memory.max"), &bounds.memory_bytes.min(most).to_string())?;
    set(&group.join("memory.oom.group"), "0")?; // the kernel kills one process, not the whole container
    set(&group.join("pids.max"), &bounds.pids.to_string())
}

/// The memory of this machine.
fn memory_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no MemTotal in /proc/meminfo"))
}

fn set(file: &Path, value: &str) -> io::Result<()> {
    fs::write(file, value).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}

fn kills(events: &str) -> u64 {
    let kill = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    kill.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_and_not_other_events() {
        let events = |kills| format!("low 0\nhigh 0\nmax 9\noom 2\noom_kill {kills}\noom_group_kill 7\n");
        assert_eq!((kills(&events(0)), kills(&events(3)), kills("")), (0, 3, 0));
    }
}
