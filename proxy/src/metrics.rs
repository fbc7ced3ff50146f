//! The edge's counters. Labels are closed sets; no host name, path or pod is ever one.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::gate::Full;
use crate::rescue::Fault;

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Handles resolved once, so that a request only adds.
#[derive(Debug)]
pub(crate) struct Metrics {
    pod: [IntCounter; 5],
    control: [IntCounter; 5],
    faults: Vec<IntCounter>,
    pub(crate) connections: IntGauge,
    full_everywhere: IntCounter,
    full_for_client: IntCounter,
    pub(crate) tunnels: IntGauge,
    pub(crate) upstream_dialled: IntCounter,
    pub(crate) upstream_reused: IntCounter,
    pub(crate) upstream_retried: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let answers = counters(registry, "codius_edge_answers_total", "Answers by destination and status class.", &["to", "status"])?;
        let faults = counters(registry, "codius_edge_faults_total", "Requests answered by the edge itself, by reason.", &["fault"])?;
        let upstream = counters(registry, "codius_edge_upstream_total", "Upstream connections by what was done.", &["event"])?;
        let full = counters(registry, "codius_edge_connections_refused_total", "Client connections closed as they came.", &["reason"])?;
        Ok(Metrics {
            pod: STATUS_CLASSES.map(|class| answers.with_label_values(&["pod", class])),
            control: STATUS_CLASSES.map(|class| answers.with_label_values(&["control", class])),
            faults: Fault::ALL.iter().map(|fault| faults.with_label_values(&[fault.label()])).collect(),
            connections: gauge(registry, "codius_edge_connections", "Client connections open, tunnels included.")?,
            full_everywhere: full.with_label_values(&["everywhere"]),
            full_for_client: full.with_label_values(&["for_client"]),
            tunnels: gauge(registry, "codius_edge_tunnels", "Upgraded connections open.")?,
            upstream_dialled: upstream.with_label_values(&["dialled"]),
            upstream_reused: upstream.with_label_values(&["reused"]),
            upstream_retried: upstream.with_label_values(&["retried"]),
        })
    }

    /// Counts an upstream's answer.
    pub(crate) fn answered(&self, to_pod: bool, status: http::StatusCode) {
        let handles = if to_pod { &self.pod } else { &self.control };
        if let Some(handle) = handles.get(usize::from(status.as_u16() / 100).saturating_sub(1)) {
            handle.inc();
        }
    }

    /// Counts a connection that was closed as it came.
    pub(crate) fn turned_away(&self, full: Full) {
        match full {
            Full::Everywhere => self.full_everywhere.inc(),
            Full::ForClient => self.full_for_client.inc(),
        }
    }

    /// Counts a request the edge answered itself.
    pub(crate) fn failed(&self, fault: Fault) {
        if let Some(handle) = Fault::ALL.iter().position(|each| *each == fault).and_then(|index| self.faults.get(index)) {
            handle.inc();
        }
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    let family = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// One more while it lives.
#[derive(Debug)]
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn new(gauge: &IntGauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
