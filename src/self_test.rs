//! The host tests itself through its public URI: whether a visitor can find it, pay it, and reach the pod that runs.
//!
//! | module | what is in it |
//! |---|---|
//! | `steps` | the test, step by step |
//! | `reach` | resolver, connection and handshake, each with an error of its own |
//! | `problem` | the possible problems and their remedies |
//! | `report` | the result of a test |
//! | `metrics` | metrics of self-tests |
//!
//! At start it is repeated until it passes, at short intervals at first and then every few minutes, so a corrected DNS record opens the
//! gate without a restart. After that it runs when the operator requests it.

mod metrics;
mod problem;
mod reach;
mod report;
mod steps;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use codiusd_control::api::SelfTestStats;
use tokio::{
    task::JoinError,
    time::{self, Instant},
};

pub use metrics::SelfTestMetrics;
pub(crate) use report::{Outcome, Report};
pub(crate) use steps::{Subject, arrive};

/// Interval between tests of a host that keeps failing.
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
        tracing::error!(every = ?SLOWLY, "host not usable from outside; uploads are refused until a self-test passes");
        while !self.subject.gate.is_open() {
            self.run(false).await;
            time::sleep(SLOWLY).await;
        }
    }

    /// Runs a test now, in a task of its own, so that a client that disconnects doesn't leave a pod behind.
    pub(crate) async fn ask(self: &Arc<Self>) -> Result<Arc<Report>, JoinError> {
        let this = self.clone();
        tokio::spawn(async move { this.run(false).await }).await
    }

    /// The last report.
    pub(crate) fn last(&self) -> Option<Arc<Report>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a test has passed since the start, which opens the gate.
    pub(crate) fn was_passed(&self) -> bool {
        self.subject.gate.is_open()
    }

    /// The last test, and whether one is running, in the format of the operator's API.
    pub(crate) fn status(&self) -> codiusd_api_types::admin::SelfTest {
        let running = self.subject.gate.stats().running;
        self.last().map_or_else(|| codiusd_api_types::admin::SelfTest { running, ..Default::default() }, |last| last.status(running))
    }

    /// Runs a test. A caller that waited for another test which began after its request gets that report.
    async fn run(&self, goes_on: bool) -> Arc<Report> {
        let asked = Instant::now();
        let _turn = self.turn.lock().await;
        if let Some(last) = self.last().filter(|last| last.begun >= asked) {
            return last;
        }
        let gate = &self.subject.gate;
        gate.report(SelfTestStats { running: true, ..gate.stats() });
        let report = Arc::new(steps::walk(&self.subject).await);
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
