//! The pingora services: one for each kind of listener (plain or TLS, with PROXY protocol or without), each with a runtime of its own
//! and the accept loops of its sockets. The first one also has the chores.

use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use codiusd_supervisor::{Cause, Supervisor};
use futures::future::join_all;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::context::shared::Shared;
use crate::downstream::tls::Certificates;
use crate::server::accept::Acceptor;
use crate::server::listen::Listener;
use crate::time::timers::Moment;

/// The name of the accept loops.
const LISTENERS: &str = "edge listeners";
/// How often it is looked whether certificate files have changed.
const CERTIFICATES_LOOK: Duration = Duration::from_secs(2);

/// Listeners of one kind, and who accepts their connections.
pub(super) struct Listening {
    name: &'static str,
    acceptor: Arc<Acceptor>,
    listeners: Vec<Listener>,
    stopping: ShutdownWatch,
    /// Until it accepts no more; each connection has one of its own from the accept on, so the drain can't miss one.
    tracked: Option<TaskTrackerToken>,
    pub(super) chores: Vec<Chore>,
    /// Where the service says what it runs on.
    pub(super) runtimes: Arc<std::sync::Mutex<Vec<Handle>>>,
    pub(super) supervisor: Supervisor,
}

impl Listening {
    /// Those with PROXY protocol, and those without.
    pub(super) fn of_kind(
        name: &'static str,
        listeners: Vec<Listener>,
        shared: &Arc<Shared>,
        tls: Option<&TlsAcceptor>,
        stopping: &ShutdownWatch,
    ) -> Vec<Listening> {
        let (proxied, direct): (Vec<_>, Vec<_>) = listeners.into_iter().partition(|listener| listener.proxied);
        let sorted = [(proxied, true), (direct, false)].into_iter().filter(|(listeners, _)| !listeners.is_empty());
        let listening = |(listeners, proxied)| Listening {
            name,
            acceptor: Arc::new(Acceptor::new(Arc::clone(shared), tls.cloned(), proxied)),
            listeners,
            stopping: stopping.clone(),
            tracked: Some(shared.tasks.token()),
            chores: Vec::new(),
            runtimes: Arc::default(),
            supervisor: Supervisor::default(),
        };
        sorted.map(listening).collect()
    }

    /// Accepts until it is told to stop.
    async fn accept(&mut self) -> io::Result<()> {
        let _tracked = self.tracked.take();
        let listeners: io::Result<Vec<TcpListener>> =
            self.listeners.drain(..).map(|listener| TcpListener::from_std(listener.socket)).collect();
        join_all(listeners?.into_iter().map(|listener| self.acceptor.accept(listener, self.stopping.clone()))).await;
        Ok(())
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

#[async_trait]
impl Service for Listening {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).push(Handle::current());
        for chore in self.chores.drain(..) {
            match chore {
                Chore::Tidy(shared) => self.supervisor.spawn_job("idle upstream connections", tidy(shared, shutdown.clone())),
                Chore::Certificates(certificates) => self.supervisor.spawn_job("certificates", look_after(certificates, shutdown.clone())),
            };
        }
        let supervisor = self.supervisor.clone();
        let accept = async {
            if let Err(error) = self.accept().await {
                tracing::error!(%error, "listening socket failed");
                self.supervisor.fail(LISTENERS, Cause::Ended);
            }
        };
        supervisor.job(LISTENERS, accept).await;
    }

    fn name(&self) -> &str {
        self.name
    }
}

/// What is to be done now and then, as long as the server runs.
pub(super) enum Chore {
    Tidy(Arc<Shared>),
    Certificates(Arc<Certificates>),
}

/// Closes upstream connections that have been idle too long, until the server stops.
async fn tidy(shared: Arc<Shared>, mut shutdown: ShutdownWatch) {
    let age = shared.limits.idle_upstream_timeout;
    let mut ticks = tokio::time::interval((age / 4).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let now = Moment::now();
                shared.control.reap(now, age);
                shared.routes.for_each_route(|route| route.reap(now, age));
            }
            _ = shutdown.changed() => return,
        }
    }
}

/// Reads certificates again when their files have changed, until the server stops.
async fn look_after(certificates: Arc<Certificates>, mut shutdown: ShutdownWatch) {
    let mut ticks = tokio::time::interval(CERTIFICATES_LOOK);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let certificates = Arc::clone(&certificates);
                if tokio::task::spawn_blocking(move || certificates.refresh_if_changed()).await.is_err() {
                    tracing::error!("certificate watcher failed; certificates in use stay");
                }
            }
            _ = shutdown.changed() => return,
        }
    }
}
