//! Logs: to standard error, one line each, as text or JSON.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing_subscriber::{Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::{Config, LogFormat};

/// What is logged. There is one log of the process, as there is one standard error.
static CHOSEN: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging; panics are lines of the log from now on.
pub(crate) fn start(config: &Config) {
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let (filter, handle) = reload::Layer::new(config.log.clone());
    let chosen = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Json => chosen.with(lines.json()).init(),
        LogFormat::Text => chosen.with(lines).init(),
    }
    codiusd_supervisor::report_panics();
    // Whoever starts logging twice has been stopped by `init`.
    let _ = CHOSEN.set(handle);
}

/// Logs something else from now on.
pub(crate) fn choose(log: Targets) -> Result<(), reload::Error> {
    CHOSEN.get().map_or(Ok(()), |chosen| chosen.reload(log))
}

/// What is logged now.
pub(crate) fn chosen() -> Option<String> {
    CHOSEN.get()?.with_current(Targets::to_string).ok()
}
