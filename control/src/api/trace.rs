//! The id of each request, and the span that adds it to all of the request's log lines.
//!
//! The edge creates the id and removes ids sent by clients; a request without one, as on the socket itself, gets one here.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName},
    middleware::Next,
    response::Response,
};
use codiusd_runtime::PodId;
use tracing::{Instrument, Span, field::Empty};

/// Set by the edge.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id accepted.
const ID_MAX: usize = 64;
/// Characters of a path that are logged.
const PATH_MAX: usize = 200;

tokio::task_local! {
    static ID: String;
}

pub(super) async fn trace(request: Request, next: Next) -> Response {
    let id = id_of(request.headers());
    let path = request.uri().path();
    let path = (0..=path.len().min(PATH_MAX)).rev().find_map(|end| path.get(..end)).unwrap_or_default();
    let span = tracing::info_span!("request", request_id = id, method = %request.method(), path, pod = Empty, payment = Empty);
    ID.scope(id, next.run(request)).instrument(span).await
}

/// The id of the current request.
pub(super) fn request_id() -> Option<String> {
    ID.try_with(String::clone).ok()
}

/// Records the pod the request is about.
pub(super) fn about(pod: &PodId) {
    Span::current().record("pod", pod.as_str());
}

fn id_of(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_id(id));
    given.map_or_else(|| hex::encode(rand::random::<[u8; 16]>()), str::to_owned)
}

/// Whether `text` is safe to log as an id: one word.
fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_MAX && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_is_taken_over() {
        let id = |given: &str| id_of(&HeaderMap::from_iter([(REQUEST_ID, given.parse().unwrap())]));
        for good in ["a", "0f8fad5b-d9cb-469f-a165-70867728950e", &"x".repeat(64)] {
            assert_eq!(id(good), good);
        }
        for bad in ["", "a b", "a\tb", "ä", "a\"", "a,b", &"x".repeat(65)] {
            let made = id(bad);
            assert!(made != bad && made.len() == 32 && is_id(&made), "{bad:?}: {made}");
        }
        assert_ne!(id_of(&HeaderMap::new()), id_of(&HeaderMap::new()));
    }
}
