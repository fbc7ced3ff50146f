//! One request, from its head to the last byte of its answer, whatever its client speaks.
//!
//! | file | what it does |
//! |---|---|
//! | `plan` | what is done about a request, decided from its head alone |
//! | `target` | its upstream, and which faults that one's failures are |
//! | `send` | it is sent, and once more if nobody can tell |
//! | `transfer` | both directions of it, polled together |
//! | `upload`, `download` | each direction |
//! | `client` | what they need of the client's side: HTTP/1 and HTTP/2 have one each |

pub(crate) mod client;
pub(crate) mod download;
pub(crate) mod plan;
pub(crate) mod send;
pub(crate) mod target;
pub(crate) mod transfer;
pub(crate) mod upload;

/// Bytes that are read at once of what is mostly small.
pub(crate) const READ_SMALL: usize = 8 * 1024;
/// Bytes that are read at once of a body.
pub(crate) const READ_LARGE: usize = 64 * 1024;
/// Bytes of content that are kept for a side until it takes them.
pub(crate) const ENCODED: usize = 64 * 1024;
/// Bytes of one body that are sent before others have a turn.
const TURN: usize = 256 * 1024;
