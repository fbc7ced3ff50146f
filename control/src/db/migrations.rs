//! Migrates a file to the schema of this version. `PRAGMA user_version` counts the migrations that have run.

use rusqlite::Connection;

/// Runs the outstanding `migrations`, each in a transaction of its own.
pub(super) fn run(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let done = version(connection)?;
    for (migration, version) in migrations.iter().zip(1_i64..).filter(|(_, version)| *version > done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Whether the file was written by a later version.
pub(super) fn is_newer(connection: &Connection, migrations: &[&str]) -> rusqlite::Result<bool> {
    Ok(usize::try_from(version(connection)?).is_ok_and(|done| done > migrations.len()))
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}
