//! The operator's listener, on this machine only: JSON in and out.
//!
//! | path | answer | module |
//! |---|---|---|
//! | `/metrics` | for Prometheus | `metrics` |
//! | `/metrics/pods?top=N` | the same of the N busiest pods (10, or up to 100): not in the scrape, where each pod would be a series | |
//! | `/` | a page for browsers (`dashboard`, with `chart` and `history`); for other clients JSON, as in the Node codiusd | |
//! | `/getPods`, `/getPodInfo?id=`, `/getAllUptime`, POST `/config` | as the Node codiusd had them | `node` |
//! | `/status`, `/pods`, `/bans` | the state of the host | `queries` |
//! | `/self-test`, POST `/self-test` | the last self-test; runs one now | `self_test` |
//! | POST `/pods/stop`, `/ban`, `/unban`, `/drain`, `/undrain`, `/log` | commands | `commands` |
//! | `/openapi.json` | the previous three rows as OpenAPI 3.1 | |
//!
//! `answer` maps all errors to answers and reads bodies. The listener has no password, so it rejects requests from web pages: a Host
//! other than this machine's means DNS rebinding, and an Origin other than this listener's means a foreign page.

mod answer;
mod chart;
mod commands;
mod dashboard;
mod history;
mod metrics;
mod node;
mod queries;
mod self_test;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderMap, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use codiusd_control::{paid_requests::PaidRequests, peers::Peers};
use codiusd_proxy::RouteTable;
use prometheus::Registry;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::task::AbortOnDropHandle;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{host_snapshot::HostReader, self_test::SelfTest};
use answer::AdminError;
use history::History;

/// Longest body that is read, in bytes.
const BODY_MAX: usize = 64 * 1024;
/// Maximum number of requests to stop pods that run at the same time.
const STOPS_MAX: usize = 32;

/// The parts of the host that the operator queries and changes.
#[derive(Debug)]
pub(crate) struct AdminDeps {
    /// Metrics that may also be public.
    pub(crate) registry: Registry,
    /// Metrics for the operator only.
    pub(crate) money: Registry,
    /// Reads the state of the host.
    pub(crate) host: HostReader,
    /// The routes, with the traffic of visitors.
    pub(crate) routes: Arc<RouteTable>,
    /// Pods and money.
    pub(crate) paid_requests: PaidRequests,
    /// Other hosts.
    pub(crate) peers: Peers,
    /// Where visitors reach the host.
    pub(crate) public_uri: String,
    /// The self-test, if it is enabled.
    pub(crate) self_test: Option<Arc<SelfTest>>,
}

#[derive(Debug)]
struct AdminState {
    registry: Registry,
    money: Registry,
    host: HostReader,
    routes: Arc<RouteTable>,
    paid_requests: PaidRequests,
    peers: Peers,
    public_uri: String,
    self_test: Option<Arc<SelfTest>>,
    history: History,
    started: Instant,
    stops: Arc<Semaphore>,
}

impl AdminState {
    /// Where visitors reach a pod.
    fn url_of(&self, hash: &str) -> String {
        let (scheme, authority) = self.public_uri.split_once("://").unwrap_or(("http", &self.public_uri));
        format!("{scheme}://{hash}.{authority}/")
    }
}

/// The listener, until dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Admin {
    /// Opens the listener, if it is enabled.
    pub(crate) async fn start(address: Option<SocketAddr>, seen: AdminDeps) -> io::Result<Option<Self>> {
        let Some(address) = address else { return Ok(None) };
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let AdminDeps { registry, money, host, routes, paid_requests, peers, public_uri, self_test } = seen;
        let (history, started, stops) = (History::default(), Instant::now(), Arc::new(Semaphore::new(STOPS_MAX)));
        let admin =
            Arc::new(AdminState { registry, money, host, routes, paid_requests, peers, public_uri, self_test, history, started, stops });
        let router = router(admin.clone());
        let supervisor = admin.paid_requests.pods().supervisor().clone();
        let served = supervisor.spawn_service("admin listener", async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "admin listener ended");
            }
        });
        let kept = supervisor.spawn_service("history", async move { admin.history.keep(&admin.registry, &admin.paid_requests).await });
        Ok(Some(Self { address, _tasks: [served, kept].map(AbortOnDropHandle::new) }))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The head of the OpenAPI document; paths come from the router.
#[derive(OpenApi)]
#[openapi(
    info(title = "codiusd admin API", description = "Operates the host on this machine. It is unauthenticated: every local user can use it; requests of web pages are refused."),
    tags(
        (name = "host", description = "What the host does, and what it is to do"),
        (name = "pods", description = "Pods of this host"),
        (name = "bans", description = "What this host does not run"),
    ),
)]
struct Document;

/// The OpenAPI document of the operator's API.
pub fn admin_openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

