//! `codiusd serve`: runs a host until a stop signal; a second one ends it at once. SIGHUP reloads its certificates and reopens its
//! access log.

#[cfg(debug_assertions)]
mod faults;

use std::process::ExitCode;

use codiusd_proxy::Inherited;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, failure, usage};
use crate::{
    app::App,
    config::Config,
    logging,
    sd_notify::{Manager, Phase},
    socket_activation,
};

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    // Before anything else: no other file may take their descriptor numbers, and there is only one thread yet.
    let inherited = match socket_activation::inherited() {
        Ok(inherited) => inherited,
        Err(error) => return failure(&error),
    };
    let config = match args.settings() {
        Ok((_, config)) => config,
        Err(error) => return usage(&error),
    };
    logging::start(&config);
    let runtime = match office_runtime(config.control_threads) {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error),
    };
    let ended = runtime.block_on(async {
        let mut signals = match StopSignals::new() {
            Ok(signals) => signals,
            Err(error) => return Some(failure(&error)),
        };
        let stop = CancellationToken::new();
        let told_twice = async {
            signals.received().await;
            stop.cancel();
            signals.received().await;
        };
        tokio::select! {
            code = serve(&config, inherited, &stop) => Some(code),
            () = told_twice => None,
        }
    });
    let code = ended.unwrap_or_else(|| {
        tracing::warn!("second stop signal: exiting now, requests in flight are aborted");
        ExitCode::FAILURE
    });
    // Doesn't wait for threads that still run.
    runtime.shutdown_background();
    code
}

/// Runs a host from its start until it has stopped.
async fn serve(config: &Config, inherited: Vec<Inherited>, stop: &CancellationToken) -> ExitCode {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return failure(&error),
    };
    #[cfg(debug_assertions)]
    let faults = match faults::Faults::listen(&config.root) {
        Ok(faults) => faults,
        Err(error) => return failure(&error),
    };
    let manager = Manager::of_this_process();
    manager.say(Phase::Starting).await;
    let app = match App::start(config, inherited).await {
        Ok(app) => app,
        Err(error) => return failure(&error),
    };
    let (uri, pulse) = (app.public_uri().to_string(), app.pulse());
    manager.say(Phase::Serving(&uri)).await;
    // A task of the control plane, so that it also proves that the control plane runs; ends with this function.
    let mut watch = JoinSet::new();
    let supervisor = app.supervisor().clone();
    let watched = manager.clone().watch(move || {
        let pulse = pulse.clone();
        async move { pulse.felt().await }
    });
    watch.spawn(supervisor.service("watchdog", watched));
    #[cfg(debug_assertions)]
    watch.spawn(faults.inject(supervisor.clone()));
    tracing::info!(listen = %app.address(), tls = ?app.tls_addresses(), uri = %app.public_uri(), connector = ?app.connector(), "host is up");
    let code = loop {
        tokio::select! {
            () = stop.cancelled() => break ExitCode::SUCCESS,
            _ = app.failed() => break ExitCode::FAILURE,
            _ = hangup.recv() => {
                manager.say(Phase::Reloading).await;
                app.reload();
                manager.say(Phase::Serving(&uri)).await;
            }
        }
    };
    manager.say(Phase::Stopping).await;
    tracing::info!(
        "stopping: finishing requests in flight; pods {}",
        if config.stop_pods_at_exit { "are stopped" } else { "keep running" }
    );
    app.drain().await;
    // Includes failures while the host was stopping.
    if supervisor.failure().is_some() { ExitCode::FAILURE } else { code }
}

/// The control plane's own runtime: a slow image download must not delay a request at the edge, which has threads of its own.
pub(super) fn office_runtime(threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().thread_name("control").worker_threads(threads).enable_all().build()
}

/// The runtime of a command that sends requests to a host.
pub(super) fn command_runtime() -> std::io::Result<Runtime> {
    office_runtime(2)
}

/// SIGTERM and Ctrl-C.
pub(super) struct StopSignals(Signal, Signal);

impl StopSignals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}
