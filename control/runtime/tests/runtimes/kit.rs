//! A host of its own for each case: directory, subnet, link prefix, firewall table; and what a case asks of it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use codiusd_net::Ipv4Cidr;
use codiusd_runtime::{
    ContainerSpec, EmbeddedConfig, EmbeddedRuntime, LogLines, Machine, PodId, PodSpec, PodState, RunningPod, Runtime,
    embedded::{Accelerator, IsolationChoice},
    image::{ImageConfig, ImageLimits, RegistryConfig},
};
use futures::StreamExt;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::busybox;

/// For anything a case waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One case's part of the machine.
pub(crate) struct Host {
    pub(crate) config: EmbeddedConfig,
    pub(crate) image: String,
    /// Of each pod's disk.
    pub(crate) disk_bytes: u64,
    _dir: Option<tempfile::TempDir>,
}

impl Host {
    pub(crate) fn new(number: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Longer than a socket's path may be.
        let mut host = Self::at(&dir.path().join("root-".repeat(30)), number, std::process::id());
        host._dir = Some(dir);
        host
    }

    /// A host whose pods are virtual machines, emulated.
    pub(crate) fn in_vm(number: usize) -> Self {
        let mut host = Self::new(number);
        host.run_vms();
        host
    }

    pub(crate) fn run_vms(&mut self) {
        self.config.isolation = IsolationChoice::Vm;
        self.config.accelerator = if std::env::var_os("CODIUS_TEST_KVM").is_some() { Accelerator::Kvm } else { Accelerator::Tcg };
        self.config.guest_kernel_root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guest-kernel");
        self.config.limits.start_timeout = PATIENCE;
    }

    pub(crate) fn runs_vms(&self) -> bool {
        self.config.isolation == IsolationChoice::Vm
    }

    /// The same host seen from another process.
    pub(crate) fn at(root: &Path, number: usize, pid: u32) -> Self {
        let layouts = root.join("layouts");
        let image = busybox::write(&layouts, "");
        let images = ImageConfig {
            root: root.join("images"),
            layouts: vec![layouts],
            registries: RegistryConfig::default(),
            limits: ImageLimits::default(),
        };
        let mut config = EmbeddedConfig::new(root.join("state"), images);
        let [.., second, third] = pid.to_be_bytes();
        config.subnet =
            Ipv4Cidr { network: Ipv4Addr::new(10, 128 + second % 64, third, u8::try_from(number % 8).unwrap() * 32), prefix: 27 };
        config.link_prefix = format!("t{pid:06x}{number:02x}");
        config.instance = format!("codius-test-{pid}-{number}");
        config.shim_exe = std::env::current_exe().unwrap();
        config.limits.stop_grace = Duration::from_millis(200); // most programs here ignore SIGTERM
        Self { config, image, disk_bytes: Machine::DISK_DEFAULT, _dir: None }
    }

