//! `/pods/{hash}/logs`: what the containers of a `debug: true` pod wrote, as `<container> <stdout|stderr> <text>` lines.
//!
//! Nothing is buffered here: a line is read when the client takes it. With `follow=true` the answer ends with the pod's
//! containers, and one that ends before them is cut off, so that nobody takes it for whole; a silent connection is kept alive by the line `ping`, as the Node codiusd did. The published `codius tail`
//! shows nothing any more after its first `ping` (its transform never calls back); it is known by having no User-Agent, and
//! gets an empty line now and then instead.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use codiusd_runtime::{LogLine, LogLines, PodId, RuntimeError};
use futures::{Stream, StreamExt};
use tokio::time;

use super::{
    Api,
    error::{ApiError, Failure},
    request,
};

const CONTENT_TYPE: &str = "application/vnd.codius.raw-stream";

/// What is sent after how much silence.
#[derive(Clone, Copy, Debug)]
struct KeepAlive {
    silence: Duration,
    line: &'static [u8],
}

const PING: KeepAlive = KeepAlive { silence: Duration::from_secs(1), line: b"ping\n" };
const EMPTY: KeepAlive = KeepAlive { silence: Duration::from_secs(15), line: b"\n" };

/// What the containers of a `debug: true` pod wrote
#[utoipa::path(
    get,
    path = "/pods/{hash}/logs",
    tag = "pods",
    params(
        ("hash" = String, Path, description = "the manifest's hash"),
        ("follow" = Option<String>, Query, description = "exactly `true`: the answer goes on until the pod ends"),
    ),
    responses(
        (
            status = 200,
            description = "`<container> <stdout|stderr> <text>` lines",
            content_type = "application/vnd.codius.raw-stream",
            body = String
        ),
        (status = 400, description = "The query is wrong", body = Failure),
        (status = 403, description = "The pod doesn't allow it", body = Failure),
        (status = 404, description = "There is no such pod", body = Failure),
        (status = 503, description = "The runtime can't tell now", body = Failure, headers(("Retry-After" = u32, description = "Seconds"))),
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
    let keeper = api.orders.keeper();
    let order = keeper.order(&id).ok_or_else(unknown)?;
    if !order.debug {
        return Err(ApiError::DebugNotAllowed(id));
    }
    let follow = request::parameter(&uri, "follow")?.is_some_and(|value| value == "true");
    let lines = keeper.logs(&id, follow).await?;
    let keep_alive = if headers.contains_key(header::USER_AGENT) { PING } else { EMPTY };
    let body = if follow {
        Body::from_stream(kept_alive(lines, keep_alive).take_until(api.config.draining.clone().cancelled_owned()))
    } else {
        Body::from_stream(texts(lines))
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], body).into_response())
}

/// The lines as they are sent. After an error the answer is cut off.
fn texts(lines: LogLines) -> impl Stream<Item = Result<Bytes, RuntimeError>> + Send {
    lines.map(|line| {
        let line = line.inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, "a log ends before its pod"))?;
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
