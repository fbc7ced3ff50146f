//! The Bilateral Transfer Protocol 2.0 (RFC 23): ILP packets between two neighbours over a WebSocket.
//!
//! | module | what is in it |
//! |---|---|
//! | [`codec`] | frames as bytes |
//! | [`session`] | one WebSocket: requests and their responses, both ways |
//! | [`client`] | connecting to a server: URL, authentication |

pub mod client;
pub mod codec;
pub mod session;
