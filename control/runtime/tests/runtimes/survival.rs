//! Daemons and shims that are killed.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use codiusd_net::Ipv4Cidr;
use codiusd_runtime::{EmbeddedConfig, EmbeddedRuntime, PodState, Runtime, RuntimeError, embedded::OpenError, error::Fault};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::kit::{Host, clean, get, id, state_of, until, until_exited};

/// First argument of this binary as a daemon.
pub(crate) const DAEMON_ARGUMENT: &str = "daemon";
const NUMBER: usize = 7;
/// Makes its pods virtual machines.
const IN_VM: &str = "vm";

/// `daemon ROOT PID [vm]`: opens the runtime there, starts three pods, says so, and waits to be killed.
pub(crate) fn daemon(args: &[String]) -> ExitCode {
    let mut host = Host::at(Path::new(&args[0]), NUMBER, args[1].parse().unwrap());
    if args.get(2).is_some_and(|isolation| isolation == IN_VM) {
        host.run_vms();
    }
    let tokio = tokio::runtime::Runtime::new().unwrap();
    tokio.block_on(async {
        let runtime = host.open();
        for seed in ['a', 'b', 'c'] {
            let running = runtime.start(host.pod(seed, vec![host.web("web", 80)])).await.unwrap();
            println!("{} {}", running.address, running.incarnation);
        }
        std::io::stdout().flush().unwrap();
        std::future::pending().await
    })
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok(); // SIGKILL
        self.0.wait().ok();
    }
}

pub(crate) async fn pods_survive_their_daemon(given: Host) {
    let dir = tempfile::tempdir().unwrap();
    let mut host = Host::at(dir.path(), NUMBER, std::process::id());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([DAEMON_ARGUMENT.as_ref(), dir.path().as_os_str(), std::process::id().to_string().as_ref()]);
    if given.runs_vms() {
        host.run_vms();
        command.arg(IN_VM);
    }
    let mut daemon = Killed(command.stdout(Stdio::piped()).spawn().unwrap());
    let said = BufReader::new(daemon.0.stdout.take().unwrap()).lines().take(3).map(Result::unwrap).collect::<Vec<_>>();
    drop(daemon);
    assert_eq!(said.len(), 3, "{said:?}");

    let runtime = host.open();
    for (seed, said) in ['a', 'b', 'c'].into_iter().zip(said) {
        let Some(PodState::Running(running)) = state_of(&runtime, &id(seed)).await else { panic!("pod {seed} wasn't adopted") };
        assert_eq!(format!("{} {}", running.address, running.incarnation), said);
        assert!(running.started_at.elapsed().unwrap() < Duration::from_secs(60));
        assert_eq!(get(running, 80).await, "web");
        runtime.stop(&id(seed)).await.unwrap();
    }
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
    clean(&host.config.instance);
}

/// Process ids of all processes in the host's pods.
fn processes(host: &Host) -> Vec<String> {
    let pids = PathBuf::from("/sys/fs/cgroup/pids").join(&host.config.instance);
    let pids = if pids.exists() { pids } else { PathBuf::from("/sys/fs/cgroup").join(&host.config.instance) };
    let mut found = Vec::new();
    for pod in fs::read_dir(pids).into_iter().flatten() {
        for container in fs::read_dir(pod.unwrap().path()).into_iter().flatten() {
            let procs = fs::read_to_string(container.unwrap().path().join("cgroup.procs")).unwrap_or_default();
            found.extend(procs.lines().map(str::to_owned));
        }
    }
    found
}

fn shim_pid(host: &Host) -> Pid {
    let shim = host.holdings().into_iter().find(|held| held.starts_with("/proc/")).unwrap();
    let pid = shim.trim_start_matches("/proc/").split(':').next().unwrap();
    Pid::from_raw(pid.parse().unwrap())
}

