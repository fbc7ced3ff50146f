//! The operator's listener, on this machine only: JSON in and out.
//!
//! | path | answer | room |
//! |---|---|---|
//! | `/metrics` | for Prometheus | `figures` |
//! | `/metrics/pods?top=N` | the same of the N busiest pods (10, or up to 100): not in the scrape, where each pod would be a series | |
//! | `/` | a page for people (`dashboard`, with `chart` and `history`); JSON, as the Node codiusd has it, for everything else | |
//! | `/getPods`, `/getPodInfo?id=`, `/getAllUptime`, POST `/config` | as the Node codiusd had them | `node` |
//! | `/status`, `/pods`, `/bans` | what the host does | `seen` |
//! | `/self-test`, POST `/self-test` | what the last self-test found; tests now | `tested` |
//! | POST `/pods/stop`, `/ban`, `/unban`, `/drain`, `/undrain`, `/log` | what it is told | `told` |
//!
//! `answer` has the one table from errors to answers, and how bodies are read. It has no password, so it is refused to web pages: a
//! request whose Host isn't this machine's is DNS rebinding, and one with an Origin that isn't this listener's is a page's.

mod answer;
mod chart;
mod dashboard;
mod figures;
mod history;
mod node;
mod seen;
mod tested;
mod told;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::{HeaderMap, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use codiusd_control::{orders::Orders, peers::Peers};
use codiusd_proxy::RouteTable;
use prometheus::Registry;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::task::AbortOnDropHandle;

use crate::self_test::SelfTest;
use answer::AdminError;
use history::History;

/// Longest body that is read, in bytes.
const BODY_MAX: usize = 64 * 1024;
/// Requests for pods to be stopped that are carried out at a time.
const STOPS_MAX: usize = 32;

/// What the operator sees and changes.
#[derive(Debug)]
pub(crate) struct Seen {
    /// What is counted.
    pub(crate) registry: Registry,
    /// What is counted for the operator only.
    pub(crate) money: Registry,
    /// What visitors do.
    pub(crate) routes: Arc<RouteTable>,
    /// Pods and money.
    pub(crate) orders: Orders,
    /// Other hosts.
    pub(crate) peers: Peers,
    /// Where visitors reach the host.
    pub(crate) public_uri: String,
    /// How it tests itself, if it does.
    pub(crate) self_test: Option<Arc<SelfTest>>,
}

#[derive(Debug)]
struct Desk {
    registry: Registry,
    money: Registry,
    routes: Arc<RouteTable>,
    orders: Orders,
    peers: Peers,
    public_uri: String,
    self_test: Option<Arc<SelfTest>>,
    history: History,
    started: Instant,
    stops: Arc<Semaphore>,
}

impl Desk {
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
    /// Opens it, if it is wanted.
    pub(crate) async fn start(address: Option<SocketAddr>, seen: Seen) -> io::Result<Option<Self>> {
        let Some(address) = address else { return Ok(None) };
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let Seen { registry, money, routes, orders, peers, public_uri, self_test } = seen;
        let (history, started, stops) = (History::default(), Instant::now(), Arc::new(Semaphore::new(STOPS_MAX)));
        let desk = Arc::new(Desk { registry, money, routes, orders, peers, public_uri, self_test, history, started, stops });
        let router = router(desk.clone());
        let supervisor = desk.orders.keeper().supervisor().clone();
        let served = supervisor.spawn_service("admin listener", async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the admin listener has ended");
            }
        });
        let kept = supervisor.spawn_service("history", async move { desk.history.keep(&desk.registry, &desk.orders).await });
        Ok(Some(Self { address, _tasks: [served, kept].map(AbortOnDropHandle::new) }))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/", get(dashboard::index))
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
    if !is_from_here(request.headers()) {
        return AdminError::Foreign.into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a request names this machine as its Host, and comes from no web page but our own.
fn is_from_here(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _port)| name));
    let same_site = headers.get("sec-fetch-site").is_none_or(|site| site == "none" || site == "same-origin");
    // Our page is at the very host and port that it asks. Every other page, also one of another port of this machine, is foreign.
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let own_page = origins.all(|origin| origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://")) == host);
    matches!(name, Some("localhost" | "127.0.0.1")) && own_page && same_site
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
