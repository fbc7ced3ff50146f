//! Metrics of pod events that no request caused.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Why a pod was restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartCause {
    /// Its machine crashed, the daemon didn't.
    Crashed,
    /// It was lost with the daemon it ran under.
    Lost,
    /// It couldn't be distinguished from another pod.
    Misplaced,
    /// The runtime no longer lists it.
    Missing,
    /// The runtime no longer supervises it.
    Degraded,
}

impl RestartCause {
    const ALL: [Self; 5] = [Self::Crashed, Self::Lost, Self::Misplaced, Self::Missing, Self::Degraded];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Lost => "lost",
            Self::Misplaced => "misplaced",
            Self::Missing => "missing",
            Self::Degraded => "degraded",
        }
    }
}

/// The pods' counters.
#[derive(Debug)]
pub struct PodMetrics {
    exited: IntCounter,
    renewed: Vec<(RestartCause, IntCounter)>,
}

impl PodMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let exited = IntCounter::new("codius_pods_exited_total", "Pods whose containers have all exited before their time was over.")?;
        registry.register(Box::new(exited.clone()))?;
        let opts = Opts::new("codius_pods_restarted_total", "Pods that codiusd restarted by itself, by reason.");
        let family = IntCounterVec::new(opts, &["reason"])?;
        registry.register(Box::new(family.clone()))?;
        Ok(Self { exited, renewed: RestartCause::ALL.map(|why| (why, family.with_label_values(&[why.label()]))).into() })
    }

    pub(super) fn exited(&self) {
        self.exited.inc();
    }

    pub(super) fn renewed(&self, why: RestartCause) {
        if let Some((_, counter)) = self.renewed.iter().find(|(known, _)| *known == why) {
            counter.inc();
        }
    }
}
