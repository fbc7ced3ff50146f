//! The embedded connector: what `moneyd local` is for development, inside the host. Any token opens an account, nothing is
//! ever settled, and there is no credit limit.
//!
//! | room | what is in it |
//! |---|---|
//! | [`server`] | WebSockets: handshake, authentication, who is connected |
//! | [`router`] | from a child to the host's receiver, to another child, or back with a code |

pub mod router;
pub mod server;
