//! Every number that bounds something at the edge.
//!
//! | bound | refusal |
//! |---|---|
//! | `connections`, `connections_per_client` | closed as it arrives: an answer would cost what the bound is to save |
//! | `header_bytes`, `header_fields` | 431 |
//! | `header_deadline`, `keep_alive`, `send_stall` | connection closed |
//! | `send_bytes_per_second` after `send_grace` | connection closed |
//! | `requests_per_client`, `requests_per_pod` | 429, Retry-After |
//! | `control_body_bytes`, `pod_body_bytes` | 413 |
//! | `body_bytes_per_second` after `body_grace` | 408 |
//! | `tunnels_per_pod` | 503, Retry-After |
//! | `connect` | 504 |
//! | `first_byte`, `control_first_byte` | 504, or 408 when it is the client that stopped |

use std::time::Duration;

/// Bounds of the edge, each with its unit; the defaults suit one public host.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections open at once, tunnels included; more are closed as they arrive.
    pub connections: usize,
    /// Client connections one client may have open at once; who is a client is the [`Policy`](crate::Policy)'s.
    pub connections_per_client: usize,
    /// Requests one client may send in a second, twice as many after a quiet second.
    pub requests_per_client: u64,
    /// Requests one pod is sent in a second, twice as many after a quiet second.
    pub requests_per_pod: u64,
    /// Upgraded connections one pod may have open at once, those it is asked for included.
    pub tunnels_per_pod: usize,
    /// Bytes of one header block (request line included); also what a pod may answer with.
    pub header_bytes: usize,
    /// Fields of one header block; also what a pod may answer with.
    pub header_fields: usize,
    /// From the accept (or the end of a PROXY protocol header) to the end of a TLS handshake.
    pub handshake: Duration,
    /// Requests under way at once on one HTTP/2 connection.
    pub h2_streams: u32,
    /// HTTP/2 requests a client may take back on one connection, beyond as many as it has let finish; then it is closed.
    pub h2_cancelled: u32,
    /// From the first byte of a request (or the accept) to the end of its headers. A PROXY protocol header may take as long.
    pub header_deadline: Duration,
    /// How long a client connection may wait between requests.
    pub keep_alive: Duration,
    /// How long a client that has been answered before the end of its request may go on sending: closed while it sends, it could
    /// lose the answer.
    pub linger: Duration,
    /// How long a client may take none of what is sent to it, in answers and tunnels.
    pub send_stall: Duration,
    /// What a client must take of answers, in bytes per second of waiting for it. Tunnels have no such pace.
    pub send_bytes_per_second: u64,
    /// How far behind `send_bytes_per_second` a client may fall before it is cut: how long it may be waited for beyond what the bytes
    /// it took are worth.
    pub send_grace: Duration,
    /// Bytes of a request body for the control plane. It has a bound of its own, which is lower, so that its refusal is the one
    /// that is read.
    pub control_body_bytes: u64,
    /// Bytes of a request body for a pod.
    pub pod_body_bytes: u64,
    /// What a client must send of a request body, in bytes per second of waiting for it, until the answer begins: what comes after
    /// that is a conversation, whose pace is the pod's business.
    pub body_bytes_per_second: u64,
    /// How long a request body may be waited for in all before `body_bytes_per_second` counts.
    pub body_grace: Duration,
    /// Bytes HTTP/2's upstream side may hold per connection and direction before it stops reading; at least `header_bytes`.
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
    /// Large answers over plain HTTP whose content the kernel moves by itself, at once; two files each. More are copied.
    pub pipes: usize,
    /// What a withdrawn pod's requests and tunnels in flight still get before they are cut.
    pub withdrawn_grace: Duration,
    /// How long a client that is in the middle of a request's headers, or has just connected, may take to send them when the edge
    /// drains. One that is idle between requests is closed at once.
    pub last_request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 100_000,
            connections_per_client: 512,
            requests_per_client: 200,
            requests_per_pod: 20_000,
            tunnels_per_pod: 4_096,
            header_bytes: 64 * 1024,
            header_fields: 1000,
            handshake: Duration::from_secs(10),
            h2_streams: 100,
            h2_cancelled: 200,
            header_deadline: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            send_stall: Duration::from_secs(60),
            send_bytes_per_second: 240,
            send_grace: Duration::from_secs(60),
            control_body_bytes: 8 * 1024 * 1024,
            pod_body_bytes: u64::MAX,
            body_bytes_per_second: 100,
            body_grace: Duration::from_secs(60),
            buffer_bytes: 64 * 1024,
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(60),
            control_first_byte: Duration::from_secs(600),
            continue_wait: Duration::from_secs(1),
            idle_upstream: 4096,
            idle_per_upstream: 128,
            idle_upstream_timeout: Duration::from_secs(30),
            pipes: 256,
            withdrawn_grace: Duration::from_secs(5),
            last_request: Duration::from_secs(2),
        }
    }
}
