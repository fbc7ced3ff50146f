//! What is counted and logged.

pub(crate) mod access;
pub(crate) mod families;
pub(crate) mod handshakes;
pub(crate) mod metrics;
pub(crate) mod request_id;
pub(crate) mod traffic;
