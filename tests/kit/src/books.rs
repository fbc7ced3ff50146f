//! What a host wrote down about money, read from its store while it runs.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

/// The sums of one asset, in its smallest unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// All that payers sent.
    pub received: u64,
    /// Of that: spent on pods.
    pub earned: u64,
    /// Of that: never used, and expired.
    pub forfeited: u64,
    /// Of that: kept on Pay-Tokens, not spent yet.
    pub credit: u64,
}

impl Books {
    /// Reads the sums in XRP.
    pub fn read(store: &Path) -> Self {
        let read = || -> rusqlite::Result<Self> {
            let connection = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let sum = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
            Ok(Self {
                received: sum("SELECT COALESCE(SUM(received), 0) FROM earnings WHERE asset_code = 'XRP'")?,
                earned: sum("SELECT COALESCE(SUM(earned), 0) FROM earnings WHERE asset_code = 'XRP'")?,
                forfeited: sum("SELECT COALESCE(SUM(forfeited), 0) FROM earnings WHERE asset_code = 'XRP'")?,
                credit: sum("SELECT COALESCE(SUM(amount), 0) FROM credits JOIN invoices USING (segment) WHERE state <> 'consumed'")?,
            })
        };
        let books = read().unwrap_or_else(|error| panic!("read {}: {error}", store.display()));
        assert_eq!(books.received, books.earned + books.forfeited + books.credit, "the sums of {} must agree: {books:?}", store.display());
        books
    }
}
