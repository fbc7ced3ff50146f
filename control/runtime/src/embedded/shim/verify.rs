//! Verifies that a running container is confined as required, by reading it back from the kernel: a container that the runtime silently
//! left unconfined would look the same from outside.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

use codiusd_container_rootfs::confinement::ROOT_CAPABILITY_MASK;
use nix::{
    errno::Errno,
    libc,
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    unistd::Pid,
};

use crate::embedded::{cgroup, shim_protocol::ShimRequest};

/// Upper bound of the time between a process's leaving its groups and its end.
const END_WAIT: Duration = Duration::from_millis(500);
const END_POLL: Duration = Duration::from_millis(1);
/// Namespaces that must differ from the shim's, and the reason why a kernel may lack each.
const NAMESPACES: [(&str, &str); 7] = [
    ("cgroup", "CONFIG_CGROUPS"),
    ("ipc", "CONFIG_IPC_NS"),
    ("mnt", "CONFIG_NAMESPACES"),
    ("net", "CONFIG_NET_NS"),
    ("pid", "CONFIG_PID_NS"),
    ("user", "CONFIG_USER_NS, and user.max_user_namespaces above 0"),
    ("uts", "CONFIG_UTS_NS"),
];

const VIEWS_NEED: &str = "the control groups of this machine must be mounted there before codiusd is started";

/// The expected content of one line of `/proc/PID/status`.
struct Expected {
    field: &'static str,
    value: String,
    remedy: &'static str,
}

/// Fails at the first deviation; the error names it, and the remedy. A process that has exited passes.
pub(super) fn check(pid: Pid, uid: u32, order: &ShimRequest) -> io::Result<()> {
    if order.without.is_some() {
        return Ok(());
    }
    match looked_at(pid, uid, order) {
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        // A process that is about to end has left its control groups already, and looks unconfined.
        Err(error) => {
            if ends(pid)? {
                Ok(())
            } else {
                Err(error)
            }
        }
        done => done,
    }
}

/// Whether a child of this process ends soon; doesn't reap it.
fn ends(pid: Pid) -> io::Result<bool> {
    let deadline = Instant::now() + END_WAIT;
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        match waitid(Id::Pid(pid), flags) {
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => thread::sleep(END_POLL),
            Ok(WaitStatus::StillAlive) => return Ok(false),
            Ok(_) | Err(Errno::ECHILD) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn looked_at(pid: Pid, uid: u32, order: &ShimRequest) -> io::Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    if status.lines().any(|line| line.starts_with("State:\tZ") || line.starts_with("State:\tX")) {
        return Ok(());
    }
    for Expected { field, value, remedy } in expected(uid, order.uid_base) {
        let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or("missing");
        same(field, found, &value, remedy)?;
    }
    let (wanted, mapped) = (format!("0 {} 65536", order.uid_base), "newuidmap and subordinate ids play no part: the daemon must be root");
    for map in ["uid_map", "gid_map"] {
        same(map, &fs::read_to_string(format!("/proc/{pid}/{map}"))?, &wanted, mapped)?;
    }
    for (kind, remedy) in NAMESPACES {
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
        if theirs == fs::read_link(format!("/proc/self/ns/{kind}"))? {
            return Err(io::Error::other(format!("the {kind} namespace is the host's; the kernel needs {remedy}")));
        }
    }
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    is_limited(&groups, order)?;
    sees_its_own_groups(&groups, &fs::read_to_string(format!("/proc/{pid}/mountinfo"))?)
}

fn expected(uid: u32, uid_base: u32) -> Vec<Expected> {
    let capabilities = format!("{:016x}", if uid == 0 { ROOT_CAPABILITY_MASK } else { 0 });
    let host_uid = uid_base + uid;
    let entry = |field, value: &str, remedy| Expected { field, value: value.to_owned(), remedy };
    let kept = "a security module of the kernel gives capabilities back; pods need to be without";
    vec![
        entry("Seccomp", "2", "the kernel needs CONFIG_SECCOMP_FILTER"),
        entry("NoNewPrivs", "1", "the kernel must be 3.5 or later"),
        entry("CapEff", &capabilities, kept),
        entry("CapPrm", &capabilities, kept),
        entry("CapBnd", &capabilities, kept),
        entry("CapInh", "0000000000000000", kept),
        entry("CapAmb", "0000000000000000", kept),
        entry("Uid", &format!("{host_uid} {host_uid} {host_uid} {host_uid}"), "CONFIG_USER_NS"),
    ]
}

/// Compares while ignoring the amount of white space between words.
fn same(what: &str, found: &str, wanted: &str, remedy: &str) -> io::Result<()> {
    if found.split_whitespace().eq(wanted.split_whitespace()) {
        return Ok(());
    }
    let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(io::Error::other(format!("{what} is {found} and should be {wanted}; {remedy}")))
}

/// Limits apply to the group: a process outside it has none.
fn is_limited(groups: &str, order: &ShimRequest) -> io::Result<()> {
    let own = order.pod.cgroup.to_string_lossy();
    let limited = |line: &&str| {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        controllers.is_empty() || controllers.split(',').any(|name| matches!(name, "memory" | "pids" | "cpu"))
    };
    // If version 1 hierarchies are in use, the version 2 one limits nothing.
    let hybrid = groups.lines().any(|line| line.split(':').nth(1).is_some_and(|controllers| controllers.contains("memory")));
    let unified = |line: &&str| line.split(':').nth(1) == Some("");
    match groups.lines().filter(limited).filter(|line| !(hybrid && unified(line))).find(|line| !line.contains(&*own)) {
        Some(line) => Err(io::Error::other(format!(
            "its control group is {line}, not below {own}; delegate control groups to codiusd (Delegate=yes)"
        ))),
        None => Ok(()),
    }
}

/// A container must have a read-only view of its own control groups, and none of others.
fn sees_its_own_groups(groups: &str, mountinfo: &str) -> io::Result<()> {
    let mut limits_seen = false;
    for view in mountinfo.lines().filter_map(GroupView::read) {
        let own = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?, parts.next()?))
        });
        let own = own.filter(|(controllers, _)| view.has(controllers)).map(|(_, path)| path).next();
        same(&format!("what is at {}", view.at), view.root, own.unwrap_or("not mounted"), "nothing else may mount control groups")?;
        for flag in ["ro", "nosuid", "nodev", "noexec"] {
            if !view.flags.split(',').any(|found| found == flag) {
                return Err(io::Error::other(format!("{} is mounted {}, without {flag}; {VIEWS_NEED}", view.at, view.flags)));
            }
        }
        limits_seen |= view.has("memory") || view.has("");
    }
    if limits_seen { Ok(()) } else { Err(io::Error::other(format!("its limits aren't at {}; {VIEWS_NEED}", cgroup::MOUNT))) }
}

