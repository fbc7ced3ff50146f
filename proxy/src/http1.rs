//! HTTP/1.1 of clients and of upstreams, in one task per client connection.
//!
//! | room | what it does |
//! |---|---|
//! | `serve` | the loop of a client connection: wait, read a head, answer it, again |
//! | `plan` | what is done about a request, decided from its head alone |
//! | `answer` | one request, from its plan to the last byte of its answer |
//! | `transfer` | both directions of one request on two sockets, polled together |
//! | `upload`, `download` | each direction |
//! | `socket` | connections to upstreams |
//! | `tunnel` | what is left when a request has switched protocols |

mod answer;
mod download;
mod plan;
pub(crate) mod serve;
pub(crate) mod socket;
mod transfer;
mod tunnel;
mod upload;

/// Bytes that are read at once of what is mostly small.
const READ_SMALL: usize = 8 * 1024;
/// Bytes that are read at once of a body.
const READ_LARGE: usize = 64 * 1024;
/// Bytes of chunks that are written anew before they are sent.
const ENCODED: usize = 64 * 1024;
/// Bytes of one body that are sent before others have a turn.
const TURN: usize = 256 * 1024;
