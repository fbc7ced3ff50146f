//! Interledger for a host: packets, BTP, IL-DCP, STREAM, and a small connector.
//!
//! | module | what is in it |
//! |---|---|
//! | [`oer`] | length prefixes and integers, the alphabet of the formats below |
//! | [`address`] [`packet`] | ILPv4: Prepare, Fulfill, Reject (RFC 15, 27) |
//! | [`btp`] | packets between two neighbours over WebSocket (RFC 23): codec, session, client |
//! | [`ildcp`] | asking the parent connector for address and asset (RFC 31) |
//! | [`stream`] | paying a total in packets (RFC 29): codec, receiver, sender |
//! | [`link`] | anything that takes a Prepare and returns a reply |
//! | [`uplink`] | the connection to the parent connector |
//! | [`connector`] | the embedded connector, for development |
//! | [`service`] | the host's connection: uplink or embedded connector |
//!
//! Bytes from outside are parsed by the decoders only; these never panic and never allocate more than the input's size.
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
