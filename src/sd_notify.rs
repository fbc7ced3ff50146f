//! Reports the state of the host to systemd (`sd_notify(3)`), and feeds its watchdog.
//!
//! ```text
//! STATUS=starting -> READY=1 -> (RELOADING=1 -> READY=1)* -> STOPPING=1
//!                       \-- WATCHDOG=1, twice in WATCHDOG_USEC, as long as the control plane's and the edge's threads run tasks
//! ```
//!
//! Implemented here because the crates for it block the caller while the manager's socket is full.

use std::{
    env, io,
    os::{linux::net::SocketAddrExt, unix::net},
    process,
    sync::Arc,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    net::UnixDatagram,
    time::{self, MissedTickBehavior},
};

/// How long a message may wait until systemd has read those before it.
const SEND_WITHIN: Duration = Duration::from_secs(2);
/// Shortest interval between watchdog messages.
const BEAT_MIN: Duration = Duration::from_millis(10);

/// The state of the host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase<'a> {
    /// Clients wait until its pods are routed.
    Starting,
    /// It serves, at this address.
    Serving(&'a str),
    /// It reloads its files.
    Reloading,
    /// It refuses new requests.
    Stopping,
}

impl Phase<'_> {
    /// The message in the format of `sd_notify(3)`. `monotonic` is the time since boot.
    fn message(self, monotonic: Duration) -> String {
        match self {
            Self::Starting => "STATUS=starting: clients wait until pods are routed".to_owned(),
            Self::Serving(uri) => format!("READY=1\nSTATUS=serving {uri}"),
            Self::Reloading => {
                format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading certificates, opening the access log", monotonic.as_micros())
            }
            Self::Stopping => "STOPPING=1\nSTATUS=stopping: requests under way are finished".to_owned(),
        }
    }
}

/// The service manager that started this process; without one no messages are sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manager {
    socket: Option<Arc<UnixDatagram>>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// Reads the environment. The host also serves if the manager can't be reached.
    pub(crate) fn of_this_process() -> Self {
        let Ok(address) = env::var("NOTIFY_SOCKET") else { return Self::default() };
        let is_ours = env::var("WATCHDOG_PID").map_or(true, |pid| pid.parse() == Ok(process::id()));
        let watchdog = env::var("WATCHDOG_USEC").ok().filter(|_| is_ours);
        let within = watchdog.and_then(|text| match text.parse() {
            Ok(microseconds) if microseconds > 0 => Some(Duration::from_micros(microseconds)),
            _ => {
                tracing::warn!(value = %text, "watchdog off: not a number of microseconds (WATCHDOG_USEC)");
                None
            }
        });
        match connect(&address) {
            Ok(socket) => Self { socket: Some(Arc::new(socket)), watchdog: within },
            Err(error) => {
                tracing::warn!(%error, socket = %address, "service manager not notified (NOTIFY_SOCKET)");
                Self::default()
            }
        }
    }

    /// Reports a phase.
    pub(crate) async fn say(&self, phase: Phase<'_>) {
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or_default());
        self.send(&phase.message(seconds + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or_default()))).await;
    }

    /// Feeds the watchdog, if there is one, as long as `lives` resolves to true; never returns.
    pub(crate) async fn watch<Lives: Future<Output = bool>>(self, lives: impl Fn() -> Lives) {
        let Some(within) = self.watchdog else { return std::future::pending().await };
        let mut beats = time::interval((within / 2).max(BEAT_MIN));
        // Missed beats must not be sent in a burst.
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            if lives().await {
                self.send("WATCHDOG=1").await;
            }
        }
    }

    async fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        let sent = match time::timeout(SEND_WITHIN, socket.send(message.as_bytes())).await {
            Ok(sent) => sent.map(drop),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = sent {
            tracing::warn!(%error, message, "service manager not notified (NOTIFY_SOCKET)");
        }
    }
}

/// Connects to `/a/path`, or to `@name` in the abstract namespace.
fn connect(address: &str) -> io::Result<UnixDatagram> {
    let address = match address.strip_prefix('@') {
        Some(name) => net::SocketAddr::from_abstract_name(name)?,
        None => net::SocketAddr::from_pathname(address)?,
    };
    let socket = net::UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Timeout of each wait in these tests.
    const WITHIN: Duration = Duration::from_secs(20);
    const BEAT: Duration = Duration::from_millis(40);

    fn manager(name: &str) -> (UnixDatagram, Manager) {
        let name = format!("codiusd-test-{name}-{:016x}", rand::random::<u64>());
        let address = net::SocketAddr::from_abstract_name(&name).unwrap();
        let systemd = net::UnixDatagram::bind_addr(&address).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let socket = connect(&format!("@{name}")).unwrap();
        (UnixDatagram::from_std(systemd).unwrap(), Manager { socket: Some(Arc::new(socket)), watchdog: Some(BEAT * 2) })
    }

    async fn heard(systemd: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let length = time::timeout(WITHIN, systemd.recv(&mut bytes)).await.expect("waited for a message").unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_are_those_of_sd_notify() {
        let said = |phase: Phase<'_>| phase.message(Duration::from_millis(1500));
        assert_eq!(said(Phase::Serving("https://codius.example")), "READY=1\nSTATUS=serving https://codius.example");
        assert!(said(Phase::Reloading).starts_with("RELOADING=1\nMONOTONIC_USEC=1500000\nSTATUS="));
        assert!(said(Phase::Stopping).starts_with("STOPPING=1\n"));
        assert!(said(Phase::Starting).starts_with("STATUS="));
    }

    #[tokio::test]
    async fn the_watchdog_is_fed_only_by_what_lives() {
        let (systemd, manager) = manager("fed");
        let lives = AtomicBool::new(true);
        let watch = manager.watch(|| async { lives.load(Ordering::Relaxed) });
        let listen = async {
            assert_eq!([heard(&systemd).await, heard(&systemd).await], ["WATCHDOG=1", "WATCHDOG=1"]);
            lives.store(false, Ordering::Relaxed);
            // One message may have been in flight.
            let mut bytes = [0; 64];
            let _ = time::timeout(BEAT * 2, systemd.recv(&mut bytes)).await;
            assert!(time::timeout(BEAT * 10, systemd.recv(&mut bytes)).await.is_err(), "what doesn't live feeds nobody");
            lives.store(true, Ordering::Relaxed);
            heard(&systemd).await
        };
        tokio::select! {
            () = watch => panic!("the watch has ended"),
            message = listen => assert_eq!(message, "WATCHDOG=1"),
        }
    }

    #[tokio::test]
    async fn what_hangs_feeds_nobody() {
        let (systemd, manager) = manager("hangs");
        let mut bytes = [0; 64];
        tokio::select! {
            () = manager.watch(std::future::pending::<bool>) => panic!("the watch has ended"),
            heard = time::timeout(BEAT * 10, systemd.recv(&mut bytes)) => assert!(heard.is_err()),
        }
    }

    #[tokio::test]
    async fn a_manager_that_does_not_read_holds_nobody_up() {
        let (systemd, manager) = manager("deaf");
        let many = async {
            // Fills the datagram queue: messages that don't fit are dropped.
            while time::timeout(BEAT, manager.say(Phase::Stopping)).await.is_ok() {}
            manager.say(Phase::Stopping).await;
        };
        time::timeout(WITHIN, many).await.expect("waited for a message to be given up");
        drop(systemd);
        time::timeout(WITHIN, manager.say(Phase::Stopping)).await.expect("nobody is there to be waited for");
    }
}
