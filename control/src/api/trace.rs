//! The id of each request, and the span that carries it into every line that is logged on its behalf.
//!
//! The front door makes the id and removes what strangers send as one; a request that has none, as on the socket itself, gets one here.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName},
    middleware::Next,
    response::Response,
};
use codiusd_runtime::PodId;
use sha2::{Digest, Sha256};
use tracing::{Instrument, Span, field::Empty};

/// How the front door tells it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest that is taken over.
const ID_MAX: usize = 64;
/// So much of a path is logged.
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

/// The id of the request that is being answered.
pub(super) fn request_id() -> Option<String> {
    ID.try_with(String::clone).ok()
}

/// Says which pod the request is about.
pub(super) fn about(pod: &PodId) {
    Span::current().record("pod", pod.as_str());
}

/// Says which payment is used for the request. Its segment is part of an address, so a hash of it is told.
pub(crate) fn paid_with(segment: &str) {
    let hash = Sha256::digest(segment);
    Span::current().record("payment", hex::encode(&hash[..8]));
}

fn id_of(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_id(id));
    given.map_or_else(|| hex::encode(rand::random::<[u8; 16]>()), str::to_owned)
}

/// Nothing that a reader of logs could take for more than a word.
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
