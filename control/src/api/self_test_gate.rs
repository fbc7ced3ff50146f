//! The gate of a host that tests itself: until the self-test has passed once, it refuses uploads and announcements of hosts.
//!
//! | request | before the first pass | why |
//! |---|---|---|
//! | POST and OPTIONS `/pods` | 503 | nobody should pay, or get a price from, a host that may serve nothing |
//! | POST `/peers/discover` | 503 | other hosts must not learn of a host that may be unreachable |
//! | its own requests to other hosts | not sent | they announce this host, and a host that verifies it would find it closed |
//! | PUT and GET `/pods`, logs | unchanged | paid pods continue |
//! | everything else | unchanged | the cause must stay visible; a closed `/readyz` would make a balancer block the self-test itself |
//!
//! It opens for good: a later failure shows in `/info` and in a metric. Requests of the self-test carry a token created at start.

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
use codiusd_api_types::error::Failure;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use utoipa::ToSchema;

use super::{Api, error::RETRY_AFTER};

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

/// What the self-test presents at the gate.
#[derive(Clone)]
pub struct SelfTestToken(String);

impl SelfTestToken {
    /// For a header; nowhere else.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SelfTestToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SelfTestToken(hidden)")
    }
}

/// Whether uploads are accepted; cheap to clone.
#[derive(Clone)]
pub struct SelfTestGate(Arc<Inner>);

struct Inner {
    /// SHA-256 of the token; none: the host doesn't test itself.
    key: Option<[u8; 32]>,
    open: watch::Sender<bool>,
    stats: Mutex<SelfTestStats>,
    shown: AtomicU64,
}

impl fmt::Debug for SelfTestGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfTestGate").field("open", &self.is_open()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl SelfTestGate {
    /// The gate of a host that doesn't test itself: always open.
    pub fn open() -> Self {
        Self::of(None)
    }

    /// A gate that opens with the first passed test, and the token that admits the test before.
    pub fn closed() -> (Self, SelfTestToken) {
        let token = SelfTestToken(hex::encode(rand::random::<[u8; 32]>()));
        (Self::of(Some(Sha256::digest(token.as_str()).into())), token)
    }

    fn of(key: Option<[u8; 32]>) -> Self {
        let stats = SelfTestStats { running: key.is_some(), ..SelfTestStats::default() };
        Self(Arc::new(Inner { open: watch::Sender::new(key.is_none()), key, stats: Mutex::new(stats), shown: AtomicU64::new(0) }))
    }

    /// Records the state of the test. The first pass opens the gate.
    pub fn report(&self, stats: SelfTestStats) {
        *self.locked() = stats;
        if stats.self_test_success {
            self.0.open.send_replace(true);
        }
    }

    /// The state of the test.
    pub fn stats(&self) -> SelfTestStats {
        *self.locked()
    }

    /// Whether the last test passed; none if there are no tests.
    pub fn success(&self) -> Option<bool> {
        self.0.key.map(|_| self.stats().self_test_success)
    }

    /// Whether the gate is open.
    pub fn is_open(&self) -> bool {
        *self.0.open.borrow()
    }

    /// Returns when the gate is open.
    pub async fn opened(&self) {
        // The sender lives as long as `self`, so this returns with the gate open, never with an error.
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }

    /// How often the token was presented here: the self-test detects a token that reached another host.
    pub fn shown(&self) -> u64 {
        self.0.shown.load(Ordering::Acquire)
    }

    fn locked(&self) -> MutexGuard<'_, SelfTestStats> {
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `Authorization: <anything> <token>` has our token, compared in constant time.
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

/// Whether the request is refused until the self-test has passed.
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
    // Compared like the router does: without decoding.
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
