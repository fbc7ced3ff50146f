//! Answers, worded and wrapped as hyperd's are.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde_json::{Value, json};

/// A body of any kind.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
/// What a call leads to.
pub(super) type Answer = Result<Response<Body>, Refusal>;

/// Longer bodies are sent in chunks.
const PLAIN_MAX: usize = 2048;
const SERVER: HeaderValue = HeaderValue::from_static("Docker/library-import (linux)");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// An error: a line of text, whose words say what status it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub text: String,
}

impl Refusal {
    /// An error with any other words.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, text: text.into() }
    }

    /// The same with another status.
    pub(super) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = text(self.status, format!("{}\n", self.text));
        response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        response
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body in chunks, as they come.
pub(super) fn chunks(chunks: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)))).boxed_unsync()
}

/// An answer without `Content-Type`.
pub(super) fn bare(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::SERVER, SERVER);
    response
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = bare(status, full(text));
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

/// JSON, without anything behind it.
pub(super) fn json_text(status: StatusCode, text: String, chunked: bool) -> Response<Body> {
    let body = if chunked { chunks(stream::once(async { Bytes::from(text) })) } else { full(text) };
    let mut response = bare(status, body);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// A JSON value and a newline.
pub(super) fn json_value(status: StatusCode, value: &Value) -> Response<Body> {
    let text = go(value) + "\n";
    let chunked = text.len() > PLAIN_MAX;
    json_text(status, text, chunked)
}

/// JSON as Go writes it: safe inside HTML.
pub(super) fn go(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// `{"Cause":"","Code":0,"ID":id}`. An id that happens to be JSON is taken for it.
pub(super) fn done(status: StatusCode, id: &str) -> Response<Body> {
    let id = serde_json::from_str::<Value>(id).unwrap_or_else(|_| json!(id));
    json_value(status, &json!({ "Cause": "", "Code": 0, "ID": id }))
}

/// `{}`.
pub(super) fn nothing(status: StatusCode) -> Response<Body> {
    json_value(status, &json!({}))
}
