//! One request, from its plan to the last byte of its answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::context::conn::Conn;
use crate::downstream::http1::client::{ClientStream, Http1Client};
use crate::downstream::http1::tunnel;
use crate::downstream::pace::Pace;
use crate::request::HEAD_ROOM;
use crate::request::error_response::{self, Fault, Reader};
use crate::request::plan::{Begun, Decision};
use crate::request::send::{self, Outcome};
use crate::request::target::now;
use crate::telemetry::request_id::RequestId;
use crate::time::http_date;
use crate::wire::answer::put_status_line;
use crate::wire::request;
use crate::wire::{BadHead, Bounds, field};

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It waits for another request.
    Again,
    /// It is closed, once the client has what was sent to it.
    Close,
    /// It is closed: its client has all there is, and sends nothing.
    Leave,
    /// It is over.
    Over,
}

/// Takes the head of a request from the inbox; none: it isn't whole. A head that can't be used is answered, too.
pub(crate) fn begin(conn: &Arc<Conn>, inbox: &mut BytesMut) -> Result<Option<Box<Begun>>, BadHead> {
    let limits = &conn.edge.limits;
    let bounds = Bounds { bytes: limits.header_bytes, fields: limits.header_fields };
    let (begun, length) = {
        let Some((head, length)) = request::read(inbox, bounds)? else { return Ok(None) };
        (Begun::of(conn, &head), length)
    };
    inbox.advance(length);
    Ok(Some(begun))
}

/// Answers it.
pub(crate) async fn answer<S>(
    conn: &Arc<Conn>,
    client: &mut S,
    inbox: &mut BytesMut,
    mut begun: Box<Begun>,
    shutdown: &ShutdownWatch,
) -> Next
where
    S: ClientStream,
{
    let facts = begun.facts;
    let page = match &mut begun.decision {
        Ok(Decision::Answer(page)) => std::mem::take(page),
        Ok(Decision::Send(plan)) => {
            let mut side = Http1Client::new(conn, client, inbox, facts, shutdown);
            match send::send(conn, &mut side, &mut begun.visit, plan, facts).await {
                Ok(Outcome::Answered { request_is_complete }) => {
                    let goes_on = !side.is_last() && (request_is_complete || !facts.has_body);
                    return if goes_on { Next::Again } else { Next::Close };
                }
                Ok(Outcome::Cut) => return Next::Close,
                Ok(Outcome::Left) => return Next::Over,
                Ok(Outcome::Switched(socket, heard, place)) => {
                    let said = std::mem::take(inbox);
                    // Boxed, as all that follows only now and then: a request that waits needs no room for it.
                    Box::pin(tunnel::join(conn, (client, said), (socket, heard), place, begun.visit)).await;
                    return Next::Over;
                }
                Err(fault) => send::page_of(fault, conn, facts, &begun.visit),
            }
        }
        Err(fault) => send::page_of(*fault, conn, facts, &begun.visit),
    };
    let drains = *shutdown.borrow();
    Box::pin(say(conn, client, &mut begun, &page, drains)).await
}

/// Sends a page of ours.
async fn say<S: AsyncWrite + Unpin>(conn: &Arc<Conn>, client: &mut S, begun: &mut Begun, page: &Response<Bytes>, drains: bool) -> Next {
    let Begun { visit, facts, .. } = begun;
    visit.answered(page.status());
    let is_last = !facts.keeps_alive || facts.has_body || drains || page.headers().contains_key(header::CONNECTION);
    let hsts = conn.hsts();
    let text = written(page, is_last, !facts.is_head, hsts.as_ref());
    visit.sent(if facts.is_head { 0 } else { page.body().len() });
    match (write_all(conn, client, text).await, is_last) {
        (false, _) => Next::Over,
        (true, true) => Next::Close,
        (true, false) => Next::Again,
    }
}

/// What is said to a client whose head can't be used, which has come in so much time.
pub(crate) async fn refuse<S>(conn: &Arc<Conn>, client: &mut S, fault: Fault, took: Duration) -> Next
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    conn.edge.metrics.failed(fault.label());
    conn.refused(fault.status(), took);
    let page = error_response::answer(fault, Reader::Program, now(), RequestId::next());
    if write_all(conn, client, written(&page, true, true, None)).await { Next::Close } else { Next::Over }
}

/// A page of ours as it is sent.
fn written(page: &Response<Bytes>, is_last: bool, has_content: bool, hsts: Option<&HeaderValue>) -> Bytes {
    let (status, body) = (page.status(), page.body());
    let mut out = BytesMut::with_capacity(HEAD_ROOM + body.len());
    put_status_line(&mut out, status.as_u16(), status.canonical_reason().unwrap_or_default());
    for (name, value) in page.headers().iter().filter(|(name, _)| *name != header::CONNECTION) {
        field::put(&mut out, name.as_str().as_bytes(), value.as_bytes());
    }
    field::put(&mut out, b"date", &http_date::now());
    if let Some(hsts) = hsts {
        field::put(&mut out, b"strict-transport-security", hsts.as_bytes());
    }
    if is_last {
        field::put(&mut out, b"connection", b"close");
    }
    field::put_length(&mut out, u64::try_from(body.len()).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
    if has_content {
        out.extend_from_slice(body);
    }
    out.freeze()
}

/// Whether the client took it.
async fn write_all<S: AsyncWrite + Unpin>(conn: &Arc<Conn>, client: &mut S, mut text: Bytes) -> bool {
    let mut pace = Pace::default();
    poll_fn(|cx| {
        while !text.is_empty() {
            let polled = Pin::new(&mut *client).poll_write(cx, &text);
            match ready!(pace.judge(polled, cx, conn)) {
                Ok(count @ 1..) => text.advance(count),
                _ => return Poll::Ready(false),
            }
        }
        let flushed = Pin::new(&mut *client).poll_flush(cx);
        pace.judge(flushed, cx, conn).map(|flushed| flushed.is_ok())
    })
    .await
}
