//! Everything that survives a restart, listed in one place: the schema of the database, and its content as read at start. The changes of a
//! table are defined by the module that owns it (`money/tables.rs`, `pods/tables.rs`, `operator/tables.rs`, `peers/tables.rs`).

mod schema;
#[cfg(test)]
mod tests;

use std::path::Path;

use codiusd_runtime::PodId;
use codiusd_supervisor::Supervisor;
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    db::{Database, LoadError, OpenError},
    money::{self, Asset, CreditRow, InvoiceRow, Totals},
    operator::{self, OperatorRows},
    peers,
    pods::{self, CrashHistory, PodRecord},
};

/// The stored state, as read at start.
#[derive(Debug)]
pub struct Snapshot {
    /// Root of all STREAM secrets of this host.
    pub server_secret: [u8; 32],
    /// The operator's run-time changes.
    pub operator: OperatorRows,
    /// Crash histories, including those of removed pods.
    pub crash_histories: Vec<(PodId, CrashHistory)>,
    /// Invoices with their credits.
    pub invoices: Vec<(InvoiceRow, Vec<CreditRow>)>,
    /// Other hosts, by their origins.
    pub peers: Vec<String>,
    /// Pods.
    pub pods: Vec<PodRecord>,
    /// Totals by asset.
    pub totals: Vec<(Asset, Totals)>,
}

/// Opens (or creates) the database of a host and reads all of it. Blocks: call it before serving.
///
/// # Errors
///
/// The file can't be opened, is corrupt, or was written by a newer codiusd.
pub fn open(path: &Path, supervisor: Supervisor) -> Result<(Database, Snapshot), OpenError> {
    Database::open(path, schema::MIGRATIONS, supervisor, load)
}

fn load(connection: &Connection) -> Result<Snapshot, LoadError> {
    Ok(Snapshot {
        server_secret: server_secret(connection)?,
        operator: operator::load(connection)?,
        crash_histories: pods::load_crash_histories(connection)?,
        invoices: money::load_invoices(connection)?,
        peers: peers::load(connection)?,
        pods: pods::load_pods(connection)?,
        totals: money::load_totals(connection)?,
    })
}

/// The secret from which all STREAM secrets of this host derive; created at the first start.
fn server_secret(connection: &Connection) -> rusqlite::Result<[u8; 32]> {
    let name = "server_secret";
    let known = connection.query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get(0)).optional()?;
    if let Some(secret) = known {
        return Ok(secret);
    }
    let secret: [u8; 32] = rand::random();
    connection.execute("INSERT INTO meta (name, value) VALUES (?, ?)", params![name, secret])?;
    Ok(secret)
}
