//! What applies to every response: the rest of the request body is read first, browsers get errors as pages, and some headers
//! are common to all.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time;

use super::{error::ErrorMessage, page};

/// Most bytes of a request body that are read after its response is known.
const REST_MAX: usize = 16 * 1024 * 1024;
/// Time limit of that.
const REST_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn finish(request: Request, next: Next) -> Response {
    let person = crate::html::accepts_html(request.headers());
    // A client that waits for 100 Continue hasn't sent the body, and doesn't need to.
    let waits = request.headers().contains_key(header::EXPECT);
    let mut rest = None;
    let request = request.map(|body| if body.is_end_stream() { body } else { Body::new(rest.insert(Rest::of(body)).clone()) });
    let mut response = next.run(request).await;
    if let Some(rest) = rest.filter(|_| !waits) {
        rest.discard().await;
    }
    let told = response.extensions_mut().remove::<ErrorMessage>();
    if let Some(told) = told.filter(|_| person) {
        let page = page::error(response.status(), &told.0);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        crate::html::put_headers(response.headers_mut(), &page);
        *response.body_mut() = page.into();
    }
    put_common_headers(response.headers_mut());
    response
}

/// Responses change all the time, and web pages may read them. `Server` names no version, which would only help somebody who looks
/// for a vulnerable one.
fn put_common_headers(headers: &mut HeaderMap) {
    headers.insert(header::SERVER, HeaderValue::from_static("codiusd"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Pay"));
    if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json") {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    }
}

/// A request body whose unread rest can be discarded after its handler. Closing a connection with unread bytes would reset
/// it, and a client that is still sending might never receive the response.
#[derive(Clone, Debug)]
struct Rest(Arc<Mutex<Body>>);

impl Rest {
    fn of(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    fn body(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads to the end of the body or to a limit.
    async fn discard(mut self) {
        let reading = async {
            let mut left = REST_MAX;
            while left > 0
                && !self.is_end_stream()
                && let Some(Ok(frame)) = self.frame().await
            {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            }
        };
        if time::timeout(REST_WITHIN, reading).await.is_err() {
            tracing::debug!("a request that is answered goes on for too long");
        }
    }
}

impl HttpBody for Rest {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.body()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}
