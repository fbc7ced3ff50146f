//! STREAM (RFC 29): paying a total in encrypted packets.
//!
//! | room | what is in it |
//! |---|---|
//! | [`frame`] [`packet`] | packets and frames as bytes |
//! | [`crypto`] | the shared secret and what is derived from it |
//! | [`ledger`] | who keeps the money, and when an amount is accepted |
//! | [`receiver`] | being paid |
//! | [`sender`] | paying |

pub mod crypto;
pub mod frame;
pub mod ledger;
pub mod packet;
pub mod receiver;
pub mod sender;
