//! What the requests of one connection share, and what the connections of one edge.

pub(crate) mod conn;
pub(crate) mod shared;
