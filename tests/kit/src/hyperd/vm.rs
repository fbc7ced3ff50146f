//! A pod's machine: a process with a network, processes, mounts and a host name of its own.
//!
//! ```text
//! daemon ── starts ──► outer: new session, new namespaces ── starts ──► inner: process 1, one control socket, containers
//!                      ◄─ "unshared"    "plugged" ─►                     "ready" ─► daemon connects
//! ```
//!
//! The machine runs on when the daemon is away. When the outer process dies all of it dies; when the inner one does, too.

use std::{
    io::{BufRead, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{sethostname, setsid},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Notify, mpsc},
};

use super::{
    cli::Arguments,
    frames::{self, Event},
    net,
    supervisor::Supervisor,
};

/// First words of their command lines.
pub(super) const OUTER: &str = "vm";
pub(super) const INNER: &str = "vm-inside";
/// What they say on standard output, and hear on standard input.
pub(super) const UNSHARED: &str = "unshared";
pub(super) const PLUGGED: &str = "plugged";
pub(super) const READY: &str = "ready";
/// Events on their way to the daemon.
const EVENTS_MAX: usize = 64;
const HOST_NAME_MAX: usize = 63;

/// The control socket of a machine.
pub(super) fn socket(dir: &Path, machine: &str) -> PathBuf {
    dir.join("machines").join(format!("{machine}.sock"))
}

fn say(word: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{word}").and_then(|()| stdout.flush()).map_err(|error| format!("say {word}: {error}"))
}

/// Makes the namespaces, starts the inner process in them and waits for its end.
pub(super) fn outer(arguments: &Arguments) -> Result<(), String> {
    setsid().map_err(|error| format!("setsid: {error}"))?;
    let own = |flags: CloneFlags| unshare(flags).map_err(|error| format!("unshare: {error}"));
    own(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
    say(UNSHARED)?;
    let mut heard = String::new();
    std::io::stdin().lock().read_line(&mut heard).map_err(|error| format!("listen: {error}"))?;
    if heard.trim() != PLUGGED {
        return Err("the daemon has gone while this machine was made".to_owned());
    }
    net::configure(&arguments.get::<String>("cidr")?, arguments.get("gateway")?)?;
    own(CloneFlags::CLONE_NEWPID)?;
    let inner = Command::new("/proc/self/exe").arg(INNER).args(std::env::args().skip(2)).stdin(Stdio::null()).spawn();
    inner.and_then(|mut inner| inner.wait()).map(drop).map_err(|error| format!("the inner process: {error}"))
}

/// Process 1 of the machine.
pub(super) fn inner(arguments: &Arguments) -> Result<(), String> {
    let failed = |error: nix::Error| format!("set up the machine: {error}");
    set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).map_err(failed)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).map_err(failed)?;
    let pod: String = arguments.get("pod")?;
    sethostname(pod.get(..HOST_NAME_MAX).unwrap_or(&pod)).map_err(failed)?;
    let socket = socket(&arguments.get::<PathBuf>("dir")?, &arguments.get::<String>("machine")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("start tokio: {error}"))?.block_on(control(&socket))
}

/// Serves one daemon after the other until one of them ends it.
async fn control(socket: &Path) -> Result<(), String> {
    let listener = UnixListener::bind(socket).map_err(|error| format!("listen on {}: {error}", socket.display()))?;
    say(READY)?;
    let (supervisor, end) = (Arc::new(Supervisor::default()), Arc::new(Notify::new()));
    loop {
        tokio::select! {
            () = end.notified() => break,
            connection = listener.accept() => {
                let (stream, _) = connection.map_err(|error| format!("accept: {error}"))?;
                tokio::spawn(serve(stream, supervisor.clone(), end.clone()));
            }
        }
    }
    let _ = std::fs::remove_file(socket);
    Ok(())
}

async fn serve(stream: UnixStream, supervisor: Arc<Supervisor>, end: Arc<Notify>) {
    let (commands, mut answers) = stream.into_split();
    let (events, mut queue) = mpsc::channel::<Event>(EVENTS_MAX);
    let generation = supervisor.connected(events).await;
    tokio::spawn(async move {
        while let Some(event) = queue.recv().await {
            let mut line = serde_json::to_vec(&event).unwrap_or_default();
            line.push(b'\n');
            if answers.write_all(&line).await.is_err() {
                return;
            }
        }
    });
    let mut commands = BufReader::new(commands).lines();
    while let Ok(Some(line)) = commands.next_line().await {
        match serde_json::from_str(&line) {
            Ok(frames::Command::Run(run)) => supervisor.run(*run),
            Ok(frames::Command::Signal { container, signal }) => supervisor.signal(&container, signal),
            Ok(frames::Command::Pause) => supervisor.signal_all(Signal::SIGSTOP),
            Ok(frames::Command::Unpause) => supervisor.signal_all(Signal::SIGCONT),
            Ok(frames::Command::End) => end.notify_one(),
            Err(error) => eprintln!("machine: {error}: {line}"),
        }
    }
    supervisor.disconnected(generation);
}
