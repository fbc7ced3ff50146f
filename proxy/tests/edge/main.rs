//! The edge on real sockets: raw clients, raw and hyper pods, a control plane behind a unix socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers outside #[test] functions too")]

mod draining;
mod early;
mod framing;
mod kit;
mod pooling;
mod routing;
mod streaming;
mod tunnels;
