//! Metrics of the host, and of its busiest pods.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use codiusd_control::api::shown;
use codiusd_proxy::PodTraffic;
use prometheus::{IntCounterVec, Opts, Registry};
use serde::Deserialize;

use super::AdminState;

/// Number of pods returned by default, and at most.
const PODS_USUAL: usize = 10;
const PODS_MAX: usize = 100;

/// One metric of a pod.
struct PodMetric {
    name: &'static str,
    help: &'static str,
    read: fn(&PodTraffic) -> u64,
}

/// The metrics of each pod.
const POD_METRICS: [PodMetric; 4] = [
    PodMetric { name: "codius_pod_requests_total", help: "Finished requests and tunnels of a pod.", read: |pod| pod.requests },
    PodMetric { name: "codius_pod_errors_total", help: "Of these, the ones with status 500 or above.", read: |pod| pod.errors },
    PodMetric {
        name: "codius_pod_received_bytes_total",
        help: "Bytes of bodies and tunnels from a pod's visitors.",
        read: |pod| pod.received,
    },
    PodMetric { name: "codius_pod_sent_bytes_total", help: "Bytes of bodies and tunnels to a pod's visitors.", read: |pod| pod.sent },
];

pub(super) async fn host(State(admin): State<Arc<AdminState>>) -> Response {
    shown(&[&admin.registry, &admin.money])
}

#[derive(Deserialize)]
pub(super) struct TopParams {
    top: Option<usize>,
}

pub(super) async fn pods(State(admin): State<Arc<AdminState>>, Query(TopParams { top }): Query<TopParams>) -> Response {
    match pod_metrics(&admin.routes.busiest(top.unwrap_or(PODS_USUAL).min(PODS_MAX))) {
        Ok(registry) => shown(&[&registry]),
        Err(error) => {
            tracing::error!(%error, "pod metrics not encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A registry that is used for one answer only.
fn pod_metrics(pods: &[PodTraffic]) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    for PodMetric { name, help, read } in &POD_METRICS {
        let family = IntCounterVec::new(Opts::new(*name, *help), &["pod"])?;
        for pod in pods {
            family.with_label_values(&[pod.pod.to_string()]).inc_by(read(pod));
        }
        registry.register(Box::new(family))?;
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use codiusd_proxy::{PodKey, RouteTable, Upstream};
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn pods_are_shown_by_name() {
        let routes = RouteTable::new();
        let key = PodKey::from_digest([7; 32]);
        routes.publish(key, Upstream { address: "127.0.0.1:80".parse().unwrap(), incarnation: 1 });
        let registry = pod_metrics(&routes.busiest(1)).unwrap();
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let series: Vec<String> = POD_METRICS.iter().map(|figure| format!("{}{{pod=\"{key}\"}} 0", figure.name)).collect();
        assert!(series.iter().all(|line| text.contains(line)), "{text}");
        let document = include_str!("../../docs/operate/monitoring.md");
        for PodMetric { name, help, .. } in &POD_METRICS {
            assert!(document.contains(&format!("| `{name}` | {help} |\n")), "docs/operate/monitoring.md should tell of {name}: {help}");
        }
    }
}
