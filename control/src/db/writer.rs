//! The queue of commits, and the thread that writes them to disk.

use std::{
    fmt::Debug,
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
};

use codiusd_supervisor::{Cause, Supervisor};
use rusqlite::{Connection, Transaction};
use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
};

use super::{LoadError, migrations, wal};

/// The name of the writer's thread.
const WRITER: &str = "database";
/// Commits queued at most; further callers wait for a place.
const QUEUE_MAX: usize = 1024;
/// Most commits in one transaction.
const GROUP_MAX: usize = 256;

/// One change of the tables. Commits are atomic: all of their changes are applied, or none.
pub trait Change: Debug + Send + 'static {
    /// Applies the change.
    ///
    /// # Errors
    ///
    /// SQLite fails: the whole commit fails, and with it the database.
    fn apply(&self, to: &Transaction<'_>) -> rusqlite::Result<()>;

    /// Whether it deletes private values, which stay in the write-ahead log until that is emptied.
    fn deletes_secrets(&self) -> bool {
        false
    }
}

/// Changes that become durable together or not at all.
#[derive(Debug, Default)]
pub struct Changes(Vec<Box<dyn Change>>);

impl Changes {
    /// Appends more changes.
    #[must_use]
    pub fn and(mut self, more: impl Into<Self>) -> Self {
        self.0.extend(more.into().0);
        self
    }
}

impl<C: Change> From<C> for Changes {
    fn from(change: C) -> Self {
        Self(vec![Box::new(change)])
    }
}

impl<C: Change> From<Vec<C>> for Changes {
    fn from(changes: Vec<C>) -> Self {
        Self(changes.into_iter().map(|change| Box::new(change) as Box<dyn Change>).collect())
    }
}

/// The database can't be opened, or its content is corrupt.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file can't be created or opened.
    #[error("can't open the database {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// SQLite failed.
    #[error("can't read the database {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: rusqlite::Error,
    },
    /// A row has an invalid value.
    #[error("the database {path} is corrupt: {what}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Table and value.
        what: String,
    },
    /// The file was written by a later codiusd.
    #[error("a newer codiusd has written the database {path}; run that version")]
    Newer {
        /// The file.
        path: PathBuf,
    },
}

/// Nothing can be made durable: an earlier commit failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database has failed; codiusd must be restarted")]
pub struct DatabaseFailed;

struct Commit {
    changes: Changes,
    done: oneshot::Sender<()>,
}

/// Handle to the writer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Database {
    queue: mpsc::Sender<Commit>,
    failed: watch::Receiver<bool>,
    supervisor: Supervisor,
}

impl Database {
    /// Opens (or creates) the file, migrates it, and has `load` read all of it. Blocks: call it before serving. Everything that uses the
    /// database shares `supervisor`; once that is sealed, nothing more is written.
    pub(crate) fn open<T>(
        path: &Path,
        migrations: &[&str],
        supervisor: Supervisor,
        load: impl FnOnce(&Connection) -> Result<T, LoadError>,
    ) -> Result<(Self, T), OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let mut open = fs::OpenOptions::new();
        // Created here so that it, its WAL and its index are readable by root alone: it holds private values and secrets.
        open.create(true).truncate(false).write(true).mode(0o600);
        open.open(path).map_err(|source| OpenError::File { path: path.to_owned(), source })?;
        let mut connection = Connection::open(path).map_err(sqlite)?;
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;")
            .map_err(sqlite)?;
        connection.busy_timeout(wal::PATIENCE).map_err(sqlite)?;
        if migrations::is_newer(&connection, migrations).map_err(sqlite)? {
            return Err(OpenError::Newer { path: path.to_owned() });
        }
        migrations::run(&mut connection, migrations).map_err(sqlite)?;
        let loaded = load(&connection).map_err(|error| match error {
            LoadError::Sqlite(source) => sqlite(source),
            LoadError::Corrupt(what) => OpenError::Corrupt { path: path.to_owned(), what },
        })?;
        // A killed process may have left deleted values in the log.
        wal::empty(&connection).map_err(sqlite)?;
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
        Ok((Self { queue, failed, supervisor }, loaded))
    }

    /// Waits for a place in the queue. Reserve it before changing state in memory: [`Permit::send`] then can't fail to enqueue.
    pub async fn reserve(&self) -> Result<Permit, DatabaseFailed> {
        if !self.is_durable() {
            return Err(DatabaseFailed);
        }
        self.queue.clone().reserve_owned().await.map(Permit).map_err(|_| DatabaseFailed)
    }

    /// Waits until everything sent before is durable.
    pub async fn barrier(&self) -> Result<(), DatabaseFailed> {
        self.reserve().await?.send(Changes::default()).await
    }

    /// Whether changes sent now can become durable.
    pub fn is_durable(&self) -> bool {
        !*self.failed.borrow() && !self.queue.is_closed() && !self.supervisor.is_sealed()
    }

    /// The supervisor of all tasks that use the database.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Becomes true when a commit has failed, and stays true; the sender is dropped when the writer ends.
    pub fn failure(&self) -> watch::Receiver<bool> {
        self.failed.clone()
    }
}

/// A place in the writer's queue.
#[derive(Debug)]
pub struct Permit(mpsc::OwnedPermit<Commit>);

impl Permit {
    /// Sends changes that become durable together or not at all. They are queued when this returns; the future resolves when they are
    /// durable.
    pub fn send(self, changes: impl Into<Changes>) -> impl Future<Output = Result<(), DatabaseFailed>> + Send + 'static {
        let (done, durable) = oneshot::channel();
        self.0.send(Commit { changes: changes.into(), done });
        async { durable.await.map_err(|_| DatabaseFailed) }
    }
}

/// The writer: runs until every handle is dropped, a commit fails, or a panic has left state in memory inconsistent: changes sent since
/// then derive from that state.
async fn write_all(mut connection: Connection, mut commits: mpsc::Receiver<Commit>, fail: &watch::Sender<bool>, supervisor: &Supervisor) {
    let mut log = wal::Log::default();
    loop {
        let next = tokio::select! {
            biased;
            () = log.due() => {
                log.clear(&connection);
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
        if let Err(error) = write(&mut connection, &group) {
            tracing::error!(%error, "database write failed; codiusd takes no more payments until it is restarted");
            fail.send_replace(true);
            supervisor.fail(WRITER, Cause::Failed);
            return;
        }
        for commit in group {
            if commit.changes.0.iter().any(|change| change.deletes_secrets()) {
                log.holds_secrets();
            }
            // The caller may have stopped waiting.
            let _ = commit.done.send(());
        }
    }
    log.clear(&connection);
}

/// Makes all changes durable, or none.
fn write(connection: &mut Connection, group: &[Commit]) -> rusqlite::Result<()> {
    let mut changes = group.iter().flat_map(|commit| &commit.changes.0).peekable();
    if changes.peek().is_none() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for change in changes {
        change.apply(&transaction)?;
    }
    transaction.commit()
}
