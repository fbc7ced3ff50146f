//! What systemd is told of a host, over a socket as it has one.

use std::{collections::VecDeque, path::Path, time::Duration};

use codiusd_kit::{in_time, process::Signal};
use tokio::{net::UnixDatagram, time::timeout};

use crate::host;

const WITHIN: Duration = Duration::from_secs(30);
const WATCHDOG: Duration = Duration::from_millis(400);

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

    /// What has come so far is of the past.
    fn forget(&mut self) {
        let mut bytes = [0; 4096];
        while self.socket.try_recv(&mut bytes).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_how_it_stands_with_the_host() {
    let files = tempfile::tempdir().expect("make a directory");
    let path = files.path().join("notify");
    let mut systemd = Manager::listen(&path);
    let host = host().without_pods().set("NOTIFY_SOCKET", path.display().to_string());
    let mut host = host.set("WATCHDOG_USEC", WATCHDOG.as_micros().to_string()).start().await;

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
    // What was on its way when it stopped.
    let _ = timeout(WATCHDOG, systemd.message()).await;
    systemd.forget();
    let silence = timeout(WATCHDOG * 5, systemd.message()).await;
    assert!(silence.is_err(), "a process that doesn't run says {silence:?}");
    host.running().signal(Signal::SIGCONT);
    systemd.beat("it to live again").await;

    assert!(host.terminate().await.success());
    let stopping = systemd.heard("the stop").await;
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
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
