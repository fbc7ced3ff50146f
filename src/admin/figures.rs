//! Figures of the host, and of its busiest pods.

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

use super::Desk;

/// Pods that are shown if it isn't said how many, and at most.
const PODS_USUAL: usize = 10;
const PODS_MAX: usize = 100;

/// One figure of a pod.
struct PodFigure {
    name: &'static str,
    help: &'static str,
    read: fn(&PodTraffic) -> u64,
}

/// What is shown of each.
const POD_FIGURES: [PodFigure; 4] = [
    PodFigure { name: "codius_pod_requests_total", help: "Requests and tunnels of a pod that are over.", read: |pod| pod.requests },
    PodFigure { name: "codius_pod_errors_total", help: "Those answered with 500 and above.", read: |pod| pod.errors },
    PodFigure {
        name: "codius_pod_received_bytes_total",
        help: "Bytes of bodies and tunnels from a pod's visitors.",
        read: |pod| pod.received,
    },
    PodFigure { name: "codius_pod_sent_bytes_total", help: "Bytes of bodies and tunnels to a pod's visitors.", read: |pod| pod.sent },
];

pub(super) async fn metrics(State(desk): State<Arc<Desk>>) -> Response {
    shown(&[&desk.registry, &desk.money])
}

#[derive(Deserialize)]
pub(super) struct Top {
    top: Option<usize>,
}

pub(super) async fn pods(State(desk): State<Arc<Desk>>, Query(Top { top }): Query<Top>) -> Response {
    match pod_figures(&desk.routes.busiest(top.unwrap_or(PODS_USUAL).min(PODS_MAX))) {
        Ok(registry) => shown(&[&registry]),
        Err(error) => {
            tracing::error!(%error, "the pods' figures can't be shown");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A registry for this one answer.
fn pod_figures(pods: &[PodTraffic]) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    for PodFigure { name, help, read } in &POD_FIGURES {
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
        let registry = pod_figures(&routes.busiest(1)).unwrap();
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let series: Vec<String> = POD_FIGURES.iter().map(|figure| format!("{}{{pod=\"{key}\"}} 0", figure.name)).collect();
        assert!(series.iter().all(|line| text.contains(line)), "{text}");
        let document = include_str!("../../docs/operate/monitoring.md");
        for PodFigure { name, help, .. } in &POD_FIGURES {
            assert!(document.contains(&format!("| `{name}` | {help} |\n")), "docs/operate/monitoring.md should tell of {name}: {help}");
        }
    }
}
