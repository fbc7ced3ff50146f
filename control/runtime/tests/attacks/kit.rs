//! Hosts with a toolbox, and the report.

use std::{
    env, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use codiusd_net::Ipv4Cidr;
use codiusd_runtime::{
    ContainerSpec, EmbeddedConfig, EmbeddedRuntime, Machine, PodId, PodSpec, RunningPod, Runtime,
    image::{
        ImageConfig, ImageLimits, RegistryConfig,
        layout::{self, NewFile, NewImage},
    },
};
use futures::StreamExt;
use tokio::time::timeout;

/// For anything a row waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Set by the cargo that runs us, for our own crate: they'd make the inner build another one.
const INHERITED: &[&str] = &["CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS"];

/// The toolbox, built as a static program: images here hold nothing else.
pub(crate) fn toolbox() -> &'static Path {
    static TOOLBOX: OnceLock<PathBuf> = OnceLock::new();
    TOOLBOX.get_or_init(|| {
        let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("toolbox");
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--quiet",
            "--locked",
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/toolbox/Cargo.toml"),
        ]);
        build.args(["--target", &target, "--config", "build.rustflags=[\"-Ctarget-feature=+crt-static\"]", "--target-dir"]).arg(&directory);
        for name in INHERITED {
            build.env_remove(name);
        }
        assert!(build.status().expect("cargo runs").success(), "the toolbox is built");
        directory.join(target).join("debug/codius-toolbox")
    })
}

/// What a run of actions on the host comes to, in `directory`.
pub(crate) fn on_host(directory: &Path, actions: &[&[&str]]) -> Vec<String> {
    let mut toolbox = Command::new(toolbox());
    let output = toolbox.args(joined(actions)).current_dir(directory).stdin(Stdio::null()).output().unwrap();
    lines(&String::from_utf8(output.stdout).unwrap(), actions)
}

fn joined(actions: &[&[&str]]) -> Vec<String> {
    let words = actions.join(&"+");
    words.into_iter().map(str::to_owned).collect()
}

fn lines(text: &str, actions: &[&[&str]]) -> Vec<String> {
    let said: Vec<String> =
        text.lines().filter(|line| line.starts_with("done") || line.starts_with("refused")).map(str::to_owned).collect();
    assert_eq!(said.len(), actions.len(), "an answer for each action: {text}");
    said
}

/// A runtime's part of the machine.
pub(crate) struct Host {
    pub(crate) config: EmbeddedConfig,
    pub(crate) image: String,
    /// Of each pod's disk.
    pub(crate) disk_bytes: u64,
    dir: tempfile::TempDir,
}

