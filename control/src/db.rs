//! One SQLite file and the thread that writes it. Independent of the content: each module brings its own [`Change`]s and tables, and
//! `persistence` names them all.
//!
//! Callers reserve a place in the writer's queue, then change their state in memory and send the changes under one lock, so that memory
//! and file see the same order; then they wait until the changes are durable. The writer commits everything queued meanwhile together,
//! with one sync to disk.
//!
//! A failed commit closes the database: it accepts no more changes, and the process is expected to exit and restart from the file, rather
//! than take payments it might lose.
//!
//! | module | what is in it |
//! |---|---|
//! | `writer` | the queue, the thread, group commit |
//! | `migrations` | brings the file to the schema of this version |
//! | `values` | amounts and times as columns, and errors of stored values |
//! | `wal` | empties the write-ahead log, which still holds what has been deleted |

mod migrations;
mod values;
mod wal;
mod writer;

pub(crate) use values::{LoadError, amount, integer, milliseconds, time};
pub use writer::{Change, Changes, Database, DatabaseFailed, OpenError, Permit};
