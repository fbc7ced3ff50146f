//! What a neighbour notices of all this: how long its page takes, before and while one pod does its worst.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use codiusd_runtime::{RunningPod, Runtime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::kit::{Host, PATIENCE, Report, id, start, until_said};

/// Requests measured each time, and from the begin of one to the next: nuisances take turns.
const REQUESTS: usize = 400;
const PACE: Duration = Duration::from_millis(2);
/// Seconds an attack goes on; the pod is stopped earlier.
const ATTACK_SECONDS: &str = "60";
/// Where nobody starves, a page that takes a millisecond or two doesn't take this long. Not the figure that is promised: two
/// times the quiet one, which only a machine that does nothing else can show. It is printed.
const STARVED: Duration = Duration::from_millis(500);

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
    let page = start(&runtime, host.pod('n', 64, "/bin/toolbox", &["serve", "80"])).await;
    until_said(&runtime, 'n', "serving").await;
    for (name, nuisance) in NUISANCES {
        let quiet = p99(page).await;
        start(&runtime, host.pod('x', 256, "/bin/toolbox", nuisance)).await;
        let loud = p99(page).await;
        runtime.stop(&id('x')).await.unwrap();
        let figures = format!("p99 {:.1} ms, quiet {:.1} ms, {:.1} times", millis(loud), millis(quiet), millis(loud) / millis(quiet));
        let came_to = if loud < STARVED.max(quiet * 20) { format!("refused {figures}") } else { format!("done {figures}") };
        report.row(name, "control groups: a neighbour's page is still served", &came_to, Err("its limits' rows have theirs"));
    }
    runtime.stop(&id('n')).await.unwrap();
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

async fn p99(pod: RunningPod) -> Duration {
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
