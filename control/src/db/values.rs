//! Amounts and times as columns of a table, and errors of stored values.

use jiff::Timestamp;
use rusqlite::Row;

/// Why the file can't be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// Table, column and value.
    Corrupt(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for LoadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// SQLite integers are signed 64-bit.
pub(crate) fn integer(amount: u64) -> rusqlite::Result<i64> {
    i64::try_from(amount).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Unix time.
pub(crate) fn milliseconds(time: Timestamp) -> i64 {
    time.as_millisecond()
}

pub(crate) fn amount(row: &Row<'_>, column: &str) -> Result<u64, LoadError> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| LoadError::Corrupt(format!("{column} {value}")))
}

pub(crate) fn time(row: &Row<'_>, column: &str) -> Result<Timestamp, LoadError> {
    let value: i64 = row.get(column)?;
    Timestamp::from_millisecond(value).map_err(|_| LoadError::Corrupt(format!("{column} {value}")))
}
