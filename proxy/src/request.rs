//! One request, from its head to the last byte of its answer, whatever its client speaks.
//!
//! | file | what it does |
//! |---|---|
//! | `plan` | what is done about a request, decided from its head alone |
//! | `host`, `https`, `target` | whom it is for, whether over the right connection, and its upstream |
//! | `send` | it is sent, and once more if nobody can tell |
//! | `transfer` | both directions of it, polled together |
//! | `upload`, `download` | each direction |
//! | `client` | what they need of the client's side: HTTP/1 and HTTP/2 have one each |
//! | `exchange` | what there is to know for that, and how it ends |
//! | `error_response` | the one table from failure to answer |
//! | `visit` | what is counted and logged of it |

use std::pin::pin;
use std::task::Context;

pub(crate) mod client;
pub(crate) mod download;
pub(crate) mod error_response;
pub(crate) mod exchange;
pub(crate) mod host;
pub(crate) mod https;
pub(crate) mod plan;
pub(crate) mod send;
pub(crate) mod target;
pub(crate) mod transfer;
pub(crate) mod upload;
pub(crate) mod visit;

/// Bytes of most heads.
pub(crate) const HEAD_ROOM: usize = 512;
/// Bytes that are read at once of what is mostly small.
pub(crate) const READ_SMALL: usize = 8 * 1024;
/// Bytes that are read at once of a body.
pub(crate) const READ_LARGE: usize = 64 * 1024;
/// Bytes of content that are kept for a side until it takes them.
pub(crate) const ENCODED: usize = 64 * 1024;
/// Bytes of one body that are sent before others have a turn.
const TURN: usize = 64 * 1024;

/// Gives others a turn: this task goes on after the sockets were asked again what has come. Woken in the usual way it would be the next one,
/// for many turns, as long as nobody else is known to have something to do.
fn give_way(cx: &mut Context<'_>) {
    // Ready only when it is asked again, which is when this task is.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
