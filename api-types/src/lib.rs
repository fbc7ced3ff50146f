//! What codiusd's HTTP APIs answer, once for the host that writes it and the clients that read it.
//!
//! | module | what is in it |
//! |---|---|
//! | [`pods`] | quotes and receipts of the public API |
//! | [`error`] | errors of both APIs |
//! | [`admin`] | the operator's API: status, pods, bans, self-test |
#![forbid(unsafe_code)]

pub mod admin;
pub mod error;
pub mod pods;
