//! Logs of containers: kept in memory and in a file, read as frames.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    /// RFC 3339, with nanoseconds.
    at: String,
    stream: u8,
    text: String,
}

impl Entry {
    /// Stream, three zeros, length, text.
    fn frame(&self, timestamps: bool) -> Bytes {
        let text = if timestamps { format!("{} {}", self.at, self.text) } else { self.text.clone() };
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        [&[self.stream, 0, 0, 0], &length.to_be_bytes()[..], text.as_bytes()].concat().into()
    }
}

/// What of a log is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub tail: Option<usize>,
    pub timestamps: bool,
}

/// A container's log.
#[derive(Debug)]
pub(super) struct Log {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    file: PathBuf,
    /// When the container ended, while it hasn't been started again.
    ended: Option<Instant>,
}

impl Log {
    /// The log in this file; a new one if there is none.
    pub(super) fn open(dir: &Path, container: &str) -> Arc<Self> {
        let file = dir.join("logs").join(container);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let entries = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Arc::new(Self { state: Mutex::new(State { entries, file, ended: None }), changed: watch::Sender::new(()) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line.
    pub(super) fn add(&self, stream: u8, text: String) {
        let entry = Entry { at: super::clock::nanos(), stream, text };
        let mut state = self.state();
        let line = serde_json::to_string(&entry).unwrap_or_default() + "\n";
        let written = File::options().create(true).append(true).open(&state.file).and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            eprintln!("hyperd: log to {}: {error}", state.file.display());
        }
        state.entries.push(entry);
        drop(state);
        self.changed.send_replace(());
    }

    /// The container runs again.
    pub(super) fn started(&self) {
        self.state().ended = None;
    }

    /// The container has ended.
    pub(super) fn ended(&self) {
        self.state().ended.get_or_insert_with(Instant::now);
        self.changed.send_replace(());
    }

    /// The pod has gone.
    pub(super) fn remove(&self) {
        self.ended();
        let _ = fs::remove_file(&self.state().file);
    }

    /// Frames, one per line. Following ends `linger` after the container, or never if that had ended before.
    pub(super) fn read(self: Arc<Self>, wish: Wish, linger: Duration) -> impl Stream<Item = Bytes> + Send {
        let (next, had_ended) = {
            let state = self.state();
            (state.entries.len().saturating_sub(wish.tail.unwrap_or(usize::MAX)), state.ended.is_some())
        };
        let changed = self.changed.subscribe();
        stream::unfold((self, next, changed), move |(log, mut next, mut changed)| async move {
            loop {
                changed.borrow_and_update();
                let (entry, ended) = {
                    let state = log.state();
                    (state.entries.get(next).cloned(), state.ended.filter(|_| !had_ended))
                };
                match entry {
                    Some(entry) => {
                        next += 1;
                        if (entry.stream == 1 && wish.stdout) || (entry.stream == 2 && wish.stderr) {
                            return Some((entry.frame(wish.timestamps), (log, next, changed)));
                        }
                    }
                    None if !wish.follow => return None,
                    None => tokio::select! {
                        _ = changed.changed() => {}
                        () = until(ended.map(|ended| ended + linger)) => return None,
                    },
                }
            }
        })
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
