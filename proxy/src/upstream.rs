//! Connections to upstreams: opened, used by one request at a time, and kept on their route's shelf in between.

pub(crate) mod pipe;
pub(crate) mod route;
pub(crate) mod shelf;
pub(crate) mod socket;
