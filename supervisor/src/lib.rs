//! Supervises background tasks: reports when one of them ends. Every crate with tasks uses it; it depends on none of them.
//!
//! | what | when it panics | when it returns |
//! |---|---|---|
//! | a service ([`Supervisor::service`]): one of its kind, runs until the process stops | the process ends | the process ends |
//! | a job ([`Supervisor::job`]), or a thread ([`Supervisor::thread`]): changes pods or money, or runs until its owner stops it | the process ends | as expected |
//! | a change of state behind a [`StateLock`], in any task | the process ends, and nothing more is written to the database | |
//! | anything else, such as a task that serves one client ([`isolated`]) | only it ends; logged and counted ([`panics()`]) | as expected |
//!
//! Tasks that serve clients belong in the last row, or a request that makes a parser panic would end the host. A task that its owner
//! aborts or drops hasn't failed.
#![forbid(unsafe_code)]

mod fault;
mod panics;
mod state;

use std::{
    collections::BTreeMap,
    fmt, io,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use futures::FutureExt;
use tokio::{sync::watch, task::JoinHandle};
use tracing::Instrument;

pub use fault::Fault;
pub use panics::{Panicked, isolated, panics, report_panics};
pub use state::{StateGuard, StateLock};

/// How a part of the process failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A service returned.
    Ended,
    /// A service or a job panicked.
    Panicked,
    /// A panic interrupted a change of this state, which may be inconsistent now.
    HalfChanged,
    /// It has reported itself that it can't go on.
    Failed,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "ended",
            Self::Panicked => "panicked",
            Self::HalfChanged => "was left half changed by a panic",
            Self::Failed => "failed",
        })
    }
}

/// Why the process can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The task, thread or state.
    pub name: &'static str,
    /// How it failed.
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.cause)
    }
}

/// Detects the end of tasks; cheap to clone. Each process, and each host in a test, has one.
#[derive(Clone, Default)]
pub struct Supervisor(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The first failure; later ones may be its consequence.
    failure: watch::Sender<Option<Failure>>,
    /// Whether state in memory can't be trusted any more.
    sealed: AtomicBool,
    /// Whether services are expected to end.
    stopping: AtomicBool,
    /// Number of running tasks by name.
    running: Mutex<BTreeMap<&'static str, usize>>,
    faults: fault::Faults,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("failure", &self.failure()).field("running", &self.running()).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Runs a service in a task of its own.
    pub fn spawn_service(&self, name: &'static str, service: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        tokio::spawn(self.service(name, service))
    }

    /// A service that the caller runs, in any task, thread or runtime.
    pub fn service<F: Future<Output = ()> + Send>(&self, name: &'static str, service: F) -> impl Future<Output = ()> + Send + use<F> {
        let running = Running::new(self, name);
        async move {
            let cause = match AssertUnwindSafe(running.or_fault(service)).catch_unwind().await {
                Ok(()) => Cause::Ended,
                Err(_panic) => Cause::Panicked,
            };
            running.supervisor.ended(name, cause);
        }
    }

    /// Runs a job in a thread of its own. A long one calls [`Running::fault_point`] now and then, so that a test can end it.
    pub fn thread(&self, name: &'static str, job: impl FnOnce(&Running) + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
        let running = Running::new(self, name);
        thread::Builder::new().name(name.replace(' ', "-")).spawn(move || {
            if std::panic::catch_unwind(AssertUnwindSafe(|| job(&running))).is_err() {
                running.supervisor.fail(name, Cause::Panicked);
            }
        })
    }

    /// Runs a job in a task of its own: it continues if the caller stops waiting. Its log lines are in the caller's span.
    pub fn spawn_job<T: Send + 'static>(&self, name: &'static str, job: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        tokio::spawn(self.job(name, job).in_current_span())
    }

    /// A job that the caller runs, in any task, thread or runtime.
    pub fn job<T, F: Future<Output = T> + Send>(&self, name: &'static str, job: F) -> impl Future<Output = T> + Send + use<T, F> {
        let running = Running::new(self, name);
        async move {
            let done = AssertUnwindSafe(running.or_panic(job)).catch_unwind().await;
            done.unwrap_or_else(|panic| {
                running.supervisor.fail(name, Cause::Panicked);
                resume_unwind(panic)
            })
        }
    }

    /// From now on the end of a service isn't a failure.
    pub fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Reports that a part of the process, and so the process, can't go on. The first report is why the process ends.
    pub fn fail(&self, name: &'static str, cause: Cause) {
        let failure = Failure { name, cause };
        let first = self.0.failure.send_if_modified(|known| known.is_none() && known.replace(failure).is_none());
        if first {
            tracing::error!(task = name, cause = %cause, "{failure}; codiusd exits, pods keep running");
        } else {
            tracing::warn!(task = name, cause = %cause, "{failure}, too");
        }
    }

    /// Why the process can't go on; none if it can.
    pub fn failure(&self) -> Option<Failure> {
        *self.0.failure.borrow()
    }

    /// Returns when the process can't go on.
    pub async fn failed(&self) -> Failure {
        let mut failure = self.0.failure.subscribe();
        match failure.wait_for(Option::is_some).await.map(|failure| *failure) {
            Ok(Some(failure)) => failure,
            // The sender lives as long as `self`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Whether a panic has left state half changed: anything derived from it must not be stored.
    pub fn is_sealed(&self) -> bool {
        self.0.sealed.load(Ordering::Acquire)
    }

    /// The services and jobs that run, in the order of their names.
    pub fn running(&self) -> Vec<&'static str> {
        self.0.names().keys().copied().collect()
    }

    /// Ends the service of that name as a bug in it would, now or as soon as one runs; only in development and test builds. Returns
    /// whether one runs now.
    pub fn inject(&self, name: &str, fault: Fault) -> bool {
        self.0.faults.inject(name, fault);
        self.0.names().contains_key(name)
    }

    /// A point where an injected fault makes a waiting thread panic; otherwise it stays pending.
    pub async fn fault_point(&self, name: &str) {
        loop {
            fault::suffer(name, self.0.faults.injected(name).await);
            tokio::task::yield_now().await;
        }
    }

    /// Called before any other thread can lock that state.
    fn half_changed(&self, name: &'static str) {
        self.0.sealed.store(true, Ordering::Release);
        self.fail(name, Cause::HalfChanged);
    }

    fn ended(&self, name: &'static str, cause: Cause) {
        if cause != Cause::Ended || !self.0.stopping.load(Ordering::Acquire) {
            self.fail(name, cause);
        }
    }
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner) // whole after every statement
    }
}

/// Registers a running service or job until dropped.
#[derive(Debug)]
pub struct Running {
    supervisor: Supervisor,
    name: &'static str,
}

impl Running {
    fn new(supervisor: &Supervisor, name: &'static str) -> Self {
        *supervisor.0.names().entry(name).or_default() += 1;
        Self { supervisor: supervisor.clone(), name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut names = self.supervisor.0.names();
        if let Some(count) = names.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests;
