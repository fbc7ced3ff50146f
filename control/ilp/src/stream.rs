//! STREAM (RFC 29): paying a total in encrypted packets.
//!
//! | module | what is in it |
//! |---|---|
//! | [`frame`] [`packet`] | packets and frames as bytes |
//! | [`crypto`] | the shared secret and what is derived from it |
//! | [`credit_sink`] | the ledger of received money, and when an amount is accepted |
//! | [`receiver`] | receives payments |
//! | [`sender`] | sends payments |

pub mod credit_sink;
pub mod crypto;
pub mod frame;
pub mod packet;
pub mod receiver;
pub mod sender;
