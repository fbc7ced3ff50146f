//! Interledger for a host: packets, BTP, IL-DCP, STREAM, and a small connector.
//!
//! | room | what is in it |
//! |---|---|
//! | [`oer`] | length prefixes and integers, the alphabet of the formats below |
//! | [`address`] [`packet`] | ILPv4: Prepare, Fulfill, Reject (RFC 15, 27) |
//! | [`btp`] | packets between two neighbours over WebSocket (RFC 23): codec, session, client |
//! | [`ildcp`] | asking one's parent for address and asset (RFC 31) |
//! | [`stream`] | paying a total in packets (RFC 29): codec, receiver, sender |
//! | [`link`] | whatever takes a Prepare and answers |
//! | [`uplink`] | the connection to the parent connector |
//! | [`connector`] | the embedded connector, for development |
//! | [`service`] | one of the two, as the host uses it |
//!
//! Bytes from outside go through the decoders only; those never panic and never allocate more than they were sent.
#![forbid(unsafe_code)]

pub mod address;
pub mod btp;
pub mod connector;
pub mod ildcp;
pub mod link;
pub mod oer;
pub mod packet;
pub mod service;
pub mod stream;
pub mod uplink;
