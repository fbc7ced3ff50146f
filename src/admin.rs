//! The operator's listener, on this machine only: JSON in and out.
//!
//! | path | answer | room |
//! |---|---|---|
//! | `/metrics` | for Prometheus | `figures` |
//! | `/metrics/pods?top=N` | the same of the N busiest pods (10, or up to 100): not in the scrape, where each pod would be a series | |
//! | `/`, `/getPods`, `/getPodInfo?id=`, `/getAllUptime`, POST `/config` | as the Node codiusd had them | `node` |
//! | `/status`, `/pods`, `/bans` | what the host does | `seen` |
//! | `/self-test`, POST `/self-test` | what the last self-test found; tests now | `tested` |
//! | POST `/pods/stop`, `/ban`, `/unban`, `/drain`, `/undrain`, `/log` | what it is told | `told` |
//!
//! `answer` has the one table from errors to answers, and how bodies are read. It has no password, so it is refused to web pages: a
//! request whose Host isn't this machine's is DNS rebinding, and one with an Origin is a page's.

mod answer;
mod figures;
mod node;
mod seen;
mod tested;
mod told;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderMap, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use codiusd_control::orders::Orders;
use codiusd_proxy::RouteTable;
use prometheus::Registry;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::task::AbortOnDropHandle;

use crate::self_test::SelfTest;
use answer::AdminError;

/// Longest body that is read, in bytes.
const BODY_MAX: usize = 64 * 1024;
/// Requests for pods to be stopped that are carried out at a time.
const STOPS_MAX: usize = 32;

/// What the operator sees and changes.
#[derive(Debug)]
struct Desk {
    registry: Registry,
    routes: Arc<RouteTable>,
    orders: Orders,
    started: Instant,
    stops: Arc<Semaphore>,
    self_test: Option<Arc<SelfTest>>,
}

/// The listener, until dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Admin {
    /// Opens it, if it is wanted.
    pub(crate) async fn start(
        address: Option<SocketAddr>,
        registry: Registry,
        routes: Arc<RouteTable>,
        orders: Orders,
        self_test: Option<Arc<SelfTest>>,
    ) -> io::Result<Option<Self>> {
        let Some(address) = address else { return Ok(None) };
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let desk = Desk { registry, routes, orders, started: Instant::now(), stops: Arc::new(Semaphore::new(STOPS_MAX)), self_test };
        let router = router(Arc::new(desk));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the admin listener has ended");
            }
        });
        Ok(Some(Self { address, _task: AbortOnDropHandle::new(task) }))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/", get(node::here))
        .route("/getPods", get(node::running))
        .route("/getPodInfo", get(node::pod))
        .route("/getAllUptime", get(node::uptime))
        .route("/config", post(node::config))
        .route("/metrics", get(figures::metrics))
        .route("/metrics/pods", get(figures::pods))
        .route("/status", get(seen::status))
        .route("/pods", get(seen::pods))
        .route("/pods/stop", post(told::stop))
        .route("/bans", get(seen::bans))
        .route("/ban", post(told::ban))
        .route("/unban", post(told::unban))
        .route("/drain", post(told::drain))
        .route("/undrain", post(told::undrain))
        .route("/log", post(told::log))
        .route("/self-test", get(tested::last).post(tested::now))
        .fallback(|| async { AdminError::NotFound })
        .method_not_allowed_fallback(|| async { AdminError::Method })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn(only_from_here))
        .with_state(desk)
}

async fn only_from_here(request: Request, next: Next) -> Response {
    if is_from_here(request.headers()) { next.run(request).await } else { AdminError::Foreign.into_response() }
}

/// Whether a request names this machine as its Host, and comes from no web page.
fn is_from_here(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _port)| name));
    let same_site = headers.get("sec-fetch-site").is_none_or(|site| site == "none" || site == "same-origin");
    matches!(name, Some("localhost" | "127.0.0.1")) && !headers.contains_key(header::ORIGIN) && same_site
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_pages_are_told_from_operators() {
        let from = |pairs: &[(&'static str, &str)]| {
            is_from_here(&pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect())
        };
        assert!(from(&[("host", "localhost:3001")]));
        assert!(from(&[("host", "127.0.0.1")]));
        assert!(from(&[("host", "127.0.0.1:3001"), ("sec-fetch-site", "none")]), "typed into a browser");
        for foreign in ["evil.example:3001", "localhost.evil.example", "127.0.0.1.evil.example:3001", "local.codius.org:3001", ""] {
            assert!(!from(&[("host", foreign)]), "{foreign}");
        }
        assert!(!from(&[]));
        assert!(!from(&[("host", "localhost:3001"), ("origin", "http://localhost:3001")]));
        assert!(!from(&[("host", "localhost:3001"), ("origin", "null")]));
        assert!(!from(&[("host", "localhost:3001"), ("sec-fetch-site", "cross-site")]), "an image or a link of a page");
    }
}
