//! A double that a test holds.
//!
//! ```text
//! builder -> start -> Hyperd --kill9 | hangup--> (pods run on) --start_again--> Hyperd
//!                        |---terminate---------> (pods end)    --start_again-->
//!                        |---power_loss--------> (pods end)    --start_again-->
//!                        \--dropped: nothing is left of it, also after a panic
//! ```

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use nix::{sys::signal::kill, unistd::Pid};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;

use super::{claim::Claim, daemon, faults, machine, net, registry};
use crate::{
    process::{Process, Signal},
    wait::{in_time, until_blocking},
};

const READY_WITHIN: Duration = Duration::from_secs(30);
const END_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Doubles that run at once, on the whole machine.
const DOUBLES: u8 = 8;
/// Third octet of the first one's network.
const NETWORKS: u8 = 210;

/// How a double is to be started.
#[derive(Debug)]
pub struct HyperdBuilder {
    binary: PathBuf,
    boot_ms: u64,
    time_scale: f64,
    images: BTreeMap<String, PathBuf>,
    pulled: bool,
    prefix: u8,
    /// Before the number of the double; none: hyperd's usual one.
    bridge: Option<&'static str>,
    unkind: Option<Unkind>,
}

/// How unkind a double is, in cases of a hundred; which ones they are follows from the seed and the number of its start.
#[derive(Clone, Copy, Debug)]
pub struct Unkind {
    /// It crashes when a machine goes that nobody has ended.
    pub dying_crashes: u8,
    /// It loses the machine of a container that writes a lot when it finds that again after its own start.
    pub chatty_lost: u8,
    /// What chance decides by.
    pub seed: u64,
}

impl HyperdBuilder {
    /// How long machines take to boot; 0 unless said otherwise, as short as it can be.
    #[must_use]
    pub fn boot_ms(self, boot_ms: u64) -> Self {
        Self { boot_ms, ..self }
    }

    /// Factor for hyperd's own delays, such as 5 s from SIGTERM to SIGKILL; 0.1 unless said otherwise.
    #[must_use]
    pub fn time_scale(self, time_scale: f64) -> Self {
        Self { time_scale, ..self }
    }

    /// Adds an image with a program inside, which it runs by default as `/<file name>`. The name is `HOST/REPOSITORY@sha256:...`,
    /// or has a tag. It can be pulled.
    #[must_use]
    pub fn image(mut self, name: &str, program: impl Into<PathBuf>) -> Self {
        self.images.insert(name.to_owned(), program.into());
        self
    }

    /// The image that [`Hyperd::image`] names is there already.
    #[must_use]
    pub fn pulled(self) -> Self {
        Self { pulled: true, ..self }
    }

    /// As unkind as hyperd is.
    #[must_use]
    pub fn unkind(self, unkind: Unkind) -> Self {
        Self { unkind: Some(unkind), ..self }
    }

    /// Length of the prefix of the pods' network, 24 or longer.
    #[must_use]
    pub fn prefix(self, prefix: u8) -> Self {
        Self { prefix, ..self }
    }

    /// Puts pods on a bridge that is called so, and a number.
    #[must_use]
    pub fn bridge(self, name: &'static str) -> Self {
        Self { bridge: Some(name), ..self }
    }

    fn bridge_in(&self, network: Ipv4Addr) -> String {
        match self.bridge {
            Some(name) => format!("{name}{}", network.octets()[2]),
            None => net::bridge(network),
        }
    }

    /// Starts it and waits until it listens.
    pub async fn start(self) -> Hyperd {
        let slot = Claim::take(DOUBLES).await;
        let network = Ipv4Addr::new(192, 168, NETWORKS + slot.number(), 0);
        // Whoever had the network before can't have cleaned up if they were killed.
        for (pid, _) in machine::pids_in(network) {
            end_process(pid);
        }
        net::remove(&net::bridge(network));
        net::remove(&self.bridge_in(network));
        let files = tempfile::Builder::new().prefix("hyperd-").tempdir().unwrap_or_else(|error| panic!("make a directory: {error}"));
        let image = format!("{}/codius/httpd@{}", registry::HOST, registry::HTTPD);
        let pull = self.pulled;
        let mut hyperd = Hyperd { options: self, process: None, starts: 0, image, network, files, _slot: slot };
        hyperd.start_again().await;
        if pull {
            hyperd.pull(&hyperd.image).await;
        }
        hyperd
    }
}

