//! The operator's listener, on this machine only.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | for Prometheus |
//! | `/metrics/pods?top=N` | the same of the N busiest pods (10, or up to 100): not in the scrape, where each pod would be a series |
//!
//! It has no password, so it is refused to web pages: a request whose Host isn't this machine's is DNS rebinding.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use codiusd_control::api::shown;
use codiusd_proxy::{PodTraffic, RouteTable};
use prometheus::{IntCounterVec, Opts, Registry};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// Pods that are shown if it isn't said how many, and at most.
const PODS_USUAL: usize = 10;
const PODS_MAX: usize = 100;

/// One figure of a pod.
pub(crate) struct PodFigure {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    read: fn(&PodTraffic) -> u64,
}

/// What is shown of each.
pub(crate) const POD_FIGURES: [PodFigure; 4] = [
    PodFigure { name: "codius_pod_requests_total", help: "Requests and tunnels of a pod that are over.", read: |pod| pod.requests },
    PodFigure { name: "codius_pod_errors_total", help: "Those answered with 500 and above.", read: |pod| pod.errors },
    PodFigure {
        name: "codius_pod_received_bytes_total",
        help: "Bytes of bodies and tunnels from a pod's visitors.",
        read: |pod| pod.received,
    },
    PodFigure { name: "codius_pod_sent_bytes_total", help: "Bytes of bodies and tunnels to a pod's visitors.", read: |pod| pod.sent },
];

/// The listener, until dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Admin {
    /// Opens it.
    pub(crate) async fn start(address: SocketAddr, registry: Registry, routes: Arc<RouteTable>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let figures = Router::new().route("/metrics", get(metrics)).with_state(registry);
        let pods = Router::new().route("/metrics/pods", get(pods)).with_state(routes);
        let router = figures.merge(pods).layer(middleware::from_fn(only_from_here));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the admin listener has ended");
            }
        });
        Ok(Self { address, _task: AbortOnDropHandle::new(task) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn metrics(State(registry): State<Registry>) -> Response {
    shown(&registry)
}

#[derive(Deserialize)]
struct Top {
    top: Option<usize>,
}

async fn pods(State(routes): State<Arc<RouteTable>>, Query(Top { top }): Query<Top>) -> Response {
    match pod_figures(&routes.busiest(top.unwrap_or(PODS_USUAL).min(PODS_MAX))) {
        Ok(registry) => shown(&registry),
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

async fn only_from_here(request: Request, next: Next) -> Response {
    if is_from_here(request.headers()) { next.run(request).await } else { StatusCode::FORBIDDEN.into_response() }
}

/// Whether a request names this machine as its Host, and comes from no web page.
fn is_from_here(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _port)| name));
    matches!(name, Some("localhost" | "127.0.0.1")) && !headers.contains_key(header::ORIGIN)
}

#[cfg(test)]
mod tests {
    use codiusd_proxy::{PodKey, Upstream};
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
        let document = include_str!("../deploy/metrics.md");
        for PodFigure { name, help, .. } in &POD_FIGURES {
            assert!(document.contains(&format!("| `{name}` | {help} |\n")), "deploy/metrics.md should tell of {name}: {help}");
        }
    }

    #[test]
    fn web_pages_are_told_from_operators() {
        let from = |pairs: &[(header::HeaderName, &str)]| {
            is_from_here(&pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect())
        };
        assert!(from(&[(header::HOST, "localhost:3001")]));
        assert!(from(&[(header::HOST, "127.0.0.1")]));
        for foreign in ["evil.example:3001", "localhost.evil.example", "127.0.0.1.evil.example:3001", ""] {
            assert!(!from(&[(header::HOST, foreign)]), "{foreign}");
        }
        assert!(!from(&[]));
        assert!(!from(&[(header::HOST, "localhost:3001"), (header::ORIGIN, "http://localhost:3001")]));
    }
}
