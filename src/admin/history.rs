//! What the host did of late: a figure of each kind a minute, for a day, in memory only.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use codiusd_control::{orders::Orders, pay::Asset};
use prometheus::Registry;
use tokio::time::{self, MissedTickBehavior};

/// Between two figures.
const EVERY: Duration = Duration::from_secs(60);
/// Figures that are kept: a day's.
const KEPT: usize = 24 * 60;

/// What the host had done by a moment.
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
    /// Bytes from and to visitors.
    pub(super) bytes: u64,
}

impl Sample {
    fn now(registry: &Registry, orders: &Orders) -> Self {
        let keeper = orders.keeper();
        Self {
            at: Instant::now(),
            earned: orders.totals().into_iter().map(|(asset, sums)| (asset, sums.earned)).collect(),
            pods: u64::try_from(keeper.running_count()).unwrap_or(u64::MAX),
            memory: keeper.room().held.memory_bytes,
            requests: counted(registry, "codius_edge_requests_total", Some(("to", "pod"))),
            bytes: counted(registry, "codius_edge_bytes_total", None),
        }
    }

    /// What had been earned in an asset.
    pub(super) fn earned(&self, asset: &Asset) -> u64 {
        self.earned.iter().find(|(known, _)| known == asset).map_or(0, |(_, units)| *units)
    }
}

/// The samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Sample>>);

impl History {
    /// Takes samples, until dropped.
    pub(super) async fn keep(&self, registry: &Registry, orders: &Orders) {
        let mut ticks = time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.push(Sample::now(registry, orders));
        }
    }

    /// What is kept, and how it is now.
    pub(super) fn until_now(&self, registry: &Registry, orders: &Orders) -> Vec<Sample> {
        let now = Sample::now(registry, orders);
        self.samples().iter().cloned().chain([now]).collect()
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

/// The sum of a counter over its labels, or over those with a value. It is exact enough for a picture.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter is no less than 0 and far from 2^53")]
fn counted(registry: &Registry, name: &str, label: Option<(&str, &str)>) -> u64 {
    let families = registry.gather();
    let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
    let wanted =
        metrics.filter(|metric| label.is_none_or(|label| metric.get_label().iter().any(|pair| (pair.name(), pair.value()) == label)));
    wanted.map(|metric| metric.get_counter().get_value() as u64).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounterVec, Opts};

    use super::*;

    #[test]
    fn a_day_is_kept_and_no_more() {
        let history = History::default();
        let sample = |pods| Sample { at: Instant::now(), earned: Vec::new(), pods, memory: 0, requests: 0, bytes: 0 };
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
        assert_eq!(counted(&registry, "x_total", Some(("to", "pod"))), 7);
        assert_eq!((counted(&registry, "x_total", None), counted(&registry, "y_total", None)), (57, 0));
    }
}
