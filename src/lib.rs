//! The composition root of codiusd: the only code that imports both the edge and the control plane.
//!
//! | module | what is in it |
//! |---|---|
//! | `cmd` | the command line |
//! | [`app`] | builds and connects all components, and shuts them down |
//! | `admin` | the operator's listener: JSON, metrics, a page |
//! | `doctor` | checks what a host needs and what is missing |
//! | `runtimes` | what the host has to know of each runtime |
//! | [`self_test`] | the host tests itself from a visitor's view |
//! | [`client`] | a client: uploads, extensions, logs, payments |
//! | [`host_snapshot`] | the state of the whole host at a moment |
//! | [`host_metrics`] | metrics of the whole host, for Prometheus |
//! | `edge_routes` | turns pods of the control plane into routes of the edge |
//! | [`config`] | file and environment -> typed settings |
//! | [`demo_image`] | the image of the demo page |
//! | `socket_activation`, `sd_notify` | systemd: inherited sockets, readiness and watchdog |
//! | `ready_file` | tells other processes that the host is up, and where |
//! | `open_files` | how many files the process may open |
//! | `logging` | the log |
//! | `finding` | results of `codiusd doctor` |
//! | `lock_file` | a file that one process locks |
//! | `error_chain` | an error with its causes, in one line |
#![forbid(unsafe_code)]

mod admin;
pub mod app;
pub mod client;
mod cmd;
pub mod config;
pub mod demo_image;
mod doctor;
mod edge_routes;
mod error_chain;
mod finding;
pub mod host_metrics;
pub mod host_snapshot;
mod lock_file;
mod logging;
mod open_files;
mod ready_file;
mod runtimes;
mod sd_notify;
pub mod self_test;
mod socket_activation;

pub use admin::admin_openapi;
pub use cmd::{command_reference, run};