/// A double of hyperd. When dropped nothing is left of it, neither pods nor network.
#[derive(Debug)]
pub struct Hyperd {
    options: HyperdBuilder,
    process: Option<Process>,
    starts: u32,
    image: String,
    network: Ipv4Addr,
    files: TempDir,
    // The last to go: until here nobody else may use the network.
    _slot: Claim,
}

impl Hyperd {
    /// A double without pods and images. `binary` is the kit's `hyperd`; see [`binary`].
    pub fn builder(binary: &str) -> HyperdBuilder {
        HyperdBuilder {
            binary: PathBuf::from(binary),
            boot_ms: 0,
            time_scale: 0.1,
            images: BTreeMap::new(),
            pulled: false,
            prefix: net::PREFIX,
            bridge: None,
            unkind: None,
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.files.path().join("hyper.sock")
    }

    /// The bridge its machines are on.
    pub fn bridge(&self) -> String {
        self.options.bridge_in(self.network)
    }

    /// Where it keeps its files.
    pub fn dir(&self) -> PathBuf {
        self.files.path().join("hyper")
    }

    /// An image that serves a page on port 8080, by digest.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// An image that ends the guest when a container is made of it, by digest.
    pub fn image_without_group(&self) -> String {
        format!("{}/codius/nogroup@{}", registry::HOST, registry::NO_GROUP)
    }

    /// Where it keeps a folder for each pod's log.
    pub fn logs(&self) -> PathBuf {
        self.dir().join("Pods")
    }

    /// Network of its pods; the last octet is 0.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// Starts it on the same files as before, once it has ended.
    pub async fn start_again(&mut self) {
        self.starts += 1;
        let mut command = Command::new(&self.options.binary);
        command.arg("--dir").arg(self.dir()).arg("--socket").arg(self.socket());
        command.args(["--network", &format!("{}/24", self.network), "--boot-ms", &self.options.boot_ms.to_string()]);
        command.args(["--bridge", &self.bridge(), "--prefix", &self.options.prefix.to_string()]);
        command.args(["--time-scale", &self.options.time_scale.to_string()]);
        if let Some(Unkind { dying_crashes, chatty_lost, seed }) = self.options.unkind {
            let seed = seed.wrapping_mul(1000).wrapping_add(u64::from(self.starts));
            for (key, value) in [("dying-crashes", dying_crashes.into()), ("chatty-lost", chatty_lost.into()), ("seed", seed)] {
                command.args([format!("--{key}"), value.to_string()]);
            }
        }
        for (name, program) in &self.options.images {
            command.args(["--image", &format!("{name}={}", program.display())]);
        }
        let log = self.files.path().join(format!("hyperd-{}.log", self.starts));
        let mut process = Process::spawn("hyperd", &mut command, &log);
        let said = |line: &str| (line == daemon::LISTENING).then_some(());
        process.line("the double to listen", READY_WITHIN, said).await;
        self.process = Some(process);
    }

    /// Kills the daemon, and nothing but the daemon: pods run on, the socket's file stays.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM: pods end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.interrupt(Signal::SIGTERM).await
    }

    /// SIGHUP: the daemon ends, pods run on.
    pub async fn hangup(&mut self) -> ExitStatus {
        self.interrupt(Signal::SIGHUP).await
    }

    async fn interrupt(&mut self, signal: Signal) -> ExitStatus {
        let mut process = self.process.take().unwrap_or_else(|| panic!("the double doesn't run"));
        process.signal(signal);
        process.exit(END_WITHIN).await
    }

    /// Waits for the daemon to end by itself, as after a fault that makes it crash.
    pub async fn crashed(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap_or_else(|| panic!("the double doesn't run"));
        process.exit(END_WITHIN).await
    }

    /// Whether the daemon runs.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Kills the daemon and all machines at once.
    pub fn power_loss(&mut self) {
        self.kill9();
        self.end_machines();
    }

    /// Kills the machine of a pod, and nothing else.
    pub fn kill_machine(&self, pod: &str) {
        assert!(self.kill_machine_if_any(pod), "pod {pod} has no machine");
    }

    /// The same where it may have ended by itself meanwhile; whether it was there.
    pub fn kill_machine_if_any(&self, pod: &str) -> bool {
        self.machine(pod).map(end_process).is_some()
    }

    /// Whether a pod has a machine, be it one that nobody knows of any more.
    pub fn has_machine(&self, pod: &str) -> bool {
        self.machine(pod).is_some()
    }

