//! The operator's listener, on this machine only: `/metrics` for Prometheus.
//!
//! It has no password, so it is refused to web pages: a request whose Host isn't this machine's is DNS rebinding.

use std::{io, net::SocketAddr};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// The listener, until dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Admin {
    /// Opens it.
    pub(crate) async fn start(address: SocketAddr, registry: Registry) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/metrics", get(metrics)).layer(middleware::from_fn(only_from_here)).with_state(registry);
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
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
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
    use super::*;

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
