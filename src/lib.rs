//! The hall of codiusd: the only code that sees both the front door and the office.
//!
//! | room | what is in it |
//! |---|---|
//! | [`config`] | file and environment -> typed settings |
//! | [`app`] | builds and connects everything, top to bottom |
//! | `admin` | the operator's listener: metrics |
//! | `bridge` | the office's pods -> the front door's routes |
//! | `open_files` | how many files the process may open |
//! | [`self_test`] | the host as a stranger sees it |
//! | `sockets` | listening sockets from systemd |
//! | `ready` | tells others that (and where) the host is up |
//! | `telemetry` | logs |
//! | `cmd` | the command line |
//! | [`client`] | our own client: uploads, extensions, logs, payments |
//! | [`demo_image`] | the image of the demo page |
#![forbid(unsafe_code)]

mod admin;
pub mod app;
mod bridge;
pub mod client;
mod cmd;
pub mod config;
pub mod demo_image;
mod open_files;
mod ready;
pub mod self_test;
mod sockets;
mod telemetry;

pub use cmd::run;
