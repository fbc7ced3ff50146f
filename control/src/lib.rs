//! The control plane: uploads, payments, pods and their expiry. Independent of the edge.
//!
//! From the top layer down; a module imports only from its own layer and those below (`tests/tidy/floors.rs`).
//!
//! | module | what is in it |
//! |---|---|
//! | `persistence` | the schema of the database, and its content at start |
//! | `api` | the HTTP API |
//! | `paid_requests` | a paid request, from its Pay-Token to its receipt |
//! | `pods` | a pod's life: start, extension, expiry, exit, recovery |
//! | `operator` | what the operator changes while the host runs: price, bans, drain |
//! | `money` | prices, invoices, and what each payment can still be used for |
//! | `manifest` | untrusted bytes -> manifest, hash, pod spec |
//! | `peers` | other hosts |
//! | `capacity` | how much of the machine pods hold, and whether one more fits |
//! | `pod_sizes` | the sizes of pods this host sells |
//! | `workload` | an upload, ready to run |
//! | `db` | the SQLite file and the thread that writes it |
//! | `html` | helpers for self-contained pages |
//! | `factor` | exact factors |
//! | `clock` | time as an input |
//! | `request_log` | records which invoice pays for a request, for its log lines |
#![forbid(unsafe_code)]

pub mod api;
pub mod capacity;
pub mod clock;
pub mod db;
pub mod factor;
pub mod html;
pub mod manifest;
pub mod money;
pub mod operator;
pub mod paid_requests;
pub mod peers;
pub mod persistence;
pub mod pod_sizes;
pub mod pods;
mod request_log;
pub mod workload;