    pub(crate) fn open(&self) -> EmbeddedRuntime {
        EmbeddedRuntime::open(self.config.clone()).unwrap()
    }

    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.config.root.join("pods")
    }

    /// A container that runs a shell script.
    pub(crate) fn script(&self, name: &str, script: &str) -> ContainerSpec {
        self.command(name, &["/bin/busybox", "sh", "-c", script])
    }

    pub(crate) fn command(&self, name: &str, command: &[&str]) -> ContainerSpec {
        let command = command.iter().map(ToString::to_string).collect();
        ContainerSpec { name: name.to_owned(), image: self.image.clone(), command: Some(command), workdir: None, env: Vec::new() }
    }

    /// A container that serves its name on a port.
    pub(crate) fn web(&self, name: &str, port: u16) -> ContainerSpec {
        let script = format!("mkdir -p /www && echo {name} >/www/index.html && exec busybox httpd -f -p {port} -h /www");
        self.script(name, &script)
    }

    pub(crate) fn pod(&self, seed: char, containers: Vec<ContainerSpec>) -> PodSpec {
        PodSpec { id: id(seed), machine: Machine { vcpus: 1, memory_bytes: 64 << 20, disk_bytes: self.disk_bytes }, containers }
    }

    /// What of this host's the machine holds: links, control groups, mounts, pod directories, processes.
    pub(crate) fn holdings(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let names = |dir: &Path| fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
        found.extend(
            names(Path::new("/sys/class/net"))
                .map(|path| path.display().to_string())
                .filter(|path| path.contains(&self.config.link_prefix)),
        );
        for hierarchy in names(Path::new("/sys/fs/cgroup")) {
            found.extend(names(&hierarchy.join(&self.config.instance)).filter(|path| path.is_dir()).map(|path| path.display().to_string()));
        }
        found.extend(names(&self.pods_dir()).map(|path| path.display().to_string()));
        let root = self.config.root.display().to_string();
        found.extend(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(&root)).map(str::to_owned));
        for process in names(Path::new("/proc")) {
            let command = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
            let is_vm = command.contains("qemu") && command.contains(&self.config.link_prefix);
            if is_vm || command.contains(&root) && command.contains("pod-shim") {
                found.insert(format!("{}: {command}", process.display()));
            }
        }
        found
    }

    /// Disks of pods that are in use.
    pub(crate) fn disks(&self) -> Vec<String> {
        let root = self.config.root.display().to_string();
        // The kernel tells the begin of a path only.
        let begin = &root[..root.len().min(60)];
        let files = fs::read_dir("/sys/block").unwrap().map(|device| fs::read_to_string(device.unwrap().path().join("loop/backing_file")));
        files.filter_map(Result::ok).filter(|file| file.starts_with(begin)).collect()
    }

    /// What this host has of the kernel apart from its pods: firewall table, route, control groups above those of pods.
    pub(crate) fn fixtures(&self) -> BTreeSet<String> {
        let asked = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let table = format!("table inet {}", self.config.instance);
        let mut found: BTreeSet<String> = asked("nft", &["list", "tables"]).into_iter().filter(|line| *line == table).collect();
        found.extend(asked("ip", &["route", "show", "exact", &self.config.subnet.to_string()]));
        let groups = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path().join(&self.config.instance));
        found.extend(groups.filter(|group| group.exists()).map(|group| group.display().to_string()));
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self._dir.is_none() {
            return;
        }
        // What a failed case left running; its namespaces, links and mounts go with it.
        for held in self.holdings() {
            if let Some(pid) = held.strip_prefix("/proc/").and_then(|process| process.split(':').next()?.parse().ok()) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
        clean(&self.config.instance);
        Command::new("ip").args(["route", "flush", "exact", &self.config.subnet.to_string()]).status().ok();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            fs::remove_dir(hierarchy.unwrap().path().join(&self.config.instance)).ok();
        }
    }
}

/// Removes a firewall table, if there is one.
pub(crate) fn clean(table: &str) {
    Command::new("nft").args(["delete", "table", "inet", table]).stderr(Stdio::null()).status().ok();
}

pub(crate) fn id(seed: char) -> PodId {
    seed.to_string().repeat(PodId::LENGTH).parse().unwrap()
}

/// The body of `GET /` at the pod, asked until it answers.
pub(crate) async fn get(pod: RunningPod, port: u16) -> String {
    get_path(pod, port, "/").await
}

pub(crate) async fn get_path(pod: RunningPod, port: u16, path: &str) -> String {
    let asked = async {
        loop {
            match try_get(pod.address, port, path).await {
                Ok(body) => return body,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("no answer from {}:{port}", pod.address))
}

pub(crate) async fn try_get(address: IpAddr, port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("not HTTP"))?;
    if head.contains(" 200 ") { Ok(body.trim().to_owned()) } else { Err(std::io::Error::other(head.to_owned())) }
}

/// Runs a pod of one script to its end and answers what it wrote.
pub(crate) async fn output_of(host: &Host, runtime: &EmbeddedRuntime, container: ContainerSpec) -> Vec<String> {
    let pod = host.pod('z', vec![container]);
    let id = pod.id.clone();
    runtime.start(pod).await.unwrap();
    let lines = collect(runtime.logs(&id, true).await.unwrap()).await;
    runtime.stop(&id).await.unwrap();
    lines
}

/// All lines of a log that ends.
pub(crate) async fn collect(lines: LogLines) -> Vec<String> {
    let all = lines.map(|line| String::from_utf8(line.unwrap().text.to_vec()).unwrap()).collect();
    timeout(PATIENCE, all).await.expect("the log ends")
}

pub(crate) async fn state_of(runtime: &dyn Runtime, id: &PodId) -> Option<PodState> {
    runtime.list().await.unwrap().into_iter().find(|pod| pod.id == *id).map(|pod| pod.state)
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, so: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !so().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn until_exited(runtime: &dyn Runtime, id: &PodId) {
    until("the pod exits", || async { state_of(runtime, id).await == Some(PodState::Exited) }).await;
}