pub(crate) async fn a_killed_shim_takes_its_containers(host: Host) {
    let runtime = host.open();
    let running = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    get(running, 80).await;
    assert!(!processes(&host).is_empty());
    assert_eq!(host.disks().len(), usize::from(!host.runs_vms()), "a disk of its own, which a virtual machine mounts itself");
    kill(shim_pid(&host), Signal::SIGKILL).unwrap();
    until("its containers die", || async { processes(&host).is_empty() }).await;
    until("its disk is free again", || async { host.disks().is_empty() }).await;
    until_exited(&runtime, &id('a')).await;
    assert_eq!(host.holdings().len(), 1, "only its directory: {:?}", host.holdings());
    runtime.stop(&id('a')).await.unwrap();
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

pub(crate) async fn a_half_done_start_is_undone(host: Host) {
    let runtime = host.open();
    runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    drop(runtime);
    // As if the daemon had been killed just before the shim got to its last step.
    let dir = fs::read_dir(host.pods_dir()).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(dir.join("status.json")).unwrap();
    fs::create_dir(host.pods_dir().join(format!("{}.0000000000000001", id('b')))).unwrap();
    let runtime = host.open();
    assert_eq!(runtime.list().await.unwrap(), []);
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

pub(crate) async fn one_process_per_root(host: Host) {
    let _runtime = host.open();
    let second = EmbeddedRuntime::open(host.config.clone());
    assert!(matches!(second, Err(OpenError::Runtime(RuntimeError::Unavailable { .. }))), "{second:?}");
}

pub(crate) async fn a_network_has_one_host(host: Host) {
    let refused = |subnet: Ipv4Cidr| {
        let mut config = EmbeddedConfig { subnet, ..host.config.clone() };
        config.root = host.config.root.with_file_name("another");
        let error = EmbeddedRuntime::open(config).expect_err("another host has the network");
        let OpenError::SubnetInUse { taken, root, .. } = &error else { panic!("{error:?}") };
        assert_eq!((taken, root), (&host.config.subnet, &host.config.root), "{error}");
    };
    let runtime = host.open();
    let running = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    let wider = Ipv4Cidr { prefix: 20, ..host.config.subnet };
    refused(host.config.subnet);
    refused(wider);
    drop(runtime);
    refused(host.config.subnet); // its pod runs on, and keeps its address
    assert_eq!(get(running, 80).await, "web");
    let runtime = host.open();
    runtime.stop(&id('a')).await.unwrap();
    drop(runtime);
    let mut config = host.config.clone();
    config.root = host.config.root.with_file_name("another");
    drop(EmbeddedRuntime::open(config).expect("nobody has the network any more"));
}

pub(crate) async fn links_of_others_stay(host: Host) {
    let runtime = host.open();
    let link = format!("{}0000", host.config.link_prefix);
    let ip = |args: &[&str]| assert!(Command::new("ip").args(args).status().unwrap().success(), "ip {args:?}");
    ip(&["link", "add", &link, "type", "veth", "peer", "name", &format!("{}peer", host.config.link_prefix)]);
    let theirs = host.holdings();
    let error = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.expect_err("its link's name is taken");
    assert_eq!(error.fault(), Fault::Host, "{error:?}");
    assert_eq!(host.holdings(), theirs);
    runtime.start(host.pod('a', vec![host.web("web", 80)])).await.expect("the next name is free");
    runtime.stop(&id('a')).await.unwrap();
    assert_eq!(host.holdings(), theirs);
    ip(&["link", "del", &link]);
}

pub(crate) async fn without_root_it_says_so(_: Host) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    // A copy: this binary is where others can't go.
    let binary = dir.path().join("runtimes");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let root = dir.path().join("root");
    let mut command = Command::new(binary);
    command.args([DAEMON_ARGUMENT.as_ref(), root.as_os_str(), "1".as_ref()]).uid(65534).gid(65534).current_dir("/");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("NotRoot"), "{said}");
    assert!(!root.join("state").exists(), "asked first");
}
