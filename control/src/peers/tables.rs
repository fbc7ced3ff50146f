//! The table of peers: origins of verified hosts.

use rusqlite::{Connection, Transaction};

use crate::db::{Change, LoadError};

/// A change of this table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerChange {
    /// Adds a peer, by its origin.
    Add(String),
    /// Removes a host that is no longer a peer.
    Remove(String),
}

impl Change for PeerChange {
    fn apply(&self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        let (sql, uri) = match self {
            Self::Add(uri) => ("INSERT OR IGNORE INTO peers (uri) VALUES (?)", uri),
            Self::Remove(uri) => ("DELETE FROM peers WHERE uri = ?", uri),
        };
        to.prepare_cached(sql)?.execute([uri])?;
        Ok(())
    }
}

pub(crate) fn load(connection: &Connection) -> Result<Vec<String>, LoadError> {
    let mut select = connection.prepare("SELECT uri FROM peers")?;
    let uris = select.query_map([], |row| row.get(0))?;
    Ok(uris.collect::<rusqlite::Result<_>>()?)
}
