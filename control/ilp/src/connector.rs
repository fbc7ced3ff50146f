//! The embedded connector for development, inside the host, comparable to `moneyd local`. Any token opens an account, nothing is
//! ever settled, and there is no credit limit.
//!
//! | module | what is in it |
//! |---|---|
//! | [`server`] | WebSockets: handshake, authentication, connected accounts |
//! | [`router`] | routes a child's packet to the host's receiver or to another child, or rejects it |

pub mod router;
pub mod server;
