//! HTTP/2 of clients, on the h2 crate: all requests of a connection, and the connections to their upstreams, in one task, so that many small
//! answers leave in one write.
//!
//! | file | what it does |
//! |---|---|
//! | `serve` | the loop of a connection: its requests, its deadlines, its end |
//! | `stream` | its socket: paced, and closed only when its client has ended |
//! | `flow` | what its requests and its socket know of each other |
//! | `answer` | one request, from its head to the last byte of its answer |
//! | `client` | the client's side of it |

mod answer;
mod client;
mod flow;
pub(crate) mod serve;
mod stream;
