//! A pod's control group: the limits all its containers share, and the reliable way to kill every process in it.
//!
//! Supports the separate hierarchies of cgroup v1 and the unified one of v2. Each container has a child group with the same limits, because
//! programs size themselves by the limits of their own group and don't look at its parents.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::Machine;

pub(crate) const MOUNT: &str = "/sys/fs/cgroup";
/// CPU quota period, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// CPU and disk weight per virtual CPU under contention; the kernel's defaults.
const WEIGHT: u64 = 100;
const WEIGHT_MAX: u64 = 10_000;
const SHARES: u64 = 1024;
const SHARES_MAX: u64 = 262_144;
/// Upper bound of the v1 `blkio` weight.
const BLKIO_WEIGHT_MAX: u64 = 1000;
/// Divisor of a pod's memory for its TCP buffers, where the kernel accounts for them separately.
const TCP_SHARE: u64 = 4;
const PAGE_BYTES_MAX: u64 = 65536;
/// How long processes may take to exit after SIGKILL.
const EMPTY_WAIT: Duration = Duration::from_secs(5);
/// Interval between checks of a group that isn't empty yet.
const EMPTY_POLL: Duration = Duration::from_millis(2);

/// Version 1 controllers in whose hierarchies libcontainer puts a container.
const JOINED: [&str; 12] =
    ["blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio", "perf_event", "pids"];

/// One setting of a pod's group.
struct Setting {
    /// The version 1 controller; in version 2 all settings are in one directory.
    controller: &'static str,
    file: &'static str,
    value: String,
    need: Need,
}

/// Whether a pod may run without a setting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// No: the setting is also read back.
    Must,
    /// Yes: some kernels are built without it.
    May,
}

fn settings(v2: bool, machine: Machine, pids: u32) -> Vec<Setting> {
    let quota = u64::from(machine.vcpus) * CPU_PERIOD_US;
    let memory = machine.memory_bytes;
    let by_size = |each: u64, max: u64| each.saturating_mul(machine.vcpus.into()).clamp(1, max).to_string();
    let must = |controller, file, value: String| Setting { controller, file, value, need: Need::Must };
    let may = |controller, file, value: String| Setting { controller, file, value, need: Need::May };
    if v2 {
        return vec![
            must("memory", "memory.max", memory.to_string()),
            may("memory", "memory.swap.max", "0".to_owned()), // memory and swap together: no swap on top
            may("memory", "memory.oom.group", "0".to_owned()), // kills the largest process, not the whole pod
            must("cpu", "cpu.max", format!("{quota} {CPU_PERIOD_US}")),
            may("cpu", "cpu.weight", by_size(WEIGHT, WEIGHT_MAX)),
            may("io", "io.weight", by_size(WEIGHT, WEIGHT_MAX)),
            must("pids", "pids.max", pids.to_string()),
        ];
    }
    vec![
        must("memory", "memory.limit_in_bytes", memory.to_string()),
        may("memory", "memory.memsw.limit_in_bytes", memory.to_string()),
        may("memory", "memory.kmem.tcp.limit_in_bytes", (memory / TCP_SHARE).to_string()), // not included in the limit above
        must("cpu", "cpu.cfs_period_us", CPU_PERIOD_US.to_string()),
        must("cpu", "cpu.cfs_quota_us", quota.to_string()),
        may("cpu", "cpu.shares", by_size(SHARES, SHARES_MAX)),
        may("blkio", "blkio.weight", by_size(WEIGHT, BLKIO_WEIGHT_MAX)),
        may("blkio", "blkio.bfq.weight", by_size(WEIGHT, BLKIO_WEIGHT_MAX)),
        must("pids", "pids.max", pids.to_string()),
    ]
}

/// Creates the group `path` (absolute below each hierarchy) and sets its limits.
pub(crate) fn create(path: &Path, machine: Machine, pids: u32) -> io::Result<()> {
    create_below(Path::new(MOUNT), path, machine, pids)
}

fn create_below(mount: &Path, path: &Path, machine: Machine, pids: u32) -> io::Result<()> {
    let v2 = is_v2(mount);
    if v2 {
        enable_controllers(mount, path)?;
    }
    limit(mount, v2, path, machine, pids)
}

/// Creates a container's group below its pod's, in all hierarchies, with the pod's limits.
pub(crate) fn create_container(path: &Path, machine: Machine, pids: u32) -> io::Result<()> {
    let mount = Path::new(MOUNT);
    for hierarchy in joined()? {
        fs::create_dir_all(join(&hierarchy, path))?;
    }
    limit(mount, is_v2(mount), path, machine, pids)
}

