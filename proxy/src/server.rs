//! The pingora services, their sockets, and who is let in.

pub(crate) mod accept;
pub(crate) mod edge;
pub(crate) mod listen;
pub(crate) mod service;
