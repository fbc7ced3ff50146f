//! Child processes whose output goes to a file, and that never outlive their owner.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

pub use nix::sys::signal::Signal;
use nix::{
    sys::{
        ptrace,
        signal::kill,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::wait::{until, until_blocking};

/// How much of a log is shown when something fails, in lines.
const TAIL_LINES: usize = 60;

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Threads of a child that stand still until this is dropped.
#[derive(Debug)]
pub struct HeldThreads {
    release: Option<mpsc::Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl HeldThreads {
    fn hold(threads: Vec<Pid>, name: &str) -> Self {
        assert!(!threads.is_empty(), "no thread is called {name}");
        let (release, released) = mpsc::channel::<()>();
        let (hold, held) = mpsc::channel();
        // Whoever traces a thread is a thread, too, and lets go of it when it ends.
        let holder = thread::spawn(move || {
            let stopped = threads.into_iter().try_for_each(|thread| {
                ptrace::seize(thread, ptrace::Options::empty())?;
                ptrace::interrupt(thread)?;
                waitpid(thread, Some(WaitPidFlag::__WALL)).map(drop)
            });
            let _ = hold.send(stopped);
            // Nothing is ever sent: this waits for the other end to be dropped.
            let _ = released.recv();
        });
        let stopped = held.recv().unwrap_or_else(|error| panic!("hold threads called {name}: {error}"));
        stopped.unwrap_or_else(|error| panic!("hold threads called {name}: {error}"));
        Self { release: Some(release), holder: Some(holder) }
    }
}

impl Drop for HeldThreads {
    fn drop(&mut self) {
        drop(self.release.take());
        let _ = self.holder.take().map(JoinHandle::join);
    }
}

/// A child that has come to its end.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output and error, in order.
    pub text: String,
}

impl Process {
    /// Starts `command`; standard output and error are appended to the file `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Self {
        Self::spawn_with(name, command, Stdio::null(), log)
    }

    /// The same with this as standard input.
    pub fn spawn_with(name: &str, command: &mut Command, input: Stdio, log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log).unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        let child = command.stdin(input).stdout(open()).stderr(open()).spawn();
        let child = child.unwrap_or_else(|error| panic!("start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Runs `command` to its end.
    pub async fn run(name: &str, command: &mut Command, log: &Path, within: Duration) -> Output {
        let mut process = Self::spawn(name, command, log);
        let status = process.exit(within).await;
        Output { status, text: process.log() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of what it has written.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("--- end of the log of {} ---\n{}", self.name, lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // An error means that it has ended; whoever waits for its end will see that.
        let _ = kill(Pid::from_raw(self.pid().cast_signed()), signal);
    }

    /// Holds its threads of this name where they are: as stuck as they could be, while its others run.
    pub fn hold(&self, name: &str) -> HeldThreads {
        let directory = format!("/proc/{}/task", self.pid());
        let tasks = fs::read_dir(&directory).unwrap_or_else(|error| panic!("read {directory}: {error}")).flatten();
        let named = tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
        let ids = named.filter_map(|task| task.file_name().to_str()?.parse().ok().map(Pid::from_raw));
        HeldThreads::hold(ids.collect(), name)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|error| panic!("look after {}: {error}", self.name))
    }

    /// Waits for its end.
    pub async fn exit(&mut self, within: Duration) -> ExitStatus {
        let log = self.log.clone();
        let what = format!("the end of {}; its log is {}", self.name, log.display());
        until(&what, within, async || self.ended()).await
    }

    /// Waits until a line of its log is what is looked for.
    pub async fn line<T>(&mut self, what: &str, within: Duration, pick: impl Fn(&str) -> Option<T>) -> T {
        let what = format!("{what} in the log of {}", self.name);
        until(&what, within, async || {
            let ended = self.ended();
            let found = self.log().lines().find_map(&pick);
            assert!(found.is_some() || ended.is_none(), "{} ended ({ended:?}) before {what}\n{}", self.name, self.log_tail());
            found
        })
        .await
    }

    /// Ends it and waits, from where nothing can be awaited. False if it had to be killed.
    pub(crate) fn end_blocking(&mut self, signal: Signal, within: Duration) -> bool {
        self.signal(signal);
        if until_blocking(within, || self.ended()).is_some() {
            return true;
        }
        self.kill();
        false
    }

    /// Kills it; nothing is left of it when this returns.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
