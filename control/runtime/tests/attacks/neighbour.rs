//! What a neighbour notices of all this: how long its page takes, before and while one pod does its worst.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use codiusd_runtime::{RunningPod, Runtime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::kit::{Host, PATIENCE, Report, id, start, until_said};

/// Times it is measured, of which the best counts: the machine may have other things to do, which is no attack of a pod's.
const WINDOWS: usize = 4;
/// Requests measured each time, and from the begin of one to the next: nuisances take turns.
const REQUESTS: usize = 200;
const PACE: Duration = Duration::from_millis(2);
/// Seconds an attack goes on; the pod is stopped earlier.
const ATTACK_SECONDS: &str = "60";
/// What a page may take beside an attack if that is more than two times the quiet figure: on a kernel that isn't preempted
/// (PREEMPT_NONE, 250 ticks a second) it is a few ticks more, where a quiet page takes a twentieth of one.
const NOTICED: Duration = Duration::from_millis(100);

const NUISANCES: &[(&str, &[&str])] = &[
    ("a processor hog", &["again", ATTACK_SECONDS, "signal", "1"]),
    ("a fork bomb", &["again", ATTACK_SECONDS, "fork", "2000"]),
    ("a memory hog", &["again", ATTACK_SECONDS, "memory", "1000"]),
    ("filling the disk", &["again", ATTACK_SECONDS, "write", "/tmp/file", "2000"]),
    ("a flood of log lines", &["again", ATTACK_SECONDS, "flood", "1000", "100000000"]),
];

pub(crate) async fn run(report: &mut Report) {
    let host = Host::new(0, "");
    let runtime = host.open();
    let _favoured = Favoured::new(&host.config.instance);
    let page = start(&runtime, host.pod('n', 64, "/bin/toolbox", &["serve", "80"])).await;
    until_said(&runtime, 'n', "serving").await;
    for (name, nuisance) in NUISANCES {
        let quiet = p99(page).await;
        start(&runtime, host.pod('x', 256, "/bin/toolbox", nuisance)).await;
        let loud = p99(page).await;
        runtime.stop(&id('x')).await.unwrap();
        let figures = format!("p99 {:.1} ms, quiet {:.1} ms, {:.1} times", millis(loud), millis(quiet), millis(loud) / millis(quiet));
        let came_to = if loud < NOTICED.max(quiet * 2) { format!("refused {figures}") } else { format!("done {figures}") };
        report.row(name, "control groups: a neighbour's page comes in time", &came_to, Err("its limits' rows have theirs"));
    }
    runtime.stop(&id('n')).await.unwrap();
}

/// These pods and this process come before other programs of the machine, by weight of control groups: what a compiler does
/// meanwhile is no attack of a pod's. Where groups can't be made so, the figures are only less quiet.
struct Favoured {
    client: PathBuf,
    before: PathBuf,
}

impl Favoured {
    fn new(pods: &str) -> std::io::Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("cgroup.controllers").exists();
        let (root, file, most) =
            if unified { (root.to_owned(), "cpu.weight", "10000") } else { (root.join("cpu"), "cpu.shares", "262144") };
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let of_processors = |line: &&str| line.split(':').nth(1).is_some_and(|names| unified || names.split(',').any(|name| name == "cpu"));
        let own = groups.lines().find(of_processors).and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or("/");
        let favoured = Self { client: root.join(format!("{pods}-client")), before: root.join(own.trim_start_matches('/')) };
        fs::create_dir(&favoured.client)?;
        fs::write(root.join(pods).join(file), most)?;
        fs::write(favoured.client.join(file), most)?;
        move_to(&favoured.client)?;
        Ok(favoured)
    }
}

impl Drop for Favoured {
    fn drop(&mut self) {
        move_to(&self.before).ok();
        fs::remove_dir(&self.client).ok();
    }
}

fn move_to(group: &Path) -> std::io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

async fn p99(pod: RunningPod) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..WINDOWS {
        best = best.min(window(pod).await);
    }
    best
}

async fn window(pod: RunningPod) -> Duration {
    let mut times = Vec::with_capacity(REQUESTS);
    let mut pace = tokio::time::interval(PACE);
    for _ in 0..REQUESTS {
        pace.tick().await;
        let began = Instant::now();
        timeout(PATIENCE, ask(SocketAddr::new(pod.address, 80))).await.expect("the page answers").expect("it is served");
        times.push(began.elapsed());
    }
    times.sort();
    times[REQUESTS * 99 / 100]
}

async fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    if page.ends_with("still here") { Ok(()) } else { Err(std::io::Error::other(page)) }
}
