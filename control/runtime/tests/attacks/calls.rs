//! System calls and sockets: of the kernel, and of who is root in a pod.

use codiusd_runtime::embedded::Defence;

use crate::kit::{Host, Report, on_host};

/// Where the same action must work.
enum Control {
    /// In a pod without the system call filter: nothing else stops it there.
    Unfiltered,
    /// On the host, as root: in a pod several defences stop it.
    AsRoot,
    /// Nowhere here.
    Missing(&'static str),
}
use Control::{AsRoot, Missing, Unfiltered};

const FILTER: &str = "seccomp";
const BOTH: &str = "seccomp, capabilities, user namespace";

const CALLS: &[(&str, &[&str], &str, Control)] = &[
    ("a user namespace", &["call", "unshare-user"], FILTER, Unfiltered),
    ("a user namespace by clone3", &["call", "clone3"], FILTER, Unfiltered),
    ("a mount in namespaces of its own", &["call", "mount-in-own-namespaces"], FILTER, Unfiltered),
    ("io_uring", &["call", "io_uring"], FILTER, Unfiltered),
    ("userfaultfd", &["call", "userfaultfd"], FILTER, Unfiltered),
    ("keys in the kernel", &["call", "keyctl"], FILTER, Unfiltered),
    ("tracing a process", &["call", "ptrace"], FILTER, Unfiltered),
    ("another process's memory", &["call", "process_vm_readv"], FILTER, Unfiltered),
    ("performance counters", &["call", "perf"], FILTER, Unfiltered),
    ("an audit socket", &["socket", "16", "3", "9"], FILTER, Unfiltered),
    ("a generic netlink socket", &["socket", "16", "3", "16"], FILTER, Unfiltered),
    ("a socket to the hypervisor", &["socket", "40", "1", "0"], FILTER, Unfiltered),
    ("a packet socket", &["socket", "17", "3", "768"], BOTH, AsRoot),
    ("a raw IPv4 socket", &["socket", "2", "3", "1"], "capabilities", AsRoot),
    ("a raw IPv6 socket", &["socket", "10", "3", "58"], "capabilities", AsRoot),
    ("an XDP socket", &["socket", "44", "3", "0"], BOTH, AsRoot),
    ("the kernel's ciphers", &["socket", "38", "5", "0"], FILTER, Missing("this kernel is built without AF_ALG")),
    ("a mount", &["call", "mount"], BOTH, AsRoot),
    ("a copy of a mount", &["call", "open_tree"], BOTH, AsRoot),
    ("another root", &["call", "pivot_root"], BOTH, AsRoot),
    ("another root by chroot", &["call", "chroot"], BOTH, AsRoot),
    ("a network namespace", &["call", "unshare-network"], BOTH, AsRoot),
    ("entering a namespace", &["call", "setns"], BOTH, AsRoot),
    ("a BPF map", &["call", "bpf"], BOTH, AsRoot),
    ("a file by its handle", &["call", "handle"], BOTH, AsRoot),
    ("watching all files", &["call", "fanotify"], BOTH, AsRoot),
    ("the kernel's log", &["call", "kernel-log"], BOTH, AsRoot),
    ("a kernel module", &["call", "init_module"], BOTH, Missing("this kernel has no modules")),
    ("input and output ports", &["call", "iopl"], BOTH, Missing("this kernel has no iopl")),
    ("restarting the host", &["call", "reboot"], BOTH, AsRoot),
    ("the host's clock", &["call", "settimeofday"], BOTH, AsRoot),
    ("the host's swap", &["call", "swapoff"], BOTH, AsRoot),
    ("going before others", &["call", "nice"], "capabilities", AsRoot),
];

pub(crate) async fn run(report: &mut Report) {
    let actions: Vec<&[&str]> = CALLS.iter().map(|(_, action, ..)| *action).collect();
    let mut host = Host::new(0, "");
    let runtime = host.open();
    let attacks = host.in_pod(&runtime, 64, &actions).await;
    drop(runtime);
    host.config.without = Some(Defence::Seccomp);
    let runtime = host.open();
    let unfiltered = host.in_pod(&runtime, 64, &actions).await;
    drop(runtime);
    // The mount is in a namespace that goes with the process.
    let unshared: Vec<&[&str]> =
        actions.iter().map(|action| if action[1] == "mount" { &["call", "mount-in-own-namespaces"][..] } else { *action }).collect();
    let as_root = on_host(host.dir(), &unshared);
    for (row, (name, _, defence, control)) in CALLS.iter().enumerate() {
        let control = match control {
            Unfiltered => Ok(&*unfiltered[row]),
            AsRoot => Ok(&*as_root[row]),
            Missing(why) => Err(*why),
        };
        report.row(name, defence, &attacks[row], control);
    }
}