/// Puts a process into a group in all hierarchies.
pub(crate) fn join_process(path: &Path, pid: Pid) -> io::Result<()> {
    taking()?.iter().try_for_each(|hierarchy| set(&join(hierarchy, path).join("cgroup.procs"), pid.to_string()))
}

/// Whether a process is in a group in all hierarchies.
pub(crate) fn contains(path: &Path, pid: Pid) -> io::Result<bool> {
    let own = pid.to_string();
    for hierarchy in taking()? {
        let processes = fs::read_to_string(join(&hierarchy, path).join("cgroup.procs"))?;
        if !processes.lines().any(|line| line == own) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The hierarchies whose new groups take processes: one of `cpuset` has no processors at first, and no setting of ours.
fn taking() -> io::Result<Vec<PathBuf>> {
    let takes = |hierarchy: &PathBuf| hierarchy.file_name().is_none_or(|name| name != "cpuset");
    Ok(joined()?.into_iter().filter(takes).collect())
}

fn limit(mount: &Path, v2: bool, path: &Path, machine: Machine, pids: u32) -> io::Result<()> {
    for Setting { controller, file, value, need } in settings(v2, machine, pids) {
        let group = group_of(mount, v2, controller, path);
        let written = if v2 || mount.join(controller).exists() {
            fs::create_dir_all(&group).and_then(|()| set(&group.join(file), &value))
        } else {
            Err(io::ErrorKind::NotFound.into())
        };
        let written = if need == Need::May { optional(written) } else { written };
        written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", group.join(file).display())))?;
    }
    Ok(())
}

/// Reads back what [`create`] wrote, so that no pod runs without a limit it appears to have.
pub(crate) fn verify(path: &Path, machine: Machine, pids: u32) -> io::Result<()> {
    let (mount, v2) = (Path::new(MOUNT), is_v2(Path::new(MOUNT)));
    for Setting { controller, file, value, need } in settings(v2, machine, pids) {
        if need == Need::May {
            continue;
        }
        let file = group_of(mount, v2, controller, path).join(file);
        let found = fs::read_to_string(&file)?;
        if !as_written(controller, found.trim(), &value) {
            let problem =
                format!("{} is {} and should be {value}; the kernel needs its {controller} controller", file.display(), found.trim());
            return Err(io::Error::other(problem));
        }
    }
    Ok(())
}

/// The kernel rounds memory limits to whole pages.
fn as_written(controller: &str, found: &str, wanted: &str) -> bool {
    match (found.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(found), Ok(wanted)) if controller == "memory" => found <= wanted && wanted - found < PAGE_BYTES_MAX,
        _ => found == wanted,
    }
}

fn group_of(mount: &Path, v2: bool, controller: &str, path: &Path) -> PathBuf {
    if v2 { join(mount, path) } else { join(&mount.join(controller), path) }
}

/// Kills every process in the group and removes it from all hierarchies. Succeeds if the group doesn't exist.
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

/// Removes the group from all hierarchies, unless it contains processes.
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

fn is_v2(mount: &Path) -> bool {
    mount.join("cgroup.controllers").exists()
}

fn hierarchies() -> io::Result<Vec<PathBuf>> {
    if is_v2(Path::new(MOUNT)) {
        return Ok(vec![MOUNT.into()]);
    }
    let mut found = Vec::new();
    let above = fs::metadata(MOUNT)?.dev();
    for entry in fs::read_dir(MOUNT)? {
        let entry = entry?;
        // systemd creates directories for controllers the kernel lacks, with nothing mounted on them.
        let metadata = entry.metadata()?;
        if metadata.is_dir() && metadata.dev() != above {
            found.push(entry.path()); // `cpu,cpuacct` and similar are one directory with links to it
        }
    }
    Ok(found)
}

/// The hierarchies in which a container has a group: without version 1 hierarchies that only name groups or whose controllers libcontainer
/// doesn't know.
pub(crate) fn joined() -> io::Result<Vec<PathBuf>> {
    let all = hierarchies()?;
    Ok(if is_v2(Path::new(MOUNT)) { all } else { all.into_iter().filter(|hierarchy| is_joined(hierarchy)).collect() })
}

fn is_joined(hierarchy: &Path) -> bool {
    let name = hierarchy.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split(',').all(|controller| JOINED.contains(&controller))
}

/// In v2 a controller works in a group only if every ancestor delegates it.
fn enable_controllers(mount: &Path, path: &Path) -> io::Result<()> {
    let mut group = mount.to_owned();
    for name in std::iter::once(None).chain(path.strip_prefix("/").unwrap_or(path).iter().map(Some)) {
        group.extend(name);
        match fs::create_dir(&group) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
        let handed_down = group.join("cgroup.subtree_control");
        for controller in ["+memory", "+cpu", "+pids"] {
            set(&handed_down, controller)?;
        }
        // A weight, not a limit: the kernel may lack it.
        set(&handed_down, "+io").ok();
    }
    Ok(())
}

pub(crate) fn join(hierarchy: &Path, path: &Path) -> PathBuf {
    hierarchy.join(path.strip_prefix("/").unwrap_or(path))
}

/// Writes a setting only if its file exists, so that no setting is silently ineffective.
fn set(path: &Path, value: impl AsRef<[u8]>) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_ref())
}

