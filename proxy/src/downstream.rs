//! The client's side of a connection, by what it speaks.

pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod pace;
pub(crate) mod proxied;
pub(crate) mod proxy_protocol;
pub(crate) mod tls;
