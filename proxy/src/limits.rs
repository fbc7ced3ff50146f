//! Every number that bounds something at the edge.

use std::time::Duration;

/// Bounds of the edge, each with its unit; the defaults suit one public host.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections open at once, tunnels included; more are closed as they arrive.
    pub connections: usize,
    /// Bytes of one header block (request line included); also what a pod may answer with.
    pub header_bytes: usize,
    /// From the first byte of a request (or the accept) to the end of its headers.
    pub header_deadline: Duration,
    /// How long a client connection may wait between requests.
    pub keep_alive: Duration,
    /// How long a client that has been answered before the end of its request may go on sending: closed while it sends, it could
    /// lose the answer.
    pub linger: Duration,
    /// Bytes hyper may hold per connection and direction before it stops reading; at least `header_bytes`.
    pub buffer_bytes: usize,
    /// To open a connection to an upstream.
    pub connect: Duration,
    /// For a pod: without any progress of the request body, until the response headers. Never bounds the response body.
    pub first_byte: Duration,
    /// As `first_byte`, for the control plane: an upload waits there for a payment and an image.
    pub control_first_byte: Duration,
    /// How long a request body is held back for an upstream that has been asked for 100 Continue and says nothing.
    pub continue_wait: Duration,
    /// Idle upstream connections kept in all.
    pub idle_upstream: usize,
    /// Idle upstream connections kept for one pod (or the control plane).
    pub idle_per_upstream: usize,
    /// How long an idle upstream connection is kept.
    pub idle_upstream_timeout: Duration,
    /// What a withdrawn pod's requests and tunnels in flight still get before they are cut.
    pub withdrawn_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 10_000,
            header_bytes: 64 * 1024,
            header_deadline: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            buffer_bytes: 64 * 1024,
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(60),
            control_first_byte: Duration::from_secs(600),
            continue_wait: Duration::from_secs(1),
            idle_upstream: 4096,
            idle_per_upstream: 128,
            idle_upstream_timeout: Duration::from_secs(30),
            withdrawn_grace: Duration::from_secs(5),
        }
    }
}
