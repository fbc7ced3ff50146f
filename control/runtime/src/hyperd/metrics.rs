//! Durations and failures of calls to hyperd.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use super::{client::Call, error::HyperdError};

/// Upper bounds of the histogram, in seconds: a list takes milliseconds, a boot seconds, a pull minutes.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 90.0, 600.0];

/// Handles created once, so that every label is in the scrape from the start, as zero.
#[derive(Debug)]
pub(super) struct Metrics {
    seconds: Vec<(Call, Histogram)>,
    failures: Vec<(&'static str, IntCounter)>,
    pub(super) misplaced: IntCounter,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = HistogramOpts::new("codius_hyperd_call_seconds", "How long calls to hyperd took, by call, failed ones included.");
        let seconds = HistogramVec::new(opts.buckets(BUCKETS.to_vec()), &["call"])?;
        registry.register(Box::new(seconds.clone()))?;
        let failures =
            IntCounterVec::new(Opts::new("codius_hyperd_failures_total", "Calls to hyperd that failed, by kind of failure."), &["kind"])?;
        registry.register(Box::new(failures.clone()))?;
        let help = "Running pods that shared an address with another pod, or were not on the pods' bridge; codiusd restarts them.";
        let misplaced = IntCounter::new("codius_hyperd_misplaced_pods_total", help)?;
        registry.register(Box::new(misplaced.clone()))?;
        Ok(Self {
            misplaced,
            seconds: Call::ALL.map(|call| (call, seconds.with_label_values(&[call.label()]))).into(),
            failures: HyperdError::KINDS.map(|kind| (kind, failures.with_label_values(&[kind]))).into(),
        })
    }

    pub(super) fn observe(&self, call: Call, took: Duration, failure: Option<&HyperdError>) {
        if let Some((_, seconds)) = self.seconds.iter().find(|(known, _)| *known == call) {
            seconds.observe(took.as_secs_f64());
        }
        let kind = failure.map(HyperdError::kind);
        if let Some((_, count)) = self.failures.iter().find(|(known, _)| Some(*known) == kind) {
            count.inc();
        }
    }
}
