//! The edge on real sockets: raw clients, raw and hyper pods, a control plane behind a unix socket.

mod draining;
mod framing;
mod kit;
mod pooling;
mod routing;
mod streaming;
mod tunnels;