    fn machine(&self, pod: &str) -> Option<u32> {
        let of_pod = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == pod.as_bytes())
        };
        self.running_pids().into_iter().find(of_pod)
    }

    /// Machines that are there.
    pub fn vms(&self) -> usize {
        self.running_pids().len()
    }

    /// Process ids of the machines that are there, one each. The machine's processes are its descendants.
    pub fn running_pids(&self) -> Vec<u32> {
        machine::pids(&self.dir()).into_iter().map(|(pid, _)| pid).collect()
    }

    /// Makes something go wrong: `{"call": "/pod/create", "nth": 1, "do": "hang"}`. `method` and `nth` may be left out; faults
    /// are `hang`, `hang-after`, `drop-before`, `drop-after`, `error-500`, `slow-ms:200`, `crash-before`, `crash-after`,
    /// `crash-in-ms:200`. Or turns a switch: `{"registries-down": true}`, `{"delete-of-stalled-crashes": true}`,
    /// `{"boot-ms": 400}`. All is forgotten when the daemon ends.
    pub async fn fault(&self, fault: Value) {
        let (status, text) = self.call(Method::POST, "/double/fault", Some(&fault)).await;
        assert_eq!(status, 200, "{fault}: {text}");
    }

    /// Forgets faults that haven't happened.
    pub async fn clear_faults(&self) {
        self.call(Method::DELETE, "/double/fault", None).await;
    }

    /// All calls so far, to this daemon and those before: method, target, status unless there was no answer.
    pub async fn calls(&self) -> Vec<(String, String, Option<u16>)> {
        faults::calls(&fs::read_to_string(faults::calls_file(&self.dir())).unwrap_or_default())
    }

    /// Pulls an image.
    pub async fn pull(&self, image: &str) {
        let (status, text) = self.call(Method::POST, &format!("/image/create?imageName={image}"), None).await;
        assert!(status == 200 && !text.contains("errorDetail"), "pull {image}: {text}");
    }

    /// A call, and its answer: status and text.
    pub async fn call(&self, method: Method, target: &str, body: Option<&Value>) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::from(body)).unwrap_or_else(|error| panic!("{target}: {error}"));
        let answer = async {
            let response = send(&self.socket(), request).await.unwrap_or_else(|error| panic!("{target}: {error}"));
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.unwrap_or_else(|error| panic!("{target}: {error}")).to_bytes();
            (status, String::from_utf8_lossy(&bytes).into_owned())
        };
        in_time(target, ANSWER_WITHIN, answer).await
    }

    /// What the daemons have written, the last one's last.
    pub fn log(&self) -> String {
        let log = |start| fs::read_to_string(self.files.path().join(format!("hyperd-{start}.log"))).unwrap_or_default();
        (1..=self.starts).map(log).collect()
    }

    fn end_machines(&self) {
        for pid in self.running_pids() {
            end_process(pid);
        }
    }
}

/// Where the kit's `hyperd` is: beside the tests of this build. It is built if it isn't there or is older than its sources, as
/// cargo builds the binaries of a dependency only along with the whole workspace.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("find this test: {error}"));
    let profile = test.ancestors().nth(2).unwrap_or_else(|| panic!("{} is in no target directory", test.display()));
    let binary = profile.join("hyperd");
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = |file: &Path| fs::metadata(file).and_then(|data| data.modified()).ok();
    let sources = fs::read_dir(kit.join("src/hyperd")).into_iter().flatten().flatten().filter_map(|entry| made(&entry.path()));
    if made(&binary).is_none() || sources.max() > made(&binary) {
        let name = if profile.ends_with("debug") { "dev".into() } else { profile.file_name().unwrap_or_default().to_os_string() };
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(kit).args(["build", "--quiet", "--bin", "hyperd", "--profile"]).arg(name);
        cargo.arg("--target-dir").arg(profile.parent().unwrap_or(profile));
        let status = cargo.status().unwrap_or_else(|error| panic!("build hyperd's double: {error}"));
        assert!(status.success(), "build hyperd's double: {status}");
    }
    binary
}

/// Sends a request over a connection of its own, which ends with the answer's body.
pub async fn send(socket: &Path, request: Request<Full<bytes::Bytes>>) -> Result<Response<Incoming>, String> {
    let stream = UnixStream::connect(socket).await.map_err(|error| format!("connect to {}: {error}", socket.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// Kills a process and waits until it has gone.
fn end_process(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    if until_blocking(END_WITHIN, || (!machine::alive(pid)).then_some(())).is_none() {
        eprintln!("process {pid} can't be killed");
    }
}

impl Drop for Hyperd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the double ---\n{}", self.log());
        }
        self.kill9();
        self.end_machines();
        net::remove(&self.bridge());
    }
}
