//! The daemon's side of a machine: made, connected to, listened to, ended.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{UnixStream, unix::OwnedReadHalf},
    process::{Child, Command},
    sync::mpsc,
    time::{sleep, sleep_until},
};

use super::{
    daemon::Daemon,
    frames::{self, Event},
    net::{self, Nic},
    state::PATIENCE,
    vm,
};

/// Between two looks whether a process has gone.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A machine that is there.
#[derive(Debug)]
pub(super) struct Machine {
    pub name: String,
    pub nic: Nic,
    pid: u32,
    commands: mpsc::UnboundedSender<frames::Command>,
}

/// A greeted connection.
type Greeted = (Arc<Machine>, Greeting);
type Greeting = (Vec<String>, Vec<String>);

impl Machine {
    /// Makes one with this interface and waits until it is ready.
    pub(super) async fn boot(daemon: &Arc<Daemon>, name: &str, pod: &str, nic: Nic) -> Result<Arc<Self>, String> {
        let ready_at = tokio::time::Instant::now() + daemon.faults.boot();
        let mut heard = {
            let mut child = spawn(daemon, name, pod, &nic)?;
            let (pid, stdin, stdout) = (child.id().unwrap_or_default(), child.stdin.take(), child.stdout.take());
            let mut heard = BufReader::new(stdout.ok_or("no standard output")?).lines();
            hear(&mut heard, vm::UNSHARED).await?;
            let plugged = nic.clone();
            tokio::task::spawn_blocking(move || net::plug(&plugged, pid)).await.map_err(|error| error.to_string())??;
            let mut stdin = stdin.ok_or("no standard input")?;
            stdin.write_all(format!("{}\n", vm::PLUGGED).as_bytes()).await.map_err(|error| format!("speak to the machine: {error}"))?;
            tokio::spawn(async move { child.wait().await });
            heard
        };
        hear(&mut heard, vm::READY).await?;
        sleep_until(ready_at).await;
        Ok(Self::attach(daemon, name, nic).await?.0)
    }

    /// Connects to one that is there.
    pub(super) async fn attach(daemon: &Arc<Daemon>, name: &str, nic: Nic) -> Result<Greeted, String> {
        let socket = vm::socket(&daemon.options.dir, name);
        let pid = pids(&daemon.options.dir).into_iter().find(|(_, machine)| machine == name).map(|(pid, _)| pid);
        let pid = pid.ok_or_else(|| format!("no machine {name}"))?;
        let stream = UnixStream::connect(&socket).await.map_err(|error| format!("connect to {}: {error}", socket.display()))?;
        let (events, mut speaker) = stream.into_split();
        let (commands, mut queue) = mpsc::unbounded_channel::<frames::Command>();
        tokio::spawn(async move {
            while let Some(command) = queue.recv().await {
                let mut line = serde_json::to_vec(&command).unwrap_or_default();
                line.push(b'\n');
                if speaker.write_all(&line).await.is_err() {
                    return;
                }
            }
        });
        let mut events = BufReader::new(events).lines();
        let greeting = match next(&mut events).await {
            Some(Event::Greeting { running, stalled }) => (running, stalled),
            other => return Err(format!("machine {name} doesn't greet: {other:?}")),
        };
        let machine = Arc::new(Self { name: name.to_owned(), nic, pid, commands });
        tokio::spawn(listen(daemon.clone(), name.to_owned(), events));
        Ok((machine, greeting))
    }

    /// Tells it something. If it has gone nobody hears.
    pub(super) fn tell(&self, command: frames::Command) {
        let _ = self.commands.send(command);
    }

    /// Ends it; nothing is left when this returns.
    pub(super) async fn end(&self) {
        self.tell(frames::Command::End);
        let deadline = Instant::now() + PATIENCE;
        while alive(self.pid) {
            if Instant::now() > deadline {
                eprintln!("hyperd: machine {} doesn't end", self.name);
                let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
            }
            sleep(LOOK_EVERY).await;
        }
        self.unplug().await;
    }

    /// Ends it without asking.
    pub(super) async fn kill(&self) {
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
        self.end().await;
    }

    /// Takes its interface away.
    pub(super) async fn unplug(&self) {
        let link = self.nic.link.clone();
        let _ = tokio::task::spawn_blocking(move || net::unplug(&link)).await;
    }
}

fn spawn(daemon: &Daemon, name: &str, pod: &str, nic: &Nic) -> Result<Child, String> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(vm::OUTER).arg("--dir").arg(&daemon.options.dir);
    command.args(["--machine", name, "--pod", pod, "--network", &daemon.options.network.to_string()]);
    command.args(["--cidr", &nic.cidr(), "--gateway", &nic.gateway.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().map_err(|error| format!("start a machine: {error}"))
}

async fn hear<R: tokio::io::AsyncBufRead + Unpin>(lines: &mut Lines<R>, word: &str) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, lines.next_line()).await {
        Ok(Ok(Some(line))) if line == word => Ok(()),
        other => Err(format!("waited for a machine to say {word}, not {other:?}")),
    }
}

async fn next(events: &mut Lines<BufReader<OwnedReadHalf>>) -> Option<Event> {
    let line = events.next_line().await.ok()??;
    serde_json::from_str(&line).map_err(|error| eprintln!("hyperd: {error}: {line}")).ok()
}

async fn listen(daemon: Arc<Daemon>, name: String, mut events: Lines<BufReader<OwnedReadHalf>>) {
    while let Some(event) = next(&mut events).await {
        daemon.heard(event);
    }
    daemon.machine_gone(&name).await;
}

/// Whether a process is there, and no zombie.
pub(super) fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Machines of a daemon that keeps its files there: process id and name. Found by their command lines.
pub(super) fn pids(dir: &Path) -> Vec<(u32, String)> {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    processes(|words| words.get(1).is_some_and(|word| word == vm::OUTER) && words.get(3).is_some_and(|word| Path::new(word) == dir))
}

/// Machines and daemons of a network, whoever made them.
pub(super) fn pids_in(network: Ipv4Addr) -> Vec<(u32, String)> {
    let ours = |of: &String| *of == network.to_string();
    let daemons = format!("{network}/24");
    processes(|words| match words.get(1).map(String::as_str) {
        Some(vm::OUTER) => words.get(9).is_some_and(ours),
        Some("--dir") => words.windows(2).any(|pair| pair[0] == "--network" && pair[1] == daemons),
        _ => false,
    })
}

fn processes(which: impl Fn(&[String]) -> bool) -> Vec<(u32, String)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        (which(&words) && alive(pid)).then(|| (pid, words.get(5).cloned().unwrap_or_default()))
    })
    .collect()
}