/// A line of `/proc/PID/mountinfo` about control groups.
struct GroupView<'a> {
    /// The visible path below the hierarchy.
    root: &'a str,
    at: &'a str,
    flags: &'a str,
    kind: &'a str,
    /// The hierarchy's mount options, including its controllers.
    options: &'a str,
}

impl<'a> GroupView<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (mount, hierarchy) = line.split_once(" - ")?;
        let [_, _, _, root, at, flags, ..] = mount.split(' ').collect::<Vec<_>>()[..] else { return None };
        let [kind, _, options] = hierarchy.split(' ').collect::<Vec<_>>()[..] else { return None };
        matches!(kind, "cgroup" | "cgroup2").then_some(Self { root, at, flags, kind, options })
    }

    /// Whether it belongs to the hierarchy with these controllers, as `/proc/PID/cgroup` names them; empty for version 2.
    fn has(&self, controllers: &str) -> bool {
        match self.kind {
            "cgroup2" => controllers.is_empty(),
            _ => !controllers.is_empty() && controllers.split(',').all(|name| self.options.split(',').any(|option| option == name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Machine,
        embedded::{
            shim_protocol::{Bounds, LogBounds, PodRecord, Scratch, VERSION},
            veth::Veth,
        },
    };

    fn order() -> ShimRequest {
        let log = LogBounds { line_bytes: 1, file_bytes: 1, bytes_per_second: 1 };
        ShimRequest {
            pod: PodRecord {
                version: VERSION,
                id: "a".repeat(52).parse().unwrap(),
                incarnation: 0,
                slot: 0,
                address: [10, 0, 0, 2].into(),
                link: String::new(),
                cgroup: "/codius/pod".into(),
                memory_bytes: 0,
                vm: None,
                containers: Vec::new(),
            },
            vm: None,
            machine: Machine { vcpus: 1, memory_bytes: 0, disk_bytes: 0 },
            claim: "/".into(),
            wire: Veth { gateway: [10, 0, 0, 1].into(), address: [10, 0, 0, 2].into(), bytes_per_second: 0 },
            uid_base: 1 << 28,
            resolv_conf: String::new(),
            read_only: false,
            bounds: Bounds {
                pids: 1,
                scratch: Scratch::Memory { bytes: 0 },
                scratch_inodes: 1,
                shm_bytes: 0,
                open_files: 1,
                stop_grace_ms: 0,
                oom_score_adj: 0,
                log,
            },
            probe: false,
            without: None,
            containers: Vec::new(),
        }
    }

    /// This process isn't confined: every check fails.
    #[test]
    fn what_is_not_confined_is_named_with_a_remedy() {
        let told = |order: &ShimRequest| looked_at(Pid::this(), 0, order).unwrap_err().to_string();
        assert_eq!(told(&order()), "Seccomp is 0 and should be 2; the kernel needs CONFIG_SECCOMP_FILTER");
        let status = fs::read_to_string("/proc/self/status").unwrap();
        for Expected { field, value, .. } in expected(0, 1 << 28) {
            let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the kernel tells it");
            if !matches!(field, "CapInh" | "CapAmb") {
                assert!(same(field, found, &value, "").is_err(), "{field} of a test is{found}");
            }
        }
        let cgroup = is_limited(&fs::read_to_string("/proc/self/cgroup").unwrap(), &order()).unwrap_err().to_string();
        assert!(cgroup.contains("not below /codius/pod; delegate control groups"), "{cgroup}");
    }

    #[test]
    fn control_groups_of_others_and_writable_ones_are_named() {
        let v1 = "5:memory:/codius/pod/main\n3:cpu,cpuacct:/codius/pod/main\n1:name=systemd:/system.slice\n0::/";
        let v2 = "0::/codius/pod/main";
        let line = |at: &str, root: &str, flags: &str, hierarchy: &str| format!("90 80 0:30 {root} {at} {flags} - {hierarchy}\n");
        let flags = "ro,nosuid,nodev,noexec,relatime";
        let other = "70 80 0:20 / /proc rw,nosuid - proc proc rw\n";
        let memory = line("/sys/fs/cgroup/memory", "/codius/pod/main", flags, "cgroup cgroup rw,memory");
        let cpu = line("/sys/fs/cgroup/cpu,cpuacct", "/codius/pod/main", flags, "cgroup cgroup rw,cpu,cpuacct");
        let unified = line("/sys/fs/cgroup", "/codius/pod/main", flags, "cgroup2 cgroup rw,nsdelegate");
        for (groups, mounts) in [(v1, format!("{other}{memory}{cpu}")), (v2, format!("{other}{unified}"))] {
            sees_its_own_groups(groups, &mounts).unwrap();
        }
        let above = line("/sys/fs/cgroup/memory", "/codius/pod", flags, "cgroup cgroup rw,memory");
        let beside = line("/sys/fs/cgroup", "/codius/pod/other", flags, "cgroup2 cgroup rw");
        let systemd = line("/sys/fs/cgroup/systemd", "/", flags, "cgroup cgroup rw,xattr,name=systemd");
        let writable = line("/sys/fs/cgroup/memory", "/codius/pod/main", "rw,nosuid,nodev,noexec", "cgroup cgroup rw,memory");
        let runs = line("/sys/fs/cgroup", "/codius/pod/main", "ro,nosuid,nodev", "cgroup2 cgroup rw");
        for (groups, mounts, told) in [
            (v1, other.to_owned(), "its limits aren't at /sys/fs/cgroup"),
            (v1, format!("{other}{cpu}"), "its limits aren't at /sys/fs/cgroup"),
            (v1, above, "what is at /sys/fs/cgroup/memory is /codius/pod and should be /codius/pod/main"),
            (v2, beside, "what is at /sys/fs/cgroup is /codius/pod/other and should be /codius/pod/main"),
            (v1, format!("{memory}{systemd}"), "what is at /sys/fs/cgroup/systemd is / and should be /system.slice"),
            (v1, writable, "/sys/fs/cgroup/memory is mounted rw,nosuid,nodev,noexec, without ro"),
            (v2, runs, "without noexec"),
        ] {
            let found = sees_its_own_groups(groups, &mounts).unwrap_err().to_string();
            assert!(found.starts_with(told) || found.contains(told), "{found}");
        }
    }

    #[test]
    fn one_that_has_ended_needs_no_confining() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        check(pid, 0, &order()).expect("it ends");
        assert!(child.wait().unwrap().success(), "its exit is there for whoever waits for it");
        assert!(ends(Pid::this()).is_ok_and(|ended| ended), "nobody's child isn't waited for");
    }
}
