//! Logs: to standard error, one line each, as text or JSON.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

/// What is logged if RUST_LOG doesn't say: our own doings, and what others think is worth a warning.
const DEFAULT: &str = "warn,codiusd=info,codiusd_control=info,codiusd_ilp=info,codiusd_proxy=info,codiusd_runtime=info";

/// Starts logging. `CODIUS_LOG_FORMAT=json` is for machines that read logs; RUST_LOG chooses what is logged.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    if std::env::var("CODIUS_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.init();
    }
}
