//! `/pods/{hash}/logs`: what the containers of a `debug: true` pod wrote, as `<container> <stdout|stderr> <text>` lines.
//!
//! Nothing is buffered here: a line is read when the client takes it. With `follow=true` the response ends with the pod's
//! containers; one that ends earlier is aborted, so that no client takes it for complete. The line `ping` keeps a silent connection
//! alive, as in the Node codiusd. The published `codius tail`
//! shows nothing more after its first `ping` (its transform never calls back); it is recognized by its missing User-Agent, and
//! gets an empty line now and then instead.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use codiusd_api_types::error::Failure;
use codiusd_runtime::{LogLine, LogLines, PodId, RuntimeError};
use futures::{Stream, StreamExt};
use tokio::time;

use super::{Api, error::ApiError, request};

const CONTENT_TYPE: &str = "application/vnd.codius.raw-stream";

/// The keepalive line, and the silence after which it is sent.
#[derive(Clone, Copy, Debug)]
struct KeepAlive {
    silence: Duration,
    line: &'static [u8],
}

const PING: KeepAlive = KeepAlive { silence: Duration::from_secs(1), line: b"ping\n" };
const EMPTY: KeepAlive = KeepAlive { silence: Duration::from_secs(15), line: b"\n" };

/// Returns the log of a `debug: true` pod
#[utoipa::path(
    get,
    path = "/pods/{hash}/logs",
    tag = "pods",
    params(
        ("hash" = String, Path, description = "the manifest's hash"),
        ("follow" = Option<String>, Query, description = "exactly `true`: the answer continues until the pod ends"),
    ),
    responses(
        (
            status = 200,
            description = "lines of `<container> <stdout or stderr> <text>`",
            content_type = "application/vnd.codius.raw-stream",
            body = String
        ),
        (status = 400, description = "A query parameter is invalid", body = Failure),
        (status = 403, description = "The manifest does not set `debug: true`", body = Failure),
        (status = 404, description = "There is no such pod", body = Failure),
        (status = 503, description = "The runtime does not answer", body = Failure, headers(("Retry-After" = u32, description = "Seconds"))),
    ),
)]
pub(super) async fn logs(
    State(api): State<Arc<Api>>,
    Path(hash): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let unknown = || ApiError::NoPod(hash.clone());
    let id: PodId = hash.parse().map_err(|_| unknown())?;
    let manager = api.paid_requests.pods();
    let order = manager.order(&id).ok_or_else(unknown)?;
    if !order.debug {
        return Err(ApiError::DebugNotAllowed(id));
    }
    let follow = request::parameter(&uri, "follow")?.is_some_and(|value| value == "true");
    let lines = manager.logs(&id, follow).await?;
    let keep_alive = if headers.contains_key(header::USER_AGENT) { PING } else { EMPTY };
    let body = if follow {
        Body::from_stream(kept_alive(lines, keep_alive).take_until(api.config.draining.clone().cancelled_owned()))
    } else {
        Body::from_stream(texts(lines))
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], body).into_response())
}

/// The log as a stream of lines. An error aborts the response.
fn texts(lines: LogLines) -> impl Stream<Item = Result<Bytes, RuntimeError>> + Send {
    lines.map(|line| {
        let line = line.inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, "pod log ended before the pod"))?;
        Ok(text(&line))
    })
}

fn kept_alive(lines: LogLines, keep_alive: KeepAlive) -> impl Stream<Item = Result<Bytes, RuntimeError>> + Send {
    futures::stream::unfold(texts(lines).boxed(), move |mut texts| async move {
        let next = match time::timeout(keep_alive.silence, texts.next()).await {
            Ok(text) => text?,
            Err(_silence) => Ok(Bytes::from_static(keep_alive.line)),
        };
        Some((next, texts))
    })
}

fn text(line: &LogLine) -> Bytes {
    [line.container.as_bytes(), b" ", line.stream.as_str().as_bytes(), b" ", &line.text, b"\n"].concat().into()
}
