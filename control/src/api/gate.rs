//! The gate of a host that tests itself: until it has passed once, nobody uploads, and nobody tells it of hosts.
//!
//! | request | before the first pass | why |
//! |---|---|---|
//! | POST and OPTIONS `/pods` | 503 | nobody pays a host that may serve nothing, or is told a price there |
//! | POST `/peers/discover` | 503 | other hosts aren't told of one that may be out of reach |
//! | its own questions to other hosts | not asked | it names itself in them, and a host that looks finds this one shut |
//! | PUT and GET `/pods`, logs | as always | pods that are paid for go on |
//! | everything else | as always | who asks what is wrong is told; `/readyz` too, or a balancer would keep the test itself out |
//!
//! It opens for good: a test that fails later is said in `/info`, and by a metric. What the test itself sends carries a token made at start.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{
    Api,
    error::{Failure, RETRY_AFTER},
};

/// How the last self-test stands, in the words of the Node codiusd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelfTestStats {
    /// Whether all of it was well.
    pub self_test_success: bool,
    /// Whether a pod was paid for and started.
    pub upload_success: bool,
    /// Whether its page was fetched.
    pub http_success: bool,
    /// Whether it answered over a WebSocket.
    pub ws_success: bool,
    /// Whether it goes on.
    pub running: bool,
}

/// Until the host has passed its own test.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Untested {
    /// `Self Test Running` or `Self Test Failed`.
    message: &'static str,
    /// How far it has come.
    stats: SelfTestStats,
}

/// What may be said with a 503, for the document.
#[expect(dead_code, reason = "describes what two other places answer")]
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Unavailable {
    Failure(Failure),
    Untested(Untested),
}

/// What the self-test shows at the gate.
#[derive(Clone)]
pub struct GateToken(String);

impl GateToken {
    /// For a header; nowhere else.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for GateToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GateToken(hidden)")
    }
}

/// Whether uploads come in; cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    /// SHA-256 of the token; none: the host doesn't test itself.
    key: Option<[u8; 32]>,
    open: watch::Sender<bool>,
    stats: Mutex<SelfTestStats>,
    shown: AtomicU64,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("open", &self.is_open()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Gate {
    /// The gate of a host that doesn't test itself: open, always.
    pub fn open() -> Self {
        Self::of(None)
    }

    /// A gate that opens with the first test that is passed, and what lets that test in before.
    pub fn closed() -> (Self, GateToken) {
        let token = GateToken(hex::encode(rand::random::<[u8; 32]>()));
        (Self::of(Some(Sha256::digest(token.as_str()).into())), token)
    }

    fn of(key: Option<[u8; 32]>) -> Self {
        let stats = SelfTestStats { running: key.is_some(), ..SelfTestStats::default() };
        Self(Arc::new(Inner { open: watch::Sender::new(key.is_none()), key, stats: Mutex::new(stats), shown: AtomicU64::new(0) }))
    }

    /// Says how the test stands. One that is passed opens the gate.
    pub fn report(&self, stats: SelfTestStats) {
        *self.locked() = stats;
        if stats.self_test_success {
            self.0.open.send_replace(true);
        }
    }

    /// How the test stands.
    pub fn stats(&self) -> SelfTestStats {
        *self.locked()
    }

    /// Whether the last test was passed; none if there are no tests.
    pub fn success(&self) -> Option<bool> {
        self.0.key.map(|_| self.stats().self_test_success)
    }

    /// Whether everybody is let in.
    pub fn is_open(&self) -> bool {
        *self.0.open.borrow()
    }

    /// Returns when everybody is let in.
    pub async fn opened(&self) {
        // The sender lives as long as `self`: this ends with the gate open, not with an error.
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }

    /// How often the token was shown here: whoever has shown it elsewhere can tell.
    pub fn shown(&self) -> u64 {
        self.0.shown.load(Ordering::Acquire)
    }

    fn locked(&self) -> MutexGuard<'_, SelfTestStats> {
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `Authorization: <anything> <token>` has ours, in the same time wherever they differ.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (Some(key), Some((_scheme, token))) = (&self.0.key, value.and_then(|value| value.split_once(' '))) else { return false };
        let offered: [u8; 32] = Sha256::digest(token.trim()).into();
        let known = key.iter().zip(&offered).fold(0, |different, (one, other)| different | (one ^ other)) == 0;
        if known {
            self.0.shown.fetch_add(1, Ordering::AcqRel);
        }
        known
    }
}

/// What waits until the host has passed.
fn is_gated(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let preflight = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    match path {
        "/pods" => *method == Method::POST || (*method == Method::OPTIONS && !preflight),
        "/peers/discover" => *method == Method::POST,
        _ => false,
    }
}

pub(super) async fn pass(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let gate = &api.config.gate;
    // As the router compares it: without decoding.
    let path = request.uri().path();
    let known = gate.knows(request.headers());
    if gate.is_open() || !is_gated(request.method(), path, request.headers()) || (known && path == "/pods") {
        return next.run(request).await;
    }
    let stats = gate.stats();
    let message = if stats.running { "Self Test Running" } else { "Self Test Failed" };
    let retry_after = [(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER))];
    (StatusCode::SERVICE_UNAVAILABLE, retry_after, Json(Untested { message, stats })).into_response()
}