/// Some kernels are built without swap accounting.
fn optional(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        done => done,
    }
}

/// Sends SIGKILL to all processes of the group and its descendants; returns how many there were.
fn kill_all(group: &Path) -> io::Result<usize> {
    let procs = match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(procs) => procs,
        // ENODEV: removed between listing and reading.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut count = 0;
    for pid in procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok(); // already exited is fine
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
            // A killed process is counted for a moment after it has left `cgroup.procs`.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => thread::sleep(EMPTY_POLL),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { vcpus: 2, memory_bytes: 512 << 20, disk_bytes: 1 << 30 };

    /// Plain files in place of the unified hierarchy: this tests what is written where, not that a kernel enforces it.
    #[test]
    fn on_the_unified_hierarchy_every_limit_has_its_file() {
        let mount = tempfile::tempdir().unwrap();
        let pod = mount.path().join("codius/pod");
        fs::create_dir_all(&pod).unwrap();
        fs::write(mount.path().join("cgroup.controllers"), "cpu io memory pids").unwrap();
        for group in [mount.path(), &mount.path().join("codius"), &pod] {
            fs::write(group.join("cgroup.subtree_control"), "").unwrap();
        }
        let error = create_below(mount.path(), Path::new("/codius/pod"), MACHINE, 99).unwrap_err();
        assert!(error.to_string().contains("memory.max"), "a limit that can't be set is told: {error}");
        for file in ["memory.max", "memory.swap.max", "cpu.max", "pids.max", "io.weight"] {
            fs::write(pod.join(file), "").unwrap();
        }
        create_below(mount.path(), Path::new("/codius/pod"), MACHINE, 99).unwrap();
        let found = |file: &str| fs::read_to_string(pod.join(file)).unwrap();
        let all = ["memory.max", "memory.swap.max", "cpu.max", "pids.max", "io.weight"].map(found);
        assert_eq!(all, ["536870912", "0", "200000 100000", "99", "200"]);
    }

    #[test]
    fn a_container_has_no_group_where_it_is_not_put() {
        let joined = |name: &str| is_joined(&Path::new(MOUNT).join(name));
        assert!(["memory", "cpu,cpuacct", "net_cls,net_prio"].into_iter().all(joined));
        assert!(!["systemd", "unified", "rdma", "misc", "cpu,rdma"].into_iter().any(joined));
    }

    #[test]
    fn a_limit_read_back_is_the_one_written_to_the_page() {
        assert!(as_written("memory", "4096", "5000") && as_written("cpu", "200000 100000", "200000 100000"));
        for found in ["9223372036854771712", "max", "0"] {
            assert!(!as_written("memory", found, "536870912"), "{found}");
        }
        assert!(!as_written("pids", "98", "99"));
    }

    /// In this machine's own hierarchies: the test runs as root.
    #[test]
    fn a_limit_that_is_off_is_named() {
        let path = PathBuf::from(format!("/codius-test-limits-{}", std::process::id()));
        create(&path, MACHINE, 99).unwrap();
        verify(&path, MACHINE, 99).unwrap();
        let more = Machine { memory_bytes: MACHINE.memory_bytes * 2, ..MACHINE };
        let wrong = [verify(&path, more, 99), verify(&path, Machine { vcpus: 1, ..MACHINE }, 99), verify(&path, MACHINE, 100)];
        destroy(&path).unwrap();
        let told: Vec<String> = wrong.into_iter().map(|found| found.unwrap_err().to_string()).collect();
        assert!(told[0].contains("memory") && told[1].contains("cpu") && told[2].contains("pids.max is 99 and should be 100"), "{told:?}");
    }
}
