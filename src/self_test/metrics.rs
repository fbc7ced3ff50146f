//! Metrics of self-tests.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use super::report::{Report, Step};

/// The metrics of a host that tests itself.
#[derive(Clone, Debug)]
pub struct SelfTestMetrics {
    success: IntGauge,
    last_run: IntGauge,
    failures: IntCounterVec,
}

impl SelfTestMetrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let success = IntGauge::new("codius_self_test_success", "Whether the host has passed its last test of itself (1), or not (0).")?;
        let last_run =
            IntGauge::new("codius_self_test_last_run_seconds", "When the last self-test ended, in seconds since 1970; 0: none has.")?;
        let failures = Opts::new("codius_self_test_failures_total", "Steps of self-tests that failed, by step.");
        let failures = IntCounterVec::new(failures, &["step"])?;
        for step in Step::ALL {
            failures.with_label_values(&[step.word()]);
        }
        registry.register(Box::new(success.clone()))?;
        registry.register(Box::new(last_run.clone()))?;
        registry.register(Box::new(failures.clone()))?;
        Ok(Self { success, last_run, failures })
    }

    pub(super) fn note(&self, report: &Report) {
        self.success.set(report.passed().into());
        self.last_run.set(i64::try_from(report.at).unwrap_or(i64::MAX));
        for (step, _) in report.failures() {
            self.failures.with_label_values(&[step.word()]).inc();
        }
    }
}
