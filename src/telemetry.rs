//! Logs: to standard error, one line each, as text or JSON.

use std::io::{self, IsTerminal};

use tracing_subscriber::{fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Config, LogFormat};

/// Starts logging.
pub(crate) fn start(config: &Config) {
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let chosen = tracing_subscriber::registry().with(config.log.clone());
    match config.log_format {
        LogFormat::Json => chosen.with(lines.json()).init(),
        LogFormat::Text => chosen.with(lines).init(),
    }
}
