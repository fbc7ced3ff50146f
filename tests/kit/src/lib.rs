//! Starts whole hosts and the tools they are tested with.
//!
//! | module | what is in it |
//! |---|---|
//! | [`host`] | a codiusd of its own: process, files, addresses, clean-up |
//! | [`internet`] | machines in network namespaces, with public addresses and names |
//! | [`host_slot`] | which pod subnet it may use, and how many run at once |
//! | [`upload`] | manifests to upload |
//! | [`web`] | HTTP and WebSocket to the edge, under any Host |
//! | [`payer`] | requests that are paid for |
//! | [`books`] | what a host wrote down about money |
//! | [`traces`] | what pods are to the machine, from outside |
//! | [`javascript`] | moneyd, the codius CLI and ilp-fetch |
//! | [`hyperd`] | a double of hyperd, with pods that are real |
//! | [`machine`] | a machine of its own, with systemd, to install things on |
//! | [`process`] [`wait`] | children with a log, waits with a deadline |
//!
//! Whatever goes wrong here panics with what was being done: that is a failed test. A wait says what it waited for.

pub mod books;
pub mod host;
pub mod host_slot;
pub mod hyperd;
pub mod internet;
pub mod javascript;
pub mod machine;
pub mod payer;
pub mod process;
pub mod traces;
pub mod upload;
pub mod wait;
pub mod web;

pub use host::{Host, HostBuilder};
pub use hyperd::{Hyperd, HyperdBuilder};
pub use internet::{Internet, NetMachine};
pub use javascript::{CodiusCli, IlpFetch, Moneyd, StreamSender};
pub use machine::Machine;
pub use payer::Payer;
pub use upload::Upload;
pub use wait::{in_time, until};
