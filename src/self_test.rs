//! The host tests itself through its public URI: whether a stranger could find it, pay it, and visit what runs.
//!
//! | room | what is in it |
//! |---|---|
//! | `walk` | the test, step by step |
//! | `reach` | resolver, connection and handshake, each with an error of its own |
//! | `problem` | what can be wrong, and what to do about it |
//! | `report` | what was found |
//! | `metrics` | what is counted |
//!
//! At start it is repeated until it is passed, soon at first and then every few minutes: a DNS record that is put right opens the gate
//! without a restart. After that it is done when the operator asks.

mod metrics;
mod problem;
mod reach;
mod report;
mod walk;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use codiusd_control::api::SelfTestStats;
use serde_json::{Value, json};
use tokio::{
    task::JoinError,
    time::{self, Instant},
};

pub use metrics::SelfTestMetrics;
pub(crate) use report::{Outcome, Report};
pub(crate) use walk::{Subject, arrive};

/// Between tests of a host that keeps failing.
const SLOWLY: Duration = Duration::from_secs(300);

/// Tests one host, one test at a time.
#[derive(Debug)]
pub(crate) struct SelfTest {
    subject: Subject,
    metrics: SelfTestMetrics,
    retries: u16,
    interval: Duration,
    turn: tokio::sync::Mutex<()>,
    last: Mutex<Option<Arc<Report>>>,
}

impl SelfTest {
    pub(crate) fn new(subject: Subject, metrics: SelfTestMetrics, retries: u16, interval: Duration) -> Self {
        Self { subject, metrics, retries, interval, turn: tokio::sync::Mutex::default(), last: Mutex::default() }
    }

    /// Tests until the gate is open.
    pub(crate) async fn keep_trying(&self) {
        for retries_left in (0..=self.retries).rev() {
            self.run(retries_left > 0).await;
            if self.subject.gate.is_open() {
                return;
            }
            time::sleep(if retries_left > 0 { self.interval } else { SLOWLY }).await;
        }
        tracing::error!(every = ?SLOWLY, "the host can't be used from outside: uploads are refused until a self-test is passed");
        while !self.subject.gate.is_open() {
            self.run(false).await;
            time::sleep(SLOWLY).await;
        }
    }

    /// Tests now, in a task of its own: whoever asks and hangs up doesn't leave a pod behind.
    pub(crate) async fn ask(self: &Arc<Self>) -> Result<Arc<Report>, JoinError> {
        let this = self.clone();
        tokio::spawn(async move { this.run(false).await }).await
    }

    /// What was found last.
    pub(crate) fn last(&self) -> Option<Arc<Report>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether one was passed since the start: then the gate is open.
    pub(crate) fn was_passed(&self) -> bool {
        self.subject.gate.is_open()
    }

    /// What was found last, and whether a test goes on, for programs.
    pub(crate) fn json(&self) -> Value {
        let mut shown = self.last().map_or_else(|| json!({}), |last| last.json());
        shown["running"] = self.subject.gate.stats().running.into();
        shown
    }

    /// Whoever waits for a test that began after they asked needs no other.
    async fn run(&self, goes_on: bool) -> Arc<Report> {
        let asked = Instant::now();
        let _turn = self.turn.lock().await;
        if let Some(last) = self.last().filter(|last| last.begun >= asked) {
            return last;
        }
        let gate = &self.subject.gate;
        gate.report(SelfTestStats { running: true, ..gate.stats() });
        let report = Arc::new(walk::walk(&self.subject).await);
        gate.report(report.stats(goes_on && !report.passed()));
        self.metrics.note(&report);
        for (step, problem) in report.failures() {
            tracing::warn!(step = step.word(), problem = problem.kind(), what = %problem, remedy = problem.remedy(), "self-test failed");
        }
        if report.passed() {
            tracing::info!(took = ?report.took, "self-test passed");
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
        report
    }
}
