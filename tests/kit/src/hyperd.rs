//! A double of hyperd 1.1.0, and how tests hold it.
//!
//! It answers as hyperd was recorded to (`tests/hyperd_recordings.rs` compares), and its pods are real: processes in a network
//! namespace of their own, reachable from this machine at their address, that run on when the daemon is killed.
//!
//! | module | what is in it |
//! |---|---|
//! | [`Hyperd`] `claim` | the double as a test holds it, and its network |
//! | `cli` | command lines: the daemon, a machine, a container |
//! | `daemon` `state` | the daemon, what it knows, what it keeps |
//! | `server` `routes` `answer` `faults` | HTTP, calls, wording, what goes wrong on purpose |
//! | `spec` `create` `pods` `shown` | pods: asked for, made, treated, shown |
//! | `images` `registry` `tar` `rootfs` | images, and what is in them |
//! | `logs` `clock` | logs, and times as hyperd writes them |
//! | `machine` `frames` `vm` `supervisor` `container` `net` | machines: from the daemon's side, and from inside |

mod answer;
mod claim;
mod cli;
mod clock;
mod container;
mod create;
mod daemon;
mod faults;
mod frames;
mod handle;
mod images;
mod logs;
mod machine;
mod net;
mod pods;
mod registry;
mod rootfs;
mod routes;
mod server;
mod shown;
mod spec;
mod state;
mod supervisor;
mod tar;
mod vm;

pub use handle::{Hyperd, HyperdBuilder, Unkind, binary, send};

/// The double's `main`.
pub fn double() -> std::process::ExitCode {
    cli::main()
}
