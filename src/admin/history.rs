//! Recent history of the host: one sample per minute, for a day, in memory only.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use codiusd_control::{money::Asset, paid_requests::PaidRequests};
use prometheus::{
    Registry,
    proto::{Metric, MetricFamily},
};
use tokio::time::{self, MissedTickBehavior};

/// Interval between samples.
const EVERY: Duration = Duration::from_secs(60);
/// Number of samples kept: one day's.
const KEPT: usize = 24 * 60;

/// The counters and gauges of the host at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// In the smallest unit of each asset.
    earned: Vec<(Asset, u64)>,
    /// Pods that ran.
    pub(super) pods: u64,
    /// Memory that pods held, in bytes.
    pub(super) memory: u64,
    /// Requests for pods that were answered.
    pub(super) requests: u64,
    /// Those that failed because of the pod or the host.
    pub(super) failed: u64,
    /// Bytes from and to visitors.
    pub(super) bytes: u64,
}

impl Sample {
    fn now(registry: &Registry, paid_requests: &PaidRequests) -> Self {
        let (manager, families) = (paid_requests.pods(), registry.gather());
        Self {
            at: Instant::now(),
            earned: paid_requests.totals().into_iter().map(|(asset, sums)| (asset, sums.earned)).collect(),
            pods: u64::try_from(manager.running_count()).unwrap_or(u64::MAX),
            memory: manager.room().held.memory_bytes,
            requests: counted(&families, "codius_edge_requests_total", &[("to", "pod")]),
            failed: counted(&families, "codius_edge_requests_total", &[("to", "pod"), ("status", "5xx")]),
            bytes: counted(&families, "codius_edge_bytes_total", &[]),
        }
    }

    /// The amount earned in an asset so far.
    pub(super) fn earned(&self, asset: &Asset) -> u64 {
        self.earned.iter().find(|(known, _)| known == asset).map_or(0, |(_, units)| *units)
    }
}

/// The samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Sample>>);

impl History {
    /// Takes samples until dropped.
    pub(super) async fn keep(&self, registry: &Registry, paid_requests: &PaidRequests) {
        let mut ticks = time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.push(Sample::now(registry, paid_requests));
        }
    }

    /// The stored samples, and one taken now.
    pub(super) fn until_now(&self, registry: &Registry, paid_requests: &PaidRequests) -> Vec<Sample> {
        let now = Sample::now(registry, paid_requests);
        self.samples().iter().cloned().chain([now]).collect()
    }

    /// One value of each sample, with its time in seconds since the first sample.
    #[expect(clippy::cast_precision_loss, reason = "a picture has fewer points than a double has digits")]
    pub(super) fn levels(samples: &[Sample], read: impl Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
        let first = samples.first().map(|sample| sample.at);
        let seconds = |sample: &Sample| first.map_or(0.0, |first| sample.at.duration_since(first).as_secs_f64());
        samples.iter().map(|sample| (seconds(sample), read(sample) as f64)).collect()
    }

    /// The increase of a counter per second between consecutive samples.
    pub(super) fn rates(samples: &[Sample], read: impl Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
        let levels = Self::levels(samples, read);
        let pairs = levels.iter().zip(levels.iter().skip(1));
        pairs.map(|((from, before), (to, after))| (*to, (after - before).max(0.0) / (to - from).max(1.0))).collect()
    }

    fn push(&self, sample: Sample) {
        let mut samples = self.samples();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    fn samples(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sum of a counter over its series that have these labels; precise enough for a chart.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter is no less than 0 and far from 2^53")]
fn counted(families: &[MetricFamily], name: &str, labels: &[(&str, &str)]) -> u64 {
    let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
    let has = |metric: &Metric, label| metric.get_label().iter().any(|pair| (pair.name(), pair.value()) == label);
    let wanted = metrics.filter(|metric| labels.iter().all(|label| has(metric, *label)));
    wanted.map(|metric| metric.get_counter().get_value() as u64).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounterVec, Opts};

    use super::*;

    #[test]
    fn a_day_is_kept_and_no_more() {
        let history = History::default();
        let sample = |pods| Sample { at: Instant::now(), earned: Vec::new(), pods, memory: 0, requests: 0, failed: 0, bytes: 0 };
        for pods in 0..=u64::try_from(KEPT).unwrap() {
            history.push(sample(pods));
        }
        let kept = history.samples();
        assert_eq!((kept.len(), kept[0].pods), (KEPT, 1));
    }

    #[test]
    fn counters_are_summed_over_their_labels() {
        let (registry, family) = (Registry::new(), IntCounterVec::new(Opts::new("x_total", "x"), &["to", "status"]).unwrap());
        registry.register(Box::new(family.clone())).unwrap();
        for (to, status, count) in [("pod", "2xx", 3), ("pod", "5xx", 4), ("control", "2xx", 50)] {
            family.with_label_values(&[to, status]).inc_by(count);
        }
        let sum = |name, labels| counted(&registry.gather(), name, labels);
        assert_eq!((sum("x_total", &[("to", "pod")]), sum("x_total", &[("to", "pod"), ("status", "5xx")])), (7, 4));
        assert_eq!((sum("x_total", &[]), sum("y_total", &[])), (57, 0));
    }

    #[test]
    fn rates_are_what_came_between_two_samples() {
        let start = Instant::now();
        let sample = |at, requests| {
            let at = start + Duration::from_secs(at);
            Sample { at, earned: Vec::new(), pods: 0, memory: 0, requests, failed: 0, bytes: 0 }
        };
        let samples = [sample(0, 5), sample(60, 125), sample(120, 125)];
        assert_eq!(History::levels(&samples, |sample| sample.requests), [(0.0, 5.0), (60.0, 125.0), (120.0, 125.0)]);
        assert_eq!(History::rates(&samples, |sample| sample.requests), [(60.0, 2.0), (120.0, 0.0)]);
        assert_eq!(History::rates(&[], |sample| sample.requests), []);
    }
}
