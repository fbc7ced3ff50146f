//! What systemd is told of a host, over a socket as it has one.

use std::{collections::VecDeque, iter, path::Path, time::Duration};

use codiusd_kit::{
    HostBuilder, Payer, Upload,
    hyperd::{self, Hyperd},
    in_time,
    process::Signal,
    until, web,
};
use http::StatusCode;
use serde_json::json;
use tokio::{join, net::UnixDatagram, time::timeout};

use crate::host;

const WITHIN: Duration = Duration::from_secs(30);
const WATCHDOG: Duration = Duration::from_millis(400);
/// Long enough to look at what has been said meanwhile, on a machine that is busy, too.
const SLOW: Duration = Duration::from_secs(4);

/// systemd's end.
struct Manager {
    socket: UnixDatagram,
    beats: u32,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        Self { socket: UnixDatagram::bind(path).expect("bind a socket"), beats: 0 }
    }

    async fn message(&mut self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).await.expect("a message");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }

    /// The next message that isn't the watchdog's.
    async fn heard(&mut self, what: &str) -> String {
        in_time(what, WITHIN, async {
            loop {
                match self.message().await {
                    message if message == "WATCHDOG=1" => self.beats += 1,
                    message => return message,
                }
            }
        })
        .await
    }

    async fn beat(&mut self, what: &str) {
        assert_eq!(in_time(what, WITHIN, self.message()).await, "WATCHDOG=1");
    }

    /// What has come so far.
    fn messages(&mut self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let mut next = || self.socket.try_recv(&mut bytes).ok().map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned());
        iter::from_fn(&mut next).collect()
    }

    /// Waits until nobody feeds the watchdog any more.
    async fn hears_nothing(&mut self, of: &str) {
        // What was on its way.
        let _ = timeout(WATCHDOG, self.message()).await;
        self.messages();
        let silence = timeout(WATCHDOG * 5, self.message()).await;
        assert!(silence.is_err(), "{of} says {silence:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_how_it_stands_with_the_host() {
    let files = tempfile::tempdir().expect("make a directory");
    let path = files.path().join("notify");
    let mut systemd = Manager::listen(&path);
    let mut host = watched(host().without_pods(), &path).start().await;

    let starting = systemd.heard("the first word").await;
    assert!(starting.starts_with("STATUS=starting"), "{starting}");
    assert_eq!(systemd.beats, 0, "a host that starts has no watchdog");
    let serving = format!("READY=1\nSTATUS=serving {}/", host.uri());
    assert_eq!(systemd.heard("the host to be up").await, serving);
    systemd.beat("a first beat").await;
    systemd.beat("a second").await;

    host.running().signal(Signal::SIGHUP);
    let reloading = systemd.heard("the reload").await;
    let mut lines: VecDeque<&str> = reloading.lines().collect();
    assert_eq!(lines.pop_front(), Some("RELOADING=1"));
    let since_boot = lines.pop_front().and_then(|line| line.strip_prefix("MONOTONIC_USEC=")).and_then(|time| time.parse::<u64>().ok());
    assert!(since_boot.is_some_and(|time| time > 0), "{reloading}");
    assert_eq!(systemd.heard("the end of the reload").await, serving);

    host.running().signal(Signal::SIGSTOP);
    systemd.hears_nothing("a process that doesn't run").await;
    host.running().signal(Signal::SIGCONT);
    systemd.beat("it to live again").await;

    assert!(host.terminate().await.success());
    let stopping = systemd.heard("the stop").await;
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
}

fn watched(host: HostBuilder, socket: &Path) -> HostBuilder {
    host.set("NOTIFY_SOCKET", socket.display().to_string()).set("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
}

/// Its pods are at a hyperd that takes its time to say which there are.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_up_when_its_pods_are_routed_and_not_before() {
    let files = tempfile::tempdir().expect("make a directory");
    let path = files.path().join("notify");
    let mut systemd = Manager::listen(&path);
    let hyperd = Hyperd::builder(&hyperd::binary().display().to_string()).start().await;
    let on = host().set("CODIUS_HYPER_SOCKET", hyperd.socket().display().to_string()).set("CODIUS_HYPER_BRIDGE", hyperd.bridge());
    let mut host = watched(on, &path).start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(hyperd.image()), 600).await;
    host.kill9();

    systemd.messages();
    let before = hyperd.calls().await.len();
    hyperd.fault(json!({ "call": "/list", "do": format!("slow-ms:{}", SLOW.as_millis()) })).await;
    let asks = async || hyperd.calls().await.iter().skip(before).any(|(_, target, status)| target.starts_with("/list") && status.is_none());
    let meanwhile = async {
        until("hyperd to be asked for its pods", WITHIN, async || asks().await.then_some(())).await;
        let said = systemd.messages();
        assert!(said.len() == 1 && said[0].starts_with("STATUS=starting"), "{said:?}");
    };
    join!(host.start_again(), meanwhile);
    assert_eq!(host.pod(&hash, "/").await.status, StatusCode::OK, "routed when it says that it is up");
    assert!(systemd.heard("the host to be up").await.starts_with("READY=1\n"));
}

/// The control plane goes on, and has nothing to serve without an edge.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_edge_is_stuck_is_not_alive() {
    let files = tempfile::tempdir().expect("make a directory");
    let path = files.path().join("notify");
    let mut systemd = Manager::listen(&path);
    let host = host().without_pods().set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0");
    let mut host = watched(host, &path).start().await;
    systemd.heard("the first word").await;
    systemd.heard("the host to be up").await;
    systemd.beat("it to live").await;
    let stuck = host.running().hold("edge");
    systemd.hears_nothing("a host whose edge is stuck").await;
    let status = web::send(host.admin(), web::get("localhost", "/status")).await.expect("/status");
    assert_eq!(status.status, StatusCode::OK, "the control plane lives");
    drop(stuck);
    systemd.beat("it to live again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_of_another_process_is_not_fed_and_no_manager_is_needed() {
    let files = tempfile::tempdir().expect("make a directory");
    let path = files.path().join("notify");
    let mut systemd = Manager::listen(&path);
    let told = host().without_pods().set("NOTIFY_SOCKET", path.display().to_string());
    let mut told = told.set("WATCHDOG_USEC", "20000").set("WATCHDOG_PID", "1").start().await;
    systemd.heard("the first word").await;
    systemd.heard("the host to be up").await;
    told.running().signal(Signal::SIGHUP);
    systemd.heard("the reload").await;
    systemd.heard("its end").await;
    assert_eq!(systemd.beats, 0);

    let gone = files.path().join("gone");
    host().without_pods().set("NOTIFY_SOCKET", gone.display().to_string()).set("WATCHDOG_USEC", "-1").start().await;
}
