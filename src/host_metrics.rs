//! Metrics of the whole host, besides those of the edge and the runtime. They are read on each scrape and not stored.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use codiusd_control::{money::Totals, pods::PodPhase};
use prometheus::{
    IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::host_snapshot::HostSnapshot;

/// A Prometheus collector of the host's metrics.
pub struct HostMetrics {
    figures: Vec<&'static Figure>,
    descriptions: Vec<Desc>,
    read: Box<dyn Fn() -> HostSnapshot + Send + Sync>,
}

impl fmt::Debug for HostMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMetrics").finish_non_exhaustive()
    }
}

/// How the values of a metric are read. An unknown value, or a limit that isn't set, is left out.
enum Read {
    /// The release, as a label.
    Build,
    /// One value.
    Gauge(fn(&HostSnapshot) -> Option<u64>),
    /// One value that only grows.
    Counter(fn(&HostSnapshot) -> u64),
    /// A sum for each asset; it only grows.
    Money(fn(&Totals) -> u64),
    /// How pods are isolated, as a label.
    Isolation,
    /// Pods by phase.
    Pods,
}

/// Name, help, and how the values are read.
type Figure = (&'static str, &'static str, Read);

static FIGURES: [Figure; 18] = [
    ("codius_build_info", "Always 1, with the version of codiusd.", Read::Build),
    ("codius_cpus_held", "Virtual processors that pods hold.", Read::Gauge(|facts| Some(facts.room.held.vcpus))),
    ("codius_cpus_max", "Virtual processors that pods may hold.", Read::Gauge(|facts| limit(facts.room.max.vcpus))),
    ("codius_disk_free_bytes", "Free on the file system of root, for codiusd.", Read::Gauge(|facts| facts.disk.map(|disk| disk.free))),
    ("codius_disk_size_bytes", "Size of the file system of root.", Read::Gauge(|facts| facts.disk.map(|disk| disk.size))),
    ("codius_draining", "1 while the operator has the host take nothing new.", Read::Gauge(|facts| Some(facts.draining.into()))),
    ("codius_isolation_info", "Always 1, with what isolates pods.", Read::Isolation),
    ("codius_memory_held_bytes", "Memory that pods hold.", Read::Gauge(|facts| Some(facts.room.held.memory_bytes))),
    ("codius_memory_max_bytes", "Memory that pods may hold.", Read::Gauge(|facts| limit(facts.room.max.memory_bytes))),
    ("codius_money_earned_units_total", "Spent on run time, in the smallest unit of the asset.", Read::Money(|sums| sums.earned)),
    ("codius_money_forfeited_units_total", "Credit that expired before anybody used it, in the same.", Read::Money(|sums| sums.forfeited)),
    ("codius_money_received_units_total", "Credited by payments, in the same.", Read::Money(|sums| sums.received)),
    ("codius_panics_total", "Bugs of codiusd that ended a task or a request; the log has each.", Read::Counter(|facts| facts.panics)),
    ("codius_peers", "Other hosts that are known.", Read::Gauge(|facts| u64::try_from(facts.peers).ok())),
    ("codius_pods", "Pods by what they do.", Read::Pods),
    ("codius_start_time_seconds", "When this process was started, in seconds since 1970.", Read::Gauge(|facts| Some(facts.started))),
    ("codius_store_up", "1 while what is paid can be written down.", Read::Gauge(|facts| Some(facts.store.into()))),
    ("codius_uplink_up", "1 while there is an Interledger account to be paid to.", Read::Gauge(|facts| Some(facts.asset.is_some().into()))),
];

impl HostMetrics {
    /// Registers all metrics but money; `read` is called on each scrape.
    pub fn register(registry: &Registry, read: impl Fn() -> HostSnapshot + Send + Sync + 'static) -> Result<(), prometheus::Error> {
        Self::register_those(registry, false, Box::new(read))
    }

    /// Registers money separately, as it isn't public.
    pub fn register_money(registry: &Registry, read: impl Fn() -> HostSnapshot + Send + Sync + 'static) -> Result<(), prometheus::Error> {
        Self::register_those(registry, true, Box::new(read))
    }

    fn register_those(
        registry: &Registry,
        money: bool,
        read: Box<dyn Fn() -> HostSnapshot + Send + Sync>,
    ) -> Result<(), prometheus::Error> {
        let figures: Vec<&'static Figure> = FIGURES.iter().filter(|(.., read)| matches!(read, Read::Money(_)) == money).collect();
        let described = figures.iter().map(|(name, help, read)| {
            let labels = read.labels().iter().map(|label| (*label).to_owned()).collect();
            Desc::new((*name).to_owned(), (*help).to_owned(), labels, HashMap::new())
        });
        let descriptions = described.collect::<Result<_, _>>()?;
        registry.register(Box::new(Self { figures, descriptions, read }))
    }
}