fn documented() -> OpenApiRouter<Arc<AdminState>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(queries::status))
        .routes(routes!(queries::pods))
        .routes(routes!(queries::bans))
        .routes(routes!(commands::stop))
        .routes(routes!(commands::ban))
        .routes(routes!(commands::unban))
        .routes(routes!(commands::drain))
        .routes(routes!(commands::undrain))
        .routes(routes!(commands::log))
        .routes(routes!(self_test::last, self_test::run))
}

fn router(admin: Arc<AdminState>) -> Router {
    let (router, document) = documented().split_for_parts();
    let document = move || async move { Json(document) };
    router
        .route("/", get(dashboard::index))
        .route("/openapi.json", get(document))
        .route("/getPods", get(node::running))
        .route("/getPodInfo", get(node::pod))
        .route("/getAllUptime", get(node::uptime))
        .route("/config", post(node::config))
        .route("/metrics", get(metrics::host))
        .route("/metrics/pods", get(metrics::pods))
        .fallback(|| async { AdminError::NotFound })
        .method_not_allowed_fallback(|| async { AdminError::Method })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn(only_from_here))
        .with_state(admin)
}

/// The name of the admin listener in the Node codiusd's documentation, and the paths its tools request under that name. It resolves to
/// 127.0.0.1 only as long as the owner of codius.org keeps that record: one of their pages could read answers under this name. So it is
/// limited to these paths, and requests with an Origin, which every state-changing request of a page has, are rejected.
const NODE_NAME: &str = "local.codius.org";
const NODE_PATHS: [&str; 4] = ["/getPods", "/getPodInfo", "/getAllUptime", "/config"];

async fn only_from_here(request: Request, next: Next) -> Response {
    if !is_from_here(request.uri().path(), request.headers()) {
        return AdminError::Foreign.into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a request names this machine as its Host, and does not come from a foreign web page.
fn is_from_here(path: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _port)| name));
    let same_site = headers.get("sec-fetch-site").is_none_or(|site| site == "none" || site == "same-origin");
    // Our page has the same host and port as the request. Every other page is foreign, including one on another port of this machine.
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let own_page = origins.all(|origin| origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://")) == host);
    match name {
        Some("localhost" | "127.0.0.1") => own_page && same_site,
        Some(NODE_NAME) => NODE_PATHS.contains(&path) && !headers.contains_key(header::ORIGIN) && !headers.contains_key("sec-fetch-site"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_codiusds_name_is_for_its_tools_only() {
        let from = |path: &str, pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect();
            is_from_here(path, &headers)
        };
        for host in ["local.codius.org:3001", "local.codius.org"] {
            for path in NODE_PATHS {
                assert!(from(path, &[("host", host)]), "{path} at {host}");
            }
            for path in ["/", "/pods", "/pods/stop", "/status", "/metrics", "/getPods/", "/ban"] {
                assert!(!from(path, &[("host", host)]), "{path} at {host}: the Node codiusd had no such thing");
            }
            for (name, value) in
                [("origin", format!("http://{host}")), ("origin", "null".to_owned()), ("sec-fetch-site", "none".to_owned())]
            {
                assert!(!from("/config", &[("host", host), (name, &value)]), "{name}: {value}");
            }
        }
        for host in ["codius.org:3001", "x.local.codius.org:3001", "local.codius.org.evil.example", "local.codius.org@evil.example:80"] {
            assert!(!from("/getPods", &[("host", host)]), "{host}");
        }
    }

    #[test]
    fn web_pages_are_told_from_operators() {
        let from = |pairs: &[(&'static str, &str)]| {
            is_from_here(
                "/pods",
                &pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect(),
            )
        };
        assert!(from(&[("host", "localhost:3001")]));
        assert!(from(&[("host", "127.0.0.1")]));
        assert!(from(&[("host", "127.0.0.1:3001"), ("sec-fetch-site", "none")]), "typed into a browser");
        for foreign in ["evil.example:3001", "localhost.evil.example", "127.0.0.1.evil.example:3001", "local.codius.org:3001", ""] {
            assert!(!from(&[("host", foreign)]), "{foreign}");
        }
        assert!(!from(&[]));
        assert!(from(&[("host", "localhost:3001"), ("origin", "http://localhost:3001"), ("sec-fetch-site", "same-origin")]), "our page");
        for foreign in ["http://localhost", "http://localhost:8080", "http://127.0.0.1:3001", "https://localhost:3001", "localhost:3001"] {
            assert!(!from(&[("host", "localhost:3001"), ("origin", foreign)]), "{foreign}");
        }
        assert!(
            !from(&[("host", "evil.example:3001"), ("origin", "http://evil.example:3001"), ("sec-fetch-site", "same-origin")]),
            "rebinding"
        );
        assert!(!from(&[("host", "localhost:3001"), ("sec-fetch-site", "same-site")]), "a page of another port");
        assert!(!from(&[("host", "localhost:3001"), ("origin", "null")]));
        assert!(!from(&[("host", "localhost:3001"), ("sec-fetch-site", "cross-site")]), "an image or a link of a page");
    }
}
