//! The edge on real sockets: raw clients, raw and hyper pods, a control plane behind a unix socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers outside #[test] functions too")]

mod access;
mod answers;
mod attacks;
mod broken;
mod draining;
mod early;
mod errors;
mod fields;
mod frames;
mod framing;
mod h2;
mod h2_attacks;
mod h2_smuggling;
mod intake;
mod isolation;
mod keys;
mod kit;
mod limits;
mod metrics;
mod parked;
mod pooling;
mod proxied;
mod readers;
mod routing;
mod secure;
mod smuggling;
mod statuses;
mod streaming;
mod swapping;
mod tls;
mod tunnels;
mod waits;
mod websockets;
