//! The hall of codiusd: the only code that sees both the front door and the office.
//!
//! | room | what is in it |
//! |---|---|
//! | [`config`] | file and environment -> typed settings |
//! | [`app`] | builds and connects everything, top to bottom |
//! | `admin` | the operator's listener: metrics |
//! | `bridge` | the office's pods -> the front door's routes |
//! | `causes` | errors with what has caused them, for people |
//! | [`figures`] | what the whole host counts, for Prometheus |
//! | `notify` | tells systemd how it stands with the host |
//! | `open_files` | how many files the process may open |
//! | [`self_test`] | the host as a stranger sees it |
//! | `sockets` | listening sockets from systemd |
//! | `ready` | tells others that (and where) the host is up |
//! | `telemetry` | logs |
//! | `doctor` | what a host needs and doesn't have |
//! | `cmd` | the command line |
//! | [`client`] | our own client: uploads, extensions, logs, payments |
//! | [`demo_image`] | the image of the demo page |
#![forbid(unsafe_code)]

mod admin;
pub mod app;
mod bridge;
mod causes;
pub mod client;
mod cmd;
pub mod config;
pub mod demo_image;
mod doctor;
pub mod figures;
mod notify;
mod open_files;
mod ready;
pub mod self_test;
mod sockets;
mod telemetry;

pub use cmd::run;