impl Collector for HostMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let facts = (self.read)();
        self.figures.iter().flat_map(|(name, help, read)| read.family(Opts::new(*name, *help), &facts).unwrap_or_default()).collect()
    }
}

impl Read {
    fn labels(&self) -> &'static [&'static str] {
        match self {
            Self::Build => &["release"],
            Self::Isolation => &["isolation"],
            Self::Gauge(_) | Self::Counter(_) => &[],
            Self::Money(_) => &["asset", "scale"],
            Self::Pods => &["state"],
        }
    }

    /// Builds the metric anew for each scrape: series whose subject no longer exists must disappear.
    fn family(&self, opts: Opts, facts: &HostSnapshot) -> Result<Vec<MetricFamily>, prometheus::Error> {
        if let Self::Counter(read) = self {
            let counter = IntCounter::with_opts(opts)?;
            counter.inc_by(read(facts));
            return Ok(counter.collect());
        }
        if let Self::Money(sum) = self {
            let family = IntCounterVec::new(opts, self.labels())?;
            for (asset, sums) in &facts.totals {
                family.with_label_values(&[&asset.code, &asset.scale.to_string()]).inc_by(sum(sums));
            }
            return Ok(family.collect());
        }
        let family = IntGaugeVec::new(opts, self.labels())?;
        let set = |labels: &[&str], value: u64| family.with_label_values(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        match self {
            Self::Build => set(&[env!("CARGO_PKG_VERSION")], 1),
            Self::Isolation => set(&[&facts.isolation.to_string()], 1),
            Self::Gauge(read) => drop(read(facts).map(|value| set(&[], value))),
            Self::Money(_) | Self::Counter(_) => {}
            Self::Pods => facts.pods_by_state().into_iter().for_each(|(state, count)| set(&[state], count)),
        }
        Ok(family.collect())
    }
}

impl HostSnapshot {
    fn pods_by_state(&self) -> BTreeMap<&'static str, u64> {
        let mut counts: BTreeMap<_, _> = PodPhase::ALL.map(|phase| (phase.word(), 0)).into();
        for phase in &self.pods {
            *counts.entry(phase.word()).or_default() += 1;
        }
        counts
    }
}

/// A limit; none if it is unlimited.
fn limit(max: u64) -> Option<u64> {
    Some(max).filter(|max| *max != u64::MAX)
}

#[cfg(test)]
mod tests {
    use codiusd_control::{
        capacity::{CapacityUsage, Resources},
        money::Asset,
    };
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn what_is_counted_is_what_is_so() {
        let xrp = |scale, earned| (Asset { code: "XRP".to_owned(), scale }, Totals { received: earned, earned, forfeited: 0 });
        let max = Resources { memory_bytes: 1 << 30, vcpus: u64::MAX, disk_bytes: u64::MAX, addresses: u64::MAX };
        let facts = HostSnapshot {
            started: 5,
            asset: Some(Asset { code: "XRP".to_owned(), scale: 9 }),
            store: false,
            isolation: codiusd_runtime::Isolation::None,
            draining: false,
            pods: vec![PodPhase::Running, PodPhase::Running, PodPhase::Exited],
            room: CapacityUsage { max, held: Resources::default(), pod_overhead: codiusd_runtime::MemoryOverhead::default() },
            disk: None,
            totals: vec![xrp(9, u64::MAX), xrp(6, 7)],
            peers: 0,
            panics: 3,
        };
        let registry = Registry::new();
        let money = facts.clone();
        HostMetrics::register(&registry, move || facts.clone()).unwrap();
        assert!(registry.gather().iter().all(|family| !family.name().contains("money")), "that is shown apart");
        HostMetrics::register_money(&registry, move || money.clone()).unwrap();
        for _ in 0..2 {
            let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            for line in [
                "codius_pods{state=\"running\"} 2",
                "codius_pods{state=\"starting\"} 0",
                "codius_money_earned_units_total{asset=\"XRP\",scale=\"6\"} 7",
                "codius_panics_total 3",
                "codius_store_up 0",
                "codius_uplink_up 1",
                "codius_memory_max_bytes 1073741824",
            ] {
                assert!(text.lines().any(|told| told == line), "{line} in {text}");
            }
            assert!(!text.contains("codius_cpus_max ") && !text.contains("codius_disk_free_bytes "), "no limit is no figure: {text}");
        }
    }
}
