//! What must survive: payments, credits, pods, manifests, earnings, peers, in one SQLite file.
//!
//! One thread writes. Callers reserve a place in its queue, change their state in memory and send the changes in one breath
//! (so that memory and file see the same order), then wait until they are durable. What has queued up meanwhile is
//! committed together, with one sync to disk for all.
//!
//! A failed commit poisons the store: nothing more is accepted, and the process is expected to stop and start again from
//! the file. Money is not taken on a disk that doesn't hold.
//!
//! | room | what is in it |
//! |---|---|
//! | `rows` | the rows and the changes that may be made |
//! | `schema` | tables and migrations |
//! | `load` | reading everything at start |
//! | `apply` | one change as SQL |
//! | `log` | when the write-ahead log, which still holds what has been deleted, is emptied |

mod apply;
mod load;
mod log;
mod rows;
mod schema;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
};

use codiusd_supervisor::{Cause, Supervisor};
use rusqlite::Connection;
use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
};

pub use rows::{CreditRow, PaymentRow, PaymentState, Snapshot, Totals, Write};

/// The name of the writer's thread.
const WRITER: &str = "database";
/// Commits waiting for the writer; more wait outside.
const QUEUE_MAX: usize = 1024;
/// Commits that share one transaction, at most.
const GROUP_MAX: usize = 256;

/// The store can't be opened or is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file can't be created or opened.
    #[error("can't open the store {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// SQLite refuses.
    #[error("can't read the store {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
    /// A row makes no sense.
    #[error("the store {path} holds a bad value: {what}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Table and value.
        what: String,
    },
    /// A later codiusd has written it.
    #[error("the store {path} was written by a newer codiusd; use that version")]
    Newer {
        /// The file.
        path: PathBuf,
    },
}

/// Nothing can be made durable: an earlier commit failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store has failed; codiusd must be restarted")]
pub struct StoreFailed;

struct Commit {
    writes: Vec<Write>,
    done: oneshot::Sender<()>,
}

/// Handle to the writer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    queue: mpsc::Sender<Commit>,
    failed: watch::Receiver<bool>,
    supervisor: Supervisor,
}

impl Store {
    /// [Opens](Store::supervised) the store for a process that nobody supervises.
    pub fn open(path: &Path) -> Result<(Self, Snapshot), OpenError> {
        Self::supervised(path, Supervisor::default())
    }

    /// Opens (or creates) the store and reads all of it. Blocks: call it before serving. What works with the store has the same
    /// supervisor, and once that is sealed nothing more is written.
    pub fn supervised(path: &Path, supervisor: Supervisor) -> Result<(Self, Snapshot), OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let mut open = fs::OpenOptions::new();
        // Created here so that it, its WAL and its index are readable by root alone: it holds private values and secrets.
        open.create(true).truncate(false).write(true).mode(0o600);
        open.open(path).map_err(|source| OpenError::File { path: path.to_owned(), source })?;
        let mut connection = Connection::open(path).map_err(sqlite)?;
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;")
            .map_err(sqlite)?;
        connection.busy_timeout(log::PATIENCE).map_err(sqlite)?;
        if schema::is_newer(&connection).map_err(sqlite)? {
            return Err(OpenError::Newer { path: path.to_owned() });
        }
        schema::migrate(&mut connection).map_err(sqlite)?;
        let snapshot = load::everything(&connection).map_err(|error| match error {
            load::LoadError::Sqlite(source) => sqlite(source),
            load::LoadError::Corrupt(what) => OpenError::Corrupt { path: path.to_owned(), what },
        })?;
        // A process that was killed may have left it.
        log::empty(&connection).map_err(sqlite)?;
        let timer = runtime::Builder::new_current_thread().enable_time().build();
        let timer = timer.map_err(|source| OpenError::File { path: path.to_owned(), source })?;
        let (queue, commits) = mpsc::channel(QUEUE_MAX);
        let (fail, failed) = watch::channel(false);
        let overseer = supervisor.clone();
        let writer = supervisor.job(WRITER, async move { write_all(connection, commits, &fail, &overseer).await });
        thread::Builder::new()
            .name(WRITER.to_owned())
            .spawn(move || timer.block_on(writer))
            .map_err(|source| OpenError::File { path: path.to_owned(), source })?;
        Ok((Self { queue, failed, supervisor }, snapshot))
    }

    /// Waits for a place in the queue. Take it before changing state in memory; [`Permit::send`] can't fail to enqueue.
    pub async fn reserve(&self) -> Result<Permit, StoreFailed> {
        if !self.is_durable() {
            return Err(StoreFailed);
        }
        self.queue.clone().reserve_owned().await.map(Permit).map_err(|_| StoreFailed)
    }

    /// Waits until all that was sent before is durable.
    pub async fn barrier(&self) -> Result<(), StoreFailed> {
        self.reserve().await?.send(Vec::new()).await
    }

    /// Whether what is sent now can become durable.
    pub fn is_durable(&self) -> bool {
        !*self.failed.borrow() && !self.queue.is_closed() && !self.supervisor.is_sealed()
    }

    /// Notices the end of what works with the store.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Turns true when a commit has failed, and stays so; its sender goes with the writer.
    pub fn failure(&self) -> watch::Receiver<bool> {
        self.failed.clone()
    }
}

/// A place in the writer's queue.
#[derive(Debug)]
pub struct Permit(mpsc::OwnedPermit<Commit>);

impl Permit {
    /// Sends changes that become durable together or not at all. They are on their way when this returns; await the result
    /// to know them durable.
    pub fn send(self, writes: Vec<Write>) -> impl Future<Output = Result<(), StoreFailed>> + Send + 'static {
        let (done, durable) = oneshot::channel();
        self.0.send(Commit { writes, done });
        async { durable.await.map_err(|_| StoreFailed) }
    }
}

/// The writer: runs until every handle is gone, a commit fails, or a panic has left state in memory half changed: what was sent since
/// follows from that state.
async fn write_all(mut connection: Connection, mut commits: mpsc::Receiver<Commit>, fail: &watch::Sender<bool>, supervisor: &Supervisor) {
    let mut remains = log::Remains::default();
    loop {
        let next = tokio::select! {
            biased;
            () = remains.due() => {
                remains.remove(&connection);
                continue;
            }
            next = commits.recv() => next,
        };
        let Some(first) = next else { break };
        let mut group = vec![first];
        while group.len() < GROUP_MAX
            && let Ok(next) = commits.try_recv()
        {
            group.push(next);
        }
        if supervisor.is_sealed() {
            fail.send_replace(true);
            return;
        }
        if let Err(error) = apply::group(&mut connection, group.iter().flat_map(|commit| &commit.writes)) {
            tracing::error!(%error, "the store can't be written; no more payments are taken until a restart");
            fail.send_replace(true);
            supervisor.fail(WRITER, Cause::Failed);
            return;
        }
        for commit in group {
            if commit.writes.iter().any(|write| matches!(write, Write::ForgetPod(_))) {
                remains.are_left();
            }
            // A caller that went away needs no answer.
            let _ = commit.done.send(());
        }
    }
    remains.remove(&connection);
}
