//! When the write-ahead log is emptied. `secure_delete` overwrites what is deleted in the database, but the log still holds the pages
//! as they were, private values included, until it is next used from its beginning.

use std::time::Duration;

use rusqlite::Connection;
use tokio::time::{Instant, sleep_until};

/// How long deleted private values may stay; pods that end together share one sync to disk.
const WITHIN: Duration = Duration::from_secs(1);
/// How long SQLite waits for others that use the file.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What deleted pods have left in the log.
#[derive(Debug, Default)]
pub(super) struct Remains(Option<Instant>);

impl Remains {
    /// A commit has deleted a pod.
    pub(super) fn are_left(&mut self) {
        self.0.get_or_insert_with(|| Instant::now() + WITHIN);
    }

    /// Resolves when they should be removed: never, if there are none.
    pub(super) async fn due(&self) {
        match self.0 {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Empties the log if there is something in it, or tries again later.
    pub(super) fn remove(&mut self, connection: &Connection) {
        if self.0.take().is_some() {
            match empty(connection) {
                Ok(true) => {}
                Ok(false) => self.are_left(),
                Err(error) => {
                    tracing::warn!(%error, "the store's log can't be emptied");
                    self.are_left();
                }
            }
        }
    }
}

/// Empties the log; false if somebody is reading from it. Nobody who reads makes payments wait.
pub(super) fn empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(Duration::ZERO)?;
    let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0).map(|busy: bool| !busy));
    connection.busy_timeout(PATIENCE)?;
    emptied
}
