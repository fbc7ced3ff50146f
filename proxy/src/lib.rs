//! The door of a Codius host: everything that arrives from the public internet passes here.
//!
//! pingora is the frame (server, runtimes, listeners); HTTP/1 is the crate's own, HTTP/2 hyper's. The crate knows
//! hosts and upstreams and nothing of money or pods: a [`RouteTable`] says which pod is where, and every other host name
//! belongs to the control plane behind a unix socket.
//!
//! # The walk of a request, and the map of this crate
//!
//! ```text
//! edge     the pingora services: worker threads, drain
//!  listen  their sockets, bound or inherited
//!  accept  one connection: is there room, what does it speak
//!  proxied whose it is, when a proxy passes it on         (proxy_protocol: pure)
//!  tls     handshake, certificates by name, what https means for a request
//!  conn    one client connection: what its requests share
//!  http1   HTTP/1 of clients and upstreams, in one task per client
//!   wire      heads and chunks, read and written                 (pure)
//!  h2      HTTP/2 of clients: many requests at once, by hyper
//!   forward   one of them: the list of steps below, and the retry
//!    host       Host header -> pod key or control plane         (pure)
//!    gate       counts who comes, by what admit allows          (admit: pure)
//!    route      pod key -> upstream, idle connections included
//!    headers    what is stripped, what is set, of HTTP/2        (pure)
//!    upstream   connect, and one upstream's idle connections    (on a shelf)
//!    hearing    an upstream's bytes: its answer is read even when it takes no more
//!    body       bytes both ways, never collected
//!    rescue     the one table from failure to answer            (pure)
//!    gone       why a pod that was here is not                  (pure)
//! limits   every number that bounds something
//! policy   whom is believed, counted and connected to
//! metrics  counters with closed labels
//! request_id  the number a request is known by
//! visit    what is counted and logged of one request
//! traffic  what is counted of one pod
//! pace     how fast a client takes what it is sent
//! outlet   when what hyper was given has left
//! access   the access log
//! ```
//!
//! # Posture towards odd HTTP/1 (`wire` unless noted)
//!
//! | seen | done |
//! |---|---|
//! | no Host in HTTP/1.1, two Hosts, Host with user info or bad characters, Host unlike an absolute target | 400 (`host`) |
//! | absolute-form target | rewritten to origin-form |
//! | `"<>{}\|^`, a backtick and UTF-8 in a target | passed on as they are; bytes that aren't UTF-8: 400 |
//! | CONNECT, TRACE | 405 (`host`) |
//! | Host unlike the server name of the TLS handshake | 421 (`tls`) |
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
//! | 1xx answers other than 100 and 101 | passed on as they come, 64 at most; not to HTTP/1.0, nor over HTTP/2 |
//! | a target that is no path, or has a scheme besides http and https | 400 (`host`) |
//! | fields that only a proxy may send ([`Policy::trusted_proxies`]): X-Forwarded-*, Forwarded, X-Real-IP, X-Original-URL and the like | from others removed (`headers`) |
//! | Proxy; X_Forwarded_For and others that are spelled with `_` and mean one of ours, or one that frames | removed (`headers`) |
//! | X-Request-Id | replaced (`request_id`) |
//! | trailers that frame, concern a hop or are one of these | removed (`headers`) |
//! | 204 with a length, 205 with a body | passed without, the pod's connection not used again (`headers`) |
//! | trailers | passed when announced by `Trailer` (and, towards the client, asked for by `TE: trailers`) |

#![forbid(unsafe_code)]

mod accept;
mod access;
mod admit;
mod clock;
mod conn;
mod edge;
mod gate;
mod gone;
mod host;
mod http1;
mod http2;
mod idle;
mod limits;
mod listen;
mod metrics;
mod pace;
mod policy;
mod proxied;
mod proxy_protocol;
mod request;
mod request_id;
mod rescue;
mod route;
mod shelf;
mod socket;
mod tls;
mod traffic;
mod upstream;
mod via;
mod visit;
mod wire;

pub use access::{AccessFormat, AccessLog};
pub use edge::{Edge, EdgeConfig, Prepared, Pulse, StartError};
pub use gone::Gone;
pub use limits::Limits;
pub use listen::{Inherited, ListenError};
pub use policy::{Network, ParseNetworkError, PodNetworks, Policy, UpstreamPolicy, refuses_port};
pub use route::{ParsePodKeyError, PodKey, RouteTable, Upstream};
pub use tls::{CertificateError, CertificateFiles, Certificates, KeyKind, TlsConfig};
pub use traffic::PodTraffic;
