//! What only virtual machines have: QEMU's jail, a guest that hangs, a host that can't run them.

use std::{fs, path::Path, time::Duration};

use codiusd_runtime::{
    EmbeddedRuntime, Isolation, Runtime,
    embedded::{Accelerator, IsolationChoice, OpenError},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::kit::{Host, get, id, until, until_exited};

/// The process of the host's only virtual machine.
fn qemu(host: &Host) -> Pid {
    let is_qemu = |held: &String| held.starts_with("/proc/") && held.contains("qemu");
    let held = host.holdings().into_iter().find(is_qemu).expect("a virtual machine");
    let pid = held.trim_start_matches("/proc/").split(':').next().unwrap();
    Pid::from_raw(pid.parse().unwrap())
}

pub(crate) async fn qemu_is_confined(host: Host) {
    let runtime = host.open();
    let is_kvm = host.config.accelerator == Accelerator::Kvm;
    let wanted = if is_kvm { Isolation::VirtualMachine } else { Isolation::Emulated };
    assert_eq!(runtime.capabilities().isolation, wanted, "an emulator isolates nothing, and says so");
    let running = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    assert_eq!(get(running, 80).await, "web");
    let pid = qemu(&host);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {status}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let user = host.config.uid_base.to_string();
    assert_eq!((field("Uid:"), field("Gid:")), (vec![user.clone(); 4], vec![user; 4]));
    assert_eq!(field("Groups:"), Vec::<String>::new());
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
        assert_ne!(namespace(&pid.to_string()), namespace("self"), "{kind}");
    }
    for (path, wanted) in
        [("", &["dev", "initramfs", "kernel", "lib", "lib64", "usr"][..]), ("dev", &["kvm", "null", "urandom"][usize::from(!is_kvm)..])]
    {
        let mut seen: Vec<_> =
            fs::read_dir(Path::new(&format!("/proc/{pid}/root")).join(path)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        seen.sort();
        assert!(seen.iter().all(|name| wanted.contains(&name.to_str().unwrap())), "{path}: {seen:?}");
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    let options = |line: &str| line.split(' ').nth(3).unwrap().split(',').map(str::to_owned).collect::<Vec<_>>();
    assert!(mounts.lines().all(|line| options(line).contains(&"ro".to_owned())), "nothing is writable: {mounts}");
    runtime.stop(&id('a')).await.unwrap();
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

pub(crate) async fn a_vm_that_hangs_or_ends_is_noticed(mut host: Host) {
    host.config.limits.vm_silence_max = Duration::from_secs(3);
    let runtime = host.open();
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let running = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
        assert_eq!(get(running, 80).await, "web");
        kill(qemu(&host), signal).unwrap();
        until_exited(&runtime, &id('a')).await;
        until("only its directory is left", || async { host.holdings().len() == 1 }).await;
        runtime.stop(&id('a')).await.unwrap();
        assert_eq!(host.holdings().len(), 0, "after {signal}: {:?}", host.holdings());
    }
}

pub(crate) async fn a_pod_that_is_no_virtual_machine_is_marked_where_pods_are(mut host: Host) {
    host.config.isolation = IsolationChoice::Container;
    let runtime = host.open();
    runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    drop(runtime);
    host.config.isolation = IsolationChoice::Vm;
    let runtime = host.open();
    let degraded = async || runtime.list().await.unwrap()[0].degraded;
    assert!(degraded().await, "it is restarted in a quiet moment");
    runtime.stop(&id('a')).await.unwrap();
    runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    assert!(!degraded().await);
    runtime.stop(&id('a')).await.unwrap();
}

pub(crate) async fn without_what_it_takes_it_says_so(mut host: Host) {
    host.config.guest_kernel_root = host.config.root.join("nothing");
    let error = EmbeddedRuntime::open(host.config.clone()).expect_err("there is no kernel");
    let OpenError::NoVirtualMachines { what, source } = &error else { panic!("{error:?}") };
    assert!(what.contains("guest kernel") && source.to_string().contains("linux-image-cloud-amd64"), "{error}: {source}");
    host.config.isolation = IsolationChoice::Auto;
    let runtime = host.open();
    assert_eq!(runtime.capabilities().isolation, Isolation::SharedKernel, "shown as what it is");
}
