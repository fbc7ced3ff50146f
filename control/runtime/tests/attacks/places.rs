//! Going out of the pod: into the host's files, other pods' files and processes, the kernel's switches.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::Path,
    process,
};

use codiusd_runtime::{Runtime, embedded::Defence};

use crate::kit::{Host, Report, collect, id, on_host, start, until_said};

pub(crate) async fn run(report: &mut Report) {
    let host = Host::new(6, "");
    let canary = host.dir().join("canary");
    fs::write(&canary, "the host's").unwrap();
    let name = format!("codius-attack-{}", process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let runtime = host.open();
    start(&runtime, host.pod('n', 64, "/bin/toolbox", &["wait", "/tmp/neighbours-file"])).await;
    until_said(&runtime, 'n', "waiting").await;

    let (canary, own) = (canary.to_str().unwrap().to_owned(), process::id().to_string());
    // Version 2 has no programs that are run when a group is empty; its switches are others.
    let groups = ["/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs"].into_iter().find(|path| Path::new(path).exists());
    let rows: Vec<(&str, Vec<&str>, &str)> = vec![
        ("a file of the host", vec!["escape", &canary], "mount namespace, pivoted root"),
        ("a neighbour's environment", vec!["environment", "secret-of-n"], "pid namespace"),
        ("signalling a process of the host", vec!["signal", &own], "pid namespace"),
        ("a socket of the host that has no file", vec!["abstract-socket", &name], "network namespace"),
        ("having others killed first when memory is short", vec!["lower-oom-score"], "capabilities"),
        ("a device node", vec!["device", "/tmp/attack-device"], "seccomp, user namespace"),
        ("the kernel's core_pattern", vec!["open-to-write", "/proc/sys/kernel/core_pattern"], "read-only /proc/sys, user namespace"),
        ("the kernel's caches", vec!["open-to-write", "/proc/sys/vm/drop_caches"], "read-only /proc/sys, user namespace"),
        (
            "the host's control groups",
            vec!["open-to-write", groups.unwrap_or("/sys/fs/cgroup")],
            "of control groups, its own alone is seen",
        ),
        ("power states", vec!["open-to-write", "/sys/power/state"], "read-only /sys, user namespace"),
        ("uevents of devices", vec!["open-to-write", "/sys/class/net/lo/uevent"], "read-only /sys, user namespace"),
        ("kernel addresses", vec!["read", "/proc/kallsyms"], "masked"),
        ("keys of others", vec!["read", "/proc/keys"], "masked, user namespace"),
        ("what timers there are", vec!["read", "/proc/interrupts"], "masked"),
        ("the kernel's tuning", vec!["read", "/sys/kernel/mm/transparent_hugepage/enabled"], "masked"),
    ];
    let actions: Vec<&[&str]> = rows.iter().map(|(_, action, _)| action.as_slice()).collect();
    let attacks = host.in_pod(&runtime, 64, &actions).await;
    let controls = on_host(host.dir(), &actions);
    for (row, (name, action, defence)) in rows.iter().enumerate() {
        let control = match action[0] {
            // What this kernel doesn't have is nobody's to take.
            "open-to-write" | "read" if !Path::new(action[1]).exists() => Err("this kernel doesn't have it"),
            "lower-oom-score" if !controls[row].starts_with("done") && lacks_resource_capability() => Err("this root may not either"),
            _ => Ok(&*controls[row]),
        };
        report.row(name, defence, &attacks[row], control);
    }
    // On the host the way in is a process of the pod.
    let neighbours = host.in_pod(&runtime, 64, &[&["escape", "/tmp/neighbours-file"]]).await;
    let held = fs::read_dir("/proc").unwrap().filter_map(|process| {
        let path = process.unwrap().path().join("root/tmp/neighbours-file");
        fs::read(path).is_ok().then_some("done through /proc of the host")
    });
    let mut held = held;
    let control = held.next().unwrap_or("refused");
    report.row("a neighbour's file", "mount namespace, a disk of its own", &neighbours[0], Ok(control));
    runtime.stop(&id('n')).await.unwrap();
    control_groups(report, &host).await;
    set_user_id(report).await;
}

/// A pod sees its own group. Without the system call filter it may have namespaces of its own, and the other defences show.
async fn control_groups(report: &mut Report, pods: &Host) {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (at, own, kind, controller) = if unified {
        ("/sys/fs/cgroup", "cgroup.procs", "cgroup2", "")
    } else {
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "cgroup", "memory")
    };
    let (own, others_dir) = (format!("{at}/{own}"), format!("{at}/{}", pods.config.instance));
    let rows: Vec<(&str, Vec<&str>, &str)> = vec![
        ("its own limits", vec!["open-to-write", &own], "read-only mount, user namespace"),
        ("control groups of other pods", vec!["read-directory", &others_dir], "cgroup namespace, its own group alone is mounted"),
        ("making the view of its limits writable", vec!["make-writable", at], "read-only mount, inherited from more privileged users"),
        ("mounting control groups anew", vec!["mount-groups", kind, controller], "cgroup namespace, user namespace"),
    ];
    let actions: Vec<&[&str]> = rows.iter().map(|(_, action, _)| action.as_slice()).collect();
    let mut host = Host::new(7, "");
    let runtime = host.open();
    let filtered = host.in_pod(&runtime, 64, &actions).await;
    drop(runtime);
    host.config.without = Some(Defence::Seccomp);
    let runtime = host.open();
    let unfiltered = host.in_pod(&runtime, 64, &actions).await;
    drop(runtime);
    let on_host = on_host(host.dir(), &actions);
    for (row, (name, _, defence)) in rows.iter().enumerate() {
        report.row(name, &format!("seccomp; {defence}"), &filtered[row], Ok(&on_host[row]));
        report.row(&format!("{name}, without seccomp"), defence, &unfiltered[row], Ok(&on_host[row]));
    }
}

/// Root in a container often has no CAP_SYS_RESOURCE.
fn lacks_resource_capability() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & 1 << 24 == 0
}

async fn set_user_id(report: &mut Report) {
    let run = async |without: Option<Defence>, number: u8| {
        let mut host = Host::new(number, "1000:1000");
        host.config.without = without;
        let runtime = host.open();
        start(&runtime, host.pod('s', 64, "/bin/toolbox-of-root", &["become-root"])).await;
        let said = collect(&runtime, 's').await;
        runtime.stop(&id('s')).await.unwrap();
        said.join(" ")
    };
    let (attack, control) = (run(None, 7).await, run(Some(Defence::SetUserId), 7).await);
    report.row("a set-user-ID program", "no_new_privs, nosuid", &attack, Ok(&control));
}
