//! A codiusd of its own: process, files, addresses, clean-up.
//!
//! ```text
//! builder -> start -> Host --kill9--> (pods run on) --start_again--> Host --terminate--> exit 0
//!                       \--dropped: stops its pods, also after a panic
//! ```

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, header};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    books::Books,
    host_slot::Slot,
    internet::NetMachine,
    process::{Output, Process, Signal},
    traces::Traces,
    wait::{until, until_blocking},
    web::{self, Answer, Body},
};

const READY_WITHIN: Duration = Duration::from_secs(30);
const END_WITHIN: Duration = Duration::from_secs(40);
const COMMAND_WITHIN: Duration = Duration::from_secs(90);
/// Hands the socket at standard input on as systemd does, in the same process.
const ACTIVATE: &str = r#"exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http; exec "$0" "$@""#;
/// When set, a host that ends takes its pods with it.
const STOP_PODS: &str = "CODIUS_STOP_PODS_AT_EXIT";

/// How a host is to be started.
#[derive(Debug)]
pub struct HostBuilder {
    binary: PathBuf,
    subcommand: &'static str,
    environment: BTreeMap<String, String>,
    has_pods: bool,
    socket: Option<TcpListener>,
    machine: Option<Arc<NetMachine>>,
}

impl HostBuilder {
    /// Sets an environment variable, and so a key of the configuration.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.environment.insert(key.to_owned(), value.into());
        self
    }

    /// It is paid over this BTP server instead of its own.
    #[must_use]
    pub fn uplink(self, btp: SocketAddr) -> Self {
        let credentials = format!(r#"{{"server":"btp+ws://:{:032x}@{btp}"}}"#, rand::random::<u128>());
        self.set("CODIUS_ILP", "uplink").set("ILP_CREDENTIALS", credentials)
    }

    /// It is handed this socket for plain HTTP, as systemd does: it listens whether or not the host runs.
    #[must_use]
    pub fn socket(mut self, socket: TcpListener) -> Self {
        self.socket = Some(socket);
        self
    }

    /// It runs on this machine, at its addresses' usual ports, and speaks with the world.
    #[must_use]
    pub fn on(mut self, machine: &Arc<NetMachine>) -> Self {
        let address = machine.v4();
        self.machine = Some(machine.clone());
        self.set("CODIUS_BIND_IP", address.to_string())
            .set("CODIUS_PORT", "80")
            .set("CODIUS_TLS_LISTEN", format!("{address}:443"))
            .set("CODIUS_DEV", "false")
            .set("CODIUS_ILP", "embedded")
            .set("CODIUS_SELF_TEST", "off")
    }

    /// It is started as `codiusd demo`, which brings a pod of its own.
    #[must_use]
    pub fn demo(mut self) -> Self {
        self.subcommand = "demo";
        self
    }

    /// It accepts uploads and runs nothing. Any number of such hosts run at once.
    #[must_use]
    pub fn without_pods(mut self) -> Self {
        self.has_pods = false;
        self.set("CODIUS_RUNTIME", "noop")
    }

    /// Its pods run on when it ends.
    #[must_use]
    pub fn keep_pods(self) -> Self {
        self.set(STOP_PODS, "false")
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Host {
        let slot = if self.has_pods { Some(Slot::take().await) } else { None };
        let files = tempfile::Builder::new().prefix("codiusd-").tempdir().unwrap_or_else(|error| panic!("make a directory: {error}"));
        // Containers are set up by an unprivileged user id, which must be able to pass through.
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o711)).unwrap_or_else(|error| panic!("open up a directory: {error}"));
        let images = files.path().join("images/demo");
        let mut environment = BTreeMap::from(
            [
                ("CODIUS_DEV", "true"),
                ("CODIUS_ILP_LISTEN", "127.0.0.1:0"),
                // How full this machine is has no say in whether a pod fits.
                ("CODIUS_MACHINES", "small cpus=1 memory=512MiB disk=64MiB price=1"),
                ("CODIUS_MAX_DISK_FRACTION", "1"),
                ("CODIUS_PORT", "0"),
                ("RUST_BACKTRACE", "1"),
                ("RUST_LOG", "info"),
                (STOP_PODS, "true"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        environment.insert("CODIUS_ROOT".to_owned(), files.path().join("root").display().to_string());
        environment.insert("CODIUS_IMAGE_LAYOUTS".to_owned(), images.display().to_string());
        if let Some(slot) = &slot {
            environment.insert("CODIUS_POD_SUBNET".to_owned(), slot.pod_subnet());
            // The same on every machine, whether it has KVM or not; tests of virtual machines choose them.
            environment.insert("CODIUS_POD_ISOLATION".to_owned(), "container".to_owned());
        }
        environment.extend(self.environment);
        let Self { binary, subcommand, socket, machine, .. } = self;
        let (process, has_run, ready, image) = (None, false, None, String::new());
        let mut host = Host { binary, subcommand, environment, socket, machine, process, has_run, ready, image, files, slot };
        host.image = host.make_demo_image(&images).await;
        host.start_again().await;
        host
    }
}

/// Where a host can be reached, as it says itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    edge: SocketAddr,
    #[serde(default)]
    ilp: Vec<SocketAddr>,
    #[serde(default)]
    admin: Option<SocketAddr>,
    public_uri: String,
}

/// A host. When dropped it is stopped, with its pods.
#[derive(Debug)]
pub struct Host {
    binary: PathBuf,
    subcommand: &'static str,
    environment: BTreeMap<String, String>,
    socket: Option<TcpListener>,
    machine: Option<Arc<NetMachine>>,
    process: Option<Process>,
    has_run: bool,
    ready: Option<Ready>,
    image: String,
    files: TempDir,
    // The last to go: until here nobody else may use the subnet.
    slot: Option<Slot>,
}

impl Host {
    /// A host in development mode on free ports, with the demo image and a connector of its own. `binary` is codiusd.
    pub fn builder(binary: &str) -> HostBuilder {
        let (subcommand, environment) = ("serve", BTreeMap::new());
        HostBuilder { binary: PathBuf::from(binary), subcommand, environment, has_pods: true, socket: None, machine: None }
    }

    /// Starts it on the same files as before, once it has ended.
    pub async fn start_again(&mut self) {
        self.spawn();
        let file = self.ready_file();
        let (process, what) = (self.running(), "codiusd to be ready");
        let ready = until(what, READY_WITHIN, async || {
            if let Some(status) = process.ended() {
                panic!("codiusd ended ({status}) before it was ready\n{}", process.log_tail());
            }
            read_ready(&file)
        })
        .await;
        self.ready = Some(ready);
    }

    fn spawn(&mut self) {
        self.has_run = true;
        // After a kill -9 the old one is still there.
        let _ = fs::remove_file(self.ready_file());
        let log = self.files.path().join("codiusd.log");
        self.process = Some(match (&self.socket, &self.machine) {
            (None, None) => Process::spawn("codiusd", self.command().arg(self.subcommand), &log),
            (None, Some(machine)) => machine.within(|| Process::spawn("codiusd", self.command().arg(self.subcommand), &log)),
            (Some(socket), _) => {
                let socket = socket.try_clone().unwrap_or_else(|error| panic!("share the socket: {error}"));
                let mut command = self.environed(Command::new("sh"));
                command.arg("-c").arg(ACTIVATE).arg(&self.binary).arg(self.subcommand);
                Process::spawn_with("codiusd", &mut command, Stdio::from(OwnedFd::from(socket)), &log)
            }
        });
    }

    /// codiusd as a command of this host, with nothing of our own environment.
    fn command(&self) -> Command {
        self.environed(Command::new(&self.binary))
    }

    fn environed(&self, mut command: Command) -> Command {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.environment)
            .current_dir(self.files.path());
        command
    }

    async fn make_demo_image(&self, layout: &Path) -> String {
        let output = self.run(&["image", "demo", &layout.display().to_string()]).await;
        let reference = output.text.split_whitespace().find(|word| word.starts_with("local/demo@sha256:"));
        reference.unwrap_or_else(|| panic!("`codiusd image demo` names no image ({}): {}", output.status, output.text)).to_owned()
    }

    /// Runs another command of codiusd under this host's configuration, to its end. Clients pay over the host's connector.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        if let Some(ilp) = self.ready.as_ref().and_then(|ready| ready.ilp.first()) {
            command.env("ILP_CREDENTIALS", format!(r#"{{"server":"btp+ws://:{:032x}@{ilp}"}}"#, rand::random::<u128>()));
        }
        let log = self.files.path().join(format!("command-{:016x}.log", rand::random::<u64>()));
        let (name, command) = (arguments.join(" "), command.args(arguments));
        let mut process = match &self.machine {
            Some(machine) => machine.within(|| Process::spawn(&name, command, &log)),
            None => Process::spawn(&name, command, &log),
        };
        let status = process.exit(COMMAND_WITHIN).await;
        Output { status, text: process.log() }
    }

    /// The demo image as a manifest names it.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The directory with the demo image.
    pub fn image_layout(&self) -> PathBuf {
        self.files.path().join("images/demo")
    }

    /// Where HTTP is served.
    pub fn edge(&self) -> SocketAddr {
        self.ready().edge
    }

    /// Its BTP server.
    pub fn ilp(&self) -> SocketAddr {
        *self.ready().ilp.first().unwrap_or_else(|| panic!("this host has no connector of its own"))
    }

    /// The operator's listener.
    pub fn admin(&self) -> SocketAddr {
        self.ready().admin.unwrap_or_else(|| panic!("this host has no listener for operators"))
    }

    /// Its public URI, without a slash at the end.
    pub fn uri(&self) -> String {
        self.ready().public_uri.trim_end_matches('/').to_owned()
    }

    /// What stands behind a pod's hash in its host name.
    pub fn authority(&self) -> &str {
        let uri = self.ready().public_uri.as_str();
        uri.split_once("://").map_or(uri, |(_, rest)| rest).trim_end_matches('/')
    }

    fn ready(&self) -> &Ready {
        self.ready.as_ref().unwrap_or_else(|| panic!("the host isn't ready"))
    }

    /// A request of the host's own API.
    pub async fn api(&self, method: Method, target: &str, body: Option<&Value>, token: Option<&str>) -> Answer {
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, self.authority());
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = token {
            request = request.header("pay-token", token);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(web::full(body)).unwrap_or_else(|error| panic!("{target}: {error}"));
        self.send(request).await
    }

    /// Any request to the edge.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let what = format!("{} {}", request.method(), request.uri());
        web::send(self.edge(), request).await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// `GET path` of a pod, through the edge.
    pub async fn pod(&self, hash: &str, path: &str) -> Answer {
        self.send(web::get(&format!("{hash}.{}", self.authority()), path)).await
    }

    /// What it wrote down about money.
    pub fn books(&self) -> Books {
        Books::read(&self.store_file())
    }

    /// Where it keeps its files.
    pub fn root(&self) -> PathBuf {
        self.files.path().join("root")
    }

    /// Its process.
    pub fn running(&mut self) -> &mut Process {
        self.process.as_mut().unwrap_or_else(|| panic!("codiusd doesn't run"))
    }

    /// The most physical memory its process has ever held, in bytes.
    pub fn memory_peak(&mut self) -> u64 {
        let file = format!("/proc/{}/status", self.running().pid());
        let status = fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {file}: {error}"));
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("no VmHWM in {file}")) * 1024
    }

    /// What its pods are to the machine.
    pub fn traces(&self) -> Traces {
        let slot = self.slot.as_ref().unwrap_or_else(|| panic!("this host has no pods"));
        Traces::find(&self.root(), slot.pod_network())
    }

    /// Kills the process, and nothing but the process, without a chance to say good-bye.
    pub fn kill9(&mut self) {
        self.running().kill();
        (self.process, self.ready) = (None, None);
    }

    /// Asks it to end as an operator does, and waits.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.interrupt(Signal::SIGTERM).await
    }

    /// Asks it to end with `signal`, and waits.
    pub async fn interrupt(&mut self, signal: Signal) -> ExitStatus {
        let process = self.running();
        process.signal(signal);
        let status = process.exit(END_WITHIN).await;
        self.ready = None;
        status
    }

    /// Sets an environment variable, for its next start.
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.insert(key.to_owned(), value.to_owned());
    }

    fn ready_file(&self) -> PathBuf {
        self.root().join("run/ready.json")
    }

    fn store_file(&self) -> PathBuf {
        self.root().join("codius.db")
    }

    /// Whether pods may be left that nobody would stop.
    fn leaves_pods(&mut self) -> bool {
        let stopped_them = self.environment.get(STOP_PODS).is_some_and(|value| value == "true");
        let ended_well = self.process.as_mut().and_then(Process::ended).is_some_and(|status| status.success());
        self.has_run && !(stopped_them && ended_well)
    }

    /// Lets a last start of the host stop whatever pods are left.
    fn stop_pods(&mut self) {
        self.environment.insert(STOP_PODS.to_owned(), "true".to_owned());
        let runs = self.process.as_mut().is_some_and(|process| process.ended().is_none());
        if !runs {
            self.spawn();
            let file = self.ready_file();
            let process = self.running();
            until_blocking(READY_WITHIN, || process.ended().map(drop).or_else(|| read_ready(&file).map(drop)));
        }
        let process = self.running();
        if !process.end_blocking(Signal::SIGTERM, END_WITHIN) {
            eprintln!("codiusd had to be killed: pods may be left\n{}", process.log_tail());
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(process) = &self.process
        {
            eprintln!("{}", process.log_tail());
        }
        let keeps = self.environment.get(STOP_PODS).is_some_and(|value| value == "false");
        if keeps && let Some(process) = &mut self.process {
            process.kill();
        }
        if self.leaves_pods() {
            self.stop_pods();
        }
    }
}

/// Reads the file a host writes when it is ready. Until it is whole there is nothing in it.
fn read_ready(file: &Path) -> Option<Ready> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}
