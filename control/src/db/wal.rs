//! Empties the write-ahead log. `secure_delete` overwrites deleted data in the database, but the log keeps the old pages,
//! private values included, until SQLite reuses it from its beginning.

use std::time::Duration;

use rusqlite::Connection;
use tokio::time::{Instant, sleep_until};

/// How long deleted private values may stay in the log; pods that end together share one checkpoint.
const WITHIN: Duration = Duration::from_secs(1);
/// How long SQLite waits for other connections to the file.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// When the log must be emptied next.
#[derive(Debug, Default)]
pub(super) struct Log(Option<Instant>);

impl Log {
    /// Call this after a commit that deleted private values.
    pub(super) fn holds_secrets(&mut self) {
        self.0.get_or_insert_with(|| Instant::now() + WITHIN);
    }

    /// Resolves when the log must be emptied; never, if it holds no deleted values.
    pub(super) async fn due(&self) {
        match self.0 {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Empties the log if it holds deleted values; schedules a retry if that fails.
    pub(super) fn clear(&mut self, connection: &Connection) {
        if self.0.take().is_some() {
            match empty(connection) {
                Ok(true) => {}
                Ok(false) => self.holds_secrets(),
                Err(error) => {
                    tracing::warn!(%error, "database write-ahead log not emptied; trying again");
                    self.holds_secrets();
                }
            }
        }
    }
}

/// Empties the log; false if another process is reading from it: payments never wait for a reader.
pub(super) fn empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(Duration::ZERO)?;
    let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0).map(|busy: bool| !busy));
    connection.busy_timeout(PATIENCE)?;
    emptied
}
