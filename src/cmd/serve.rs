//! `codiusd serve`: a host, until it is told to stop; told twice, it ends at once. SIGHUP has it read its certificates, and open its
//! access log, again.

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
    notify::{Manager, Phase},
    sockets, telemetry,
};

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    // First of all: nothing else may come to have their numbers, and there is one thread.
    let inherited = match sockets::inherited() {
        Ok(inherited) => inherited,
        Err(error) => return failure(&error),
    };
    let config = match args.settings() {
        Ok((_, config)) => config,
        Err(error) => return usage(&error),
    };
    telemetry::start(&config);
    let runtime = match office_runtime() {
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
        tracing::warn!("told to stop again: ending at once, requests under way are cut off");
        ExitCode::FAILURE
    });
    // Nobody waits for the threads that are still at it.
    runtime.shutdown_background();
    code
}

/// A host, from its start until it has stopped.
async fn serve(config: &Config, inherited: Vec<Inherited>, stop: &CancellationToken) -> ExitCode {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
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
    // By a task of the office, so that it lives, too; ends with this function.
    let mut watch = JoinSet::new();
    let supervisor = app.supervisor().clone();
    let watched = manager.clone().watch(move || {
        let pulse = pulse.clone();
        async move { pulse.felt().await }
    });
    watch.spawn(supervisor.service("watchdog", watched));
    tracing::info!(listen = %app.address(), tls = ?app.tls_addresses(), uri = %app.public_uri(), connector = ?app.connector(), "the host is up");
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
    tracing::info!("stopping: requests under way are finished, pods {}", if config.stop_pods_at_exit { "are stopped" } else { "run on" });
    app.drain().await;
    // Also if that happened while the host was stopping.
    if supervisor.failure().is_some() { ExitCode::FAILURE } else { code }
}

/// The office's own runtime: a slow image download must not delay a request at the front door, which has threads of its own.
pub(super) fn office_runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().thread_name("office").worker_threads(2).enable_all().build()
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