impl Host {
    /// With images that run as this user.
    pub(crate) fn new(number: u8, user: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = fs::read(toolbox()).unwrap();
        let file = |path, mode| NewFile { path, content: &program, mode };
        let files =
            [file("bin/toolbox", 0o755), file("bin/toolbox-of-root", 0o4755), NewFile { path: "tmp/.keep", content: b"", mode: 0o644 }];
        let layouts = dir.path().join("layouts");
        let image = NewImage { name: "toolbox", files: &files, entrypoint: &[], user, ports: &[] };
        let image = layout::write(&layouts, &image).unwrap();
        let images = ImageConfig {
            root: dir.path().join("images"),
            layouts: vec![layouts],
            registries: RegistryConfig::default(),
            limits: ImageLimits::default(),
        };
        let mut config = EmbeddedConfig::new(dir.path().join("state"), images);
        let pid = std::process::id();
        let [.., second, third] = pid.to_be_bytes();
        config.subnet = Ipv4Cidr { network: Ipv4Addr::new(10, 64 + second % 64, third, number * 32), prefix: 27 };
        config.link_prefix = format!("a{pid:06x}{number:02x}");
        config.instance = format!("codius-attack-{pid}-{number}");
        config.shim_exe = env::current_exe().unwrap();
        config.limits.stop_grace = Duration::from_millis(100);
        Self { config, image, disk_bytes: Machine::DISK_DEFAULT, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn open(&self) -> EmbeddedRuntime {
        EmbeddedRuntime::open(self.config.clone()).expect("the runtime opens")
    }

    pub(crate) fn pod(&self, seed: char, memory_mib: u64, program: &str, words: &[&str]) -> PodSpec {
        let command = std::iter::once(program).chain(words.iter().copied()).map(str::to_owned).collect();
        let container = ContainerSpec {
            name: "main".to_owned(),
            image: self.image.clone(),
            command: Some(command),
            workdir: None,
            env: vec![("POD_SECRET".to_owned(), format!("secret-of-{seed}"))],
        };
        let machine = Machine { vcpus: 1, memory_bytes: memory_mib << 20, disk_bytes: self.disk_bytes };
        PodSpec { id: id(seed), machine, containers: vec![container] }
    }

    /// What a run of actions in a pod of its own comes to.
    pub(crate) async fn in_pod(&self, runtime: &EmbeddedRuntime, memory_mib: u64, actions: &[&[&str]]) -> Vec<String> {
        let words = joined(actions);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        runtime.start(self.pod('z', memory_mib, "/bin/toolbox", &words)).await.unwrap();
        let said = collect(runtime, 'z').await;
        runtime.stop(&id('z')).await.unwrap();
        lines(&said.join("\n"), actions)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path().join(&self.config.instance)) {
            fs::remove_dir(entry).ok();
        }
    }
}

/// All a pod writes until its end.
pub(crate) async fn collect(runtime: &EmbeddedRuntime, seed: char) -> Vec<String> {
    let log = runtime.logs(&id(seed), true).await.unwrap();
    let all = log.map(|line| String::from_utf8_lossy(&line.unwrap().text).into_owned()).filter(|line| std::future::ready(!line.is_empty()));
    timeout(PATIENCE, all.collect()).await.expect("the pod ends")
}

/// Waits for a line of a pod that goes on.
pub(crate) async fn until_said(runtime: &EmbeddedRuntime, seed: char, text: &str) {
    let mut log = runtime.logs(&id(seed), true).await.unwrap();
    let heard = async {
        while let Some(line) = log.next().await {
            if line.unwrap().text == text {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, heard).await.expect("it says something"), "it says {text:?}");
}

pub(crate) async fn start(runtime: &EmbeddedRuntime, pod: PodSpec) -> RunningPod {
    runtime.start(pod).await.expect("a pod starts")
}

pub(crate) fn id(seed: char) -> PodId {
    seed.to_string().repeat(PodId::LENGTH).parse().unwrap()
}

/// What came of each attack.
#[derive(Default)]
pub(crate) struct Report {
    rows: usize,
    wrong: Vec<String>,
}

impl Report {
    /// An attack: what it came to, and what it comes to without the defence; none: why that isn't tried.
    pub(crate) fn row(&mut self, attack: &str, defence: &str, came_to: &str, control: Result<&str, &str>) {
        self.rows += 1;
        let held = came_to.starts_with("refused");
        let worked = control.map_or(true, |control| control.starts_with("done"));
        let mark = if held && worked { "ok  " } else { "FAIL" };
        let without = match control {
            Ok(control) => format!("without it: {control}"),
            Err(why) => format!("no control: {why}"),
        };
        let line = format!("{mark} {attack} | {defence} | {came_to} | {without}");
        println!("  {line}");
        if !held || !worked {
            self.wrong.push(line);
        }
    }

    pub(crate) fn ended(&mut self, table: &str, well: bool) {
        if !well {
            self.wrong.push(format!("{table} broke off"));
        }
    }

    pub(crate) fn failed(&self) -> bool {
        !self.wrong.is_empty()
    }

    pub(crate) fn print(&self) {
        println!("{} attacks, {} not stopped or not shown to be attacks", self.rows, self.wrong.len());
        self.wrong.iter().for_each(|line| println!("  {line}"));
    }
}
