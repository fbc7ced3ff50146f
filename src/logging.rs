//! Logs: to standard error, one line each, as text or JSON.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing_subscriber::{Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::{Config, LogFormat};

/// The handle to the log filter. A process has one log, as it has one standard error.
static CHOSEN: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging; from now on panics are logged too.
pub(crate) fn start(config: &Config) {
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let (filter, handle) = reload::Layer::new(config.log.clone());
    let chosen = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Json => chosen.with(lines.json()).init(),
        LogFormat::Text => chosen.with(lines).init(),
    }
    codiusd_supervisor::report_panics();
    // Starting twice has already panicked in `init`.
    let _ = CHOSEN.set(handle);
}

/// Changes the log filter.
pub(crate) fn choose(log: Targets) -> Result<(), reload::Error> {
    CHOSEN.get().map_or(Ok(()), |chosen| chosen.reload(log))
}

/// The current log filter.
pub(crate) fn chosen() -> Option<String> {
    CHOSEN.get()?.with_current(Targets::to_string).ok()
}
