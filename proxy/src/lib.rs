//! The door of a Codius host: everything that arrives from the public internet passes here.
//!
//! pingora is the frame (server, services, runtimes); HTTP/1 is the crate's own, HTTP/2 is the h2 crate's frames with the same way of a
//! request behind them. The crate knows hosts and upstreams and nothing of money or pods: a [`RouteTable`] says which pod is where, and
//! every other host name belongs to the control plane behind a unix socket.
//!
//! # The way of a request, and the floors of this crate
//!
//! Each floor imports from itself and from those below it (`tests/tidy/floors.rs` holds that); no two files import each other. Six files
//! are the way of a request: `server/accept`, `downstream/http1/serve` (or `http2/serve`), `request/plan`, `request/send`,
//! `request/transfer`, `upstream/route`.
//!
//! ```text
//! server      edge      pingora's server: what it is started with, its drain
//!             service   the pingora services: accept loops on runtimes of their own, chores
//!             listen    their sockets, bound or inherited
//!             accept    one connection: is there room, whose is it, what does it speak
//! downstream  proxied   whose it is, when a proxy passes it on              (proxy_protocol: pure)
//!             tls       handshake, certificates by name
//!             http1     HTTP/1.1 of clients, in one task per connection
//!             http2     HTTP/2 of clients: many requests, in one task per connection
//!             pace      how fast a client takes what it is sent
//! request     plan      what is done about a request, from its head alone   (host, https, target: whom it is for)
//!             send      it is sent, and once more if nobody can tell
//!             transfer  both directions of it, polled together              (upload, download; client: its other side)
//!             visit     what is counted and logged of it
//!             error_response  the one table from failure to answer          (pure)
//! context     shared    what all connections share
//!             conn      what the requests of one connection share
//! routing     table     pod key -> route
//!             tombstones  why a pod that was here is not                    (pure)
//! upstream    route     one upstream: connections to it, and whether it is still routable
//!             socket, shelf   one connection, and the idle ones
//!             pipe      content the kernel moves by itself
//! policy      trust     whom is believed, counted and connected to          (via: whom a believed proxy speaks for)
//!             gate      counts who comes, by what admit allows              (admit: pure)
//!             limits    every number that bounds something
//! telemetry   metrics, handshakes   counters with closed labels
//!             access    the access log
//!             traffic   what is counted of one pod
//!             request_id   the number a request is known by
//! wire        heads and chunks of HTTP/1, read and written                  (pure; differential: does hyper read the same?)
//! time        timers, and the date as HTTP says it
//! pod_key     the name of a pod                                             (pure)
//! ```
//!
//! # Posture towards odd requests (`wire` unless noted)
//!
//! | seen | done |
//! |---|---|
//! | no Host in HTTP/1.1, two Hosts, Host with user info or bad characters, Host unlike an absolute target | 400 (`host`) |
//! | absolute-form target | rewritten to origin-form |
//! | `"<>{}\|^`, a backtick and UTF-8 in a target | passed on as they are; bytes that aren't UTF-8: 400. HTTP/2 takes what a URI may have |
//! | CONNECT, TRACE | 405 (`plan`) |
//! | Host unlike the server name of the TLS handshake | 421 (`https`) |
//! | obs-fold, space before the colon, bare CR, unknown version, bad chunk size | 400, connection closed |
//! | Content-Length and Transfer-Encoding together, any coding besides one chunked | 400, connection closed |
//! | Content-Lengths that differ, Transfer-Encoding not ending in chunked, Transfer-Encoding in HTTP/1.0 | 400, connection closed |
//! | bare LF line ends | accepted; what goes upstream is written anew with CRLF |
//! | pipelined requests | answered in order |
//! | header block over [`Limits::header_bytes`] or [`Limits::header_fields`] | 431, connection closed |
//! | hop-by-hop fields, and what Connection nominates | stripped both ways; `TE: trailers` is asked anew |
//! | Upgrade | passed as a tunnel unless it has a body, names h2c or is HTTP/1.0; then stripped |
//! | Expect: 100-continue | passed on; the body follows the upstream's 100, or [`Limits::continue_wait`]; other expectations are stripped |
//! | an answer before the end of the request's body | passed on, the connection closed [`Limits::linger`] after it |
//! | 1xx answers other than 100 and 101 | passed on as they come, 64 at most; not to HTTP/1.0 |
//! | a target that is no path, or has a scheme besides http and https | 400 (`plan`) |
//! | fields that only a proxy may send ([`Policy::trusted_proxies`]): X-Forwarded-*, Forwarded, X-Real-IP, X-Original-URL and the like | from others removed |
//! | Proxy; X_Forwarded_For and others that are spelled with `_` and mean one of ours, or one that frames | removed |
//! | X-Request-Id | replaced (`request_id`) |
//! | trailers that frame, concern a hop or are one of these | removed |
//! | 204 with a length, 205 with a body | passed without, the pod's connection not used again |
//! | trailers | passed when announced by `Trailer` (and, towards the client, asked for by `TE: trailers`) |

#![forbid(unsafe_code)]

mod context;
#[cfg(test)]
mod differential;
mod downstream;
mod pod_key;
mod policy;
mod request;
mod routing;
mod server;
mod telemetry;
mod time;
mod upstream;
mod wire;

pub use downstream::tls::{CertificateError, CertificateFiles, Certificates, KeyKind, TlsConfig};
pub use pod_key::{ParsePodKeyError, PodKey};
pub use policy::limits::Limits;
pub use policy::trust::{PodNetworks, Policy, UpstreamPolicy};
pub use routing::table::{RouteTable, Upstream};
pub use routing::tombstones::WithdrawReason;
pub use server::edge::{Edge, EdgeConfig, Prepared, Pulse, StartError};
pub use server::listen::{Inherited, ListenError};
pub use telemetry::access::{AccessFormat, AccessLog};
pub use telemetry::traffic::PodTraffic;
