//! Logs of containers: kept in memory and in files, read as frames. The files of a pod are in a folder that outlives it.

use std::{
    collections::VecDeque,
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

/// Lines after which a container counts as one that writes a lot.
const CHATTY: usize = 8;

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

/// How much of a log is kept: so many bytes in so many files, or all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bounds {
    pub size_max: Option<u64>,
    pub files_max: usize,
    /// Nothing is kept, and hyperd dies when the pod is deleted.
    pub none: bool,
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
    entries: VecDeque<Entry>,
    /// Number of the first of them; those before were in files that have made room.
    first: usize,
    /// Number of the first entry of each file, the current one last.
    files: VecDeque<usize>,
    /// What is in the current one, in bytes.
    size: u64,
    file: PathBuf,
    bounds: Bounds,
    /// When the container ended, while it hasn't been started again.
    ended: Option<Instant>,
}

impl Log {
    /// The log of this container; a new one if there is none.
    pub(super) fn open(dir: &Path, pod: &str, container: &str, bounds: Bounds) -> Arc<Self> {
        let folder = folder(dir, pod);
        if let Err(error) = fs::create_dir_all(&folder) {
            eprintln!("hyperd: make {}: {error}", folder.display());
        }
        let file = folder.join(format!("{container}-json.log"));
        let mut state = State { file, bounds, ..State::default() };
        let text = fs::read_to_string(state.rotated()).unwrap_or_default() + &fs::read_to_string(&state.file).unwrap_or_default();
        state.entries = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        state.size = fs::metadata(&state.file).map_or(0, |data| data.len());
        state.files.push_back(0);
        Arc::new(Self { state: Mutex::new(state), changed: watch::Sender::new(()) })
    }

    /// Whether its container writes a lot.
    pub(super) fn is_chatty(&self) -> bool {
        self.state().entries.len() >= CHATTY
    }

    /// Whether nothing is kept.
    pub(super) fn is_none(&self) -> bool {
        self.state().bounds.none
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line.
    pub(super) fn add(&self, stream: u8, text: String) {
        let entry = Entry { at: super::clock::nanos(), stream, text };
        let mut state = self.state();
        let line = serde_json::to_string(&entry).unwrap_or_default() + "\n";
        if state.bounds.none {
            return;
        }
        state.make_room();
        state.size += line.len() as u64;
        let written = File::options().create(true).append(true).open(&state.file).and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            eprintln!("hyperd: log to {}: {error}", state.file.display());
        }
        state.entries.push_back(entry);
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

    /// Frames, one per line. Following ends `linger` after the container, or never if that had ended before.
    pub(super) fn read(self: Arc<Self>, wish: Wish, linger: Duration) -> impl Stream<Item = Bytes> + Send {
        let (next, had_ended) = {
            let state = self.state();
            let end = state.first + state.entries.len();
            (end.saturating_sub(wish.tail.unwrap_or(usize::MAX)), state.ended.is_some())
        };
        let changed = self.changed.subscribe();
        stream::unfold((self, next, changed), move |(log, mut next, mut changed)| async move {
            loop {
                changed.borrow_and_update();
                let (entry, ended) = {
                    let state = log.state();
                    next = next.max(state.first);
                    (state.entries.get(next - state.first).cloned(), state.ended.filter(|_| !had_ended))
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

impl State {
    fn rotated(&self) -> PathBuf {
        PathBuf::from(format!("{}.1", self.file.display()))
    }

    /// A full file becomes the older one, whose entries are gone then.
    fn make_room(&mut self) {
        if self.bounds.size_max.is_none_or(|max| self.size < max) {
            return;
        }
        let _ = fs::rename(&self.file, self.rotated());
        self.size = 0;
        self.files.push_back(self.first + self.entries.len());
        while self.files.len() > self.bounds.files_max.max(1) {
            self.files.pop_front();
            let keep_from = self.files.front().copied().unwrap_or_default();
            self.entries.drain(..keep_from - self.first);
            self.first = keep_from;
        }
    }
}

/// Where a pod's logs are. hyperd leaves it behind.
pub(super) fn folder(dir: &Path, pod: &str) -> PathBuf {
    dir.join("Pods").join(pod)
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
