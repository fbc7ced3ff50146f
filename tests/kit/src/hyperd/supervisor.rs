//! What runs inside a machine.
//!
//! Output goes to the daemon that was there when the container was started. Once that one has gone nobody records it any
//! more: a megabyte is swallowed, then the container waits in `write()`.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    container,
    frames::{Event, Run},
};

/// What a container may write after the daemon that listened has gone, in bytes. The pipe takes some more.
const UNREAD_MAX: usize = 1 << 20;

/// The containers of a machine, and the daemon that is there.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts daemons.
    generation: u64,
    daemon: Option<mpsc::Sender<Event>>,
    running: HashMap<String, Running>,
    mounted: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct Running {
    pid: Pid,
    root: PathBuf,
    stalled: bool,
}

impl Supervisor {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A daemon is there; it is greeted.
    pub(super) async fn connected(&self, events: mpsc::Sender<Event>) -> u64 {
        let greeting = {
            let state = self.state();
            let stalled = state.running.iter().filter(|(_, running)| running.stalled).map(|(id, _)| id.clone());
            Event::Greeting { running: state.running.keys().cloned().collect(), stalled: stalled.collect() }
        };
        let _ = events.send(greeting).await;
        let mut state = self.state();
        state.generation += 1;
        state.daemon = Some(events);
        state.generation
    }

    /// A daemon has gone.
    pub(super) fn disconnected(&self, generation: u64) {
        let mut state = self.state();
        if state.generation == generation {
            state.daemon = None;
        }
    }

    /// Starts a container.
    pub(super) fn run(self: &Arc<Self>, run: Run) {
        let generation = self.state().generation;
        let container = run.container.clone();
        match self.prepare(&run).and_then(|()| spawn(&run)) {
            Ok(mut child) => {
                let pid = Pid::from_raw(child.id().unwrap_or_default().cast_signed());
                self.state().running.insert(container.clone(), Running { pid, root: run.root.clone(), stalled: false });
                self.tell(Event::Started { container: container.clone() });
                let readers: Vec<JoinHandle<()>> = [
                    child.stdout.take().map(|pipe| tokio::spawn(self.clone().forward(container.clone(), generation, 1, pipe))),
                    child.stderr.take().map(|pipe| tokio::spawn(self.clone().forward(container.clone(), generation, 2, pipe))),
                ]
                .into_iter()
                .flatten()
                .collect();
                tokio::spawn(self.clone().wait(container, child, run.root, generation, readers));
            }
            Err(error) => {
                eprintln!("machine: run {container}: {error}");
                self.tell(Event::Exited { container, code: Some(255), signal: None });
            }
        }
    }

    /// Mounts what a container sees, once.
    fn prepare(&self, run: &Run) -> std::io::Result<()> {
        fs::create_dir_all(inside(&run.root, Path::new(&run.workdir)))?;
        if !self.state().mounted.insert(run.root.clone()) {
            return Ok(());
        }
        for (from, to) in &run.binds {
            let to = inside(&run.root, to);
            if from.is_dir() {
                fs::create_dir_all(&to)?;
            } else {
                fs::write(&to, "")?;
            }
            mount(Some(from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        let proc = inside(&run.root, Path::new("proc"));
        fs::create_dir_all(&proc)?;
        Ok(mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), None::<&str>)?)
    }

    /// Hands the lines of a container's output to its daemon.
    async fn forward(self: Arc<Self>, container: String, generation: u64, stream: u8, pipe: impl AsyncRead + Unpin) {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line).await, Ok(1..)) {
            if line.last() != Some(&b'\n') {
                line.push(b'\n');
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            if !self.send(Some(generation), Event::Line { container: container.clone(), stream, text }).await {
                return self.swallow(container, pipe).await;
            }
            line.clear();
        }
    }

    /// Reads on for a while, for nothing; then no more.
    async fn swallow(&self, container: String, mut pipe: impl AsyncRead + Unpin) {
        let (mut swallowed, mut buffer) = (0, vec![0; 1 << 16]);
        while swallowed < UNREAD_MAX {
            match pipe.read(&mut buffer).await {
                Ok(read @ 1..) => swallowed += read,
                _ => return,
            }
        }
        if let Some(running) = self.state().running.get_mut(&container) {
            running.stalled = true;
        }
        self.send(None, Event::Stalled { container }).await;
        // The pipe stays open, and full, until the container has ended.
        std::future::pending().await
    }

    async fn wait(self: Arc<Self>, container: String, mut child: Child, root: PathBuf, generation: u64, readers: Vec<JoinHandle<()>>) {
        let status = child.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(0));
        while signal_processes(&root, Signal::SIGKILL) {
            tokio::task::yield_now().await;
        }
        let listened = self.state().daemon.is_some() && self.state().generation == generation;
        for reader in readers {
            if listened {
                let _ = reader.await;
            } else {
                reader.abort();
            }
        }
        self.state().running.remove(&container);
        self.send(None, Event::Exited { container, code: status.code(), signal: status.signal() }).await;
    }

    /// Tells the daemon something: the one that is there, or only a certain one. False if it isn't there.
    async fn send(&self, generation: Option<u64>, event: Event) -> bool {
        let daemon = {
            let state = self.state();
            state.daemon.clone().filter(|_| generation.is_none_or(|generation| state.generation == generation))
        };
        match daemon {
            Some(daemon) => daemon.send(event).await.is_ok(),
            None => false,
        }
    }

    /// Tells the daemon something, whenever it comes to that.
    fn tell(self: &Arc<Self>, event: Event) {
        let supervisor = self.clone();
        tokio::spawn(async move { supervisor.send(None, event).await });
    }

    /// Sends a signal to a container's first process.
    pub(super) fn signal(&self, container: &str, number: i32) {
        if let (Some(running), Ok(signal)) = (self.state().running.get(container), Signal::try_from(number)) {
            let _ = kill(running.pid, signal);
        }
    }

    /// Sends a signal to all processes of all containers.
    pub(super) fn signal_all(&self, signal: Signal) {
        let roots: Vec<PathBuf> = self.state().running.values().map(|running| running.root.clone()).collect();
        for root in roots {
            signal_processes(&root, signal);
        }
    }
}

/// A path inside a container, from outside.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn spawn(run: &Run) -> std::io::Result<Child> {
    let workdir = if run.workdir.is_empty() { "/" } else { &run.workdir };
    let mut command = Command::new("/proc/self/exe");
    command.arg(container::COMMAND).arg(&run.root).arg(workdir).args(&run.command);
    command.env_clear().envs(run.environment.iter().map(|(key, value)| (key, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// Sends a signal to the processes that have this root. False if there are none.
fn signal_processes(root: &Path, signal: Signal) -> bool {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let theirs = pids.filter(|pid| fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|link| link == root));
    theirs.map(|pid| kill(Pid::from_raw(pid), signal).is_ok()).fold(false, |any, sent| any | sent)
}
