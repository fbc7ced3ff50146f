//! Which pod is where, and why one is not.

pub(crate) mod table;
pub(crate) mod tombstones;
