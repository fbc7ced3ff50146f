//! What there is to know of one request on one connection to its upstream, and how it ends.

use std::sync::Arc;

use crate::context::conn::Conn;
use crate::request::plan::{Facts, Plan};

/// How it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// The answer is out.
    Done {
        upstream_is_reusable: bool,
        /// All of the request has gone to the upstream.
        request_is_complete: bool,
    },
    /// The upstream has switched protocols, and the client was told so.
    Switched,
    /// The answer broke off; what came of it is out.
    Cut,
    /// The client left.
    Left,
    /// The upstream has ended without an answer, or with half a head of one.
    Lost {
        answer_began: bool,
        /// It was sent something of the request.
        was_sent: bool,
    },
}

/// What there is to know for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) conn: &'a Arc<Conn>,
    pub(crate) plan: &'a Plan,
    pub(crate) facts: Facts,
}
