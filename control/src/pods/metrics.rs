//! What happens to pods without anybody asking.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Why a pod was started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// Its machine ended, the daemon didn't.
    Crashed,
    /// It ended with the daemon it ran under.
    Lost,
    /// It couldn't be told from another pod.
    Misplaced,
    /// The runtime doesn't know it any more.
    Missing,
    /// The runtime can't look after it any more.
    Worn,
}

impl Renewal {
    const ALL: [Self; 5] = [Self::Crashed, Self::Lost, Self::Misplaced, Self::Missing, Self::Worn];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Lost => "lost",
            Self::Misplaced => "misplaced",
            Self::Missing => "missing",
            Self::Worn => "worn",
        }
    }
}

/// The pods' counters.
#[derive(Debug)]
pub struct PodMetrics {
    exited: IntCounter,
    renewed: Vec<(Renewal, IntCounter)>,
}

impl PodMetrics {
    /// Registers them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let exited = IntCounter::new("codius_pods_exited_total", "Pods whose containers have all exited before their time was over.")?;
        registry.register(Box::new(exited.clone()))?;
        let opts = Opts::new("codius_pods_renewed_total", "Pods started anew without anybody asking, by reason.");
        let family = IntCounterVec::new(opts, &["reason"])?;
        registry.register(Box::new(family.clone()))?;
        Ok(Self { exited, renewed: Renewal::ALL.map(|why| (why, family.with_label_values(&[why.label()]))).into() })
    }

    pub(super) fn exited(&self) {
        self.exited.inc();
    }

    pub(super) fn renewed(&self, why: Renewal) {
        if let Some((_, counter)) = self.renewed.iter().find(|(known, _)| *known == why) {
            counter.inc();
        }
    }
}
