//! One request, from its plan to the last byte of its answer.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use http::{Response, header};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::conn::Conn;
use crate::forward::now;
use crate::http1::download::{End, Setting};
use crate::http1::plan::{self, Decision, Facts, Plan};
use crate::http1::socket::Socket;
use crate::http1::transfer::Transfer;
use crate::http1::tunnel;
use crate::pace::Pace;
use crate::rescue::{self, Fault};
use crate::visit::Visit;
use crate::wire::request::{self, Room};
use crate::wire::{BadHead, Bounds, field, syntax};

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

/// A request whose head was read.
pub(crate) struct Begun {
    visit: Visit,
    facts: Facts,
    decision: Result<Decision, Fault>,
}

/// Takes the head of a request from the inbox; none: it isn't whole. A head that can't be used is answered, too.
pub(crate) fn begin(conn: &Arc<Conn>, inbox: &mut BytesMut) -> Result<Option<Begun>, BadHead> {
    let limits = &conn.edge.limits;
    let bounds = Bounds { bytes: limits.header_bytes, fields: limits.header_fields };
    let (begun, length) = {
        let mut room = Room::new();
        let Some((head, length)) = request::read(inbox, &mut room, bounds)? else { return Ok(None) };
        let mut visit = Visit::begin_raw(conn, &head);
        let decision = plan::decide(conn, &mut visit, &head);
        (Begun { visit, facts: Facts::of(&head), decision }, length)
    };
    inbox.advance(length);
    Ok(Some(begun))
}

/// Answers it.
pub(crate) async fn answer<S>(conn: &Arc<Conn>, client: &mut S, inbox: &mut BytesMut, begun: Begun, shutdown: &ShutdownWatch) -> Next
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Begun { mut visit, facts, decision } = begun;
    let page = match decision {
        Ok(Decision::Answer(page)) => page,
        Ok(Decision::Send(plan)) => match send(conn, client, inbox, &mut visit, plan, facts, shutdown).await {
            Ok(Sent::Ended(next)) => return next,
            Ok(Sent::Switched(socket, heard, place)) => {
                let said = std::mem::take(inbox);
                tunnel::join(conn, (client, said), (socket, heard), place, visit).await;
                return Next::Over;
            }
            Err(fault) => failed(conn, fault, facts, &visit),
        },
        Err(fault) => failed(conn, fault, facts, &visit),
    };
    visit.answered(page.status());
    let is_last = !facts.keeps_alive || facts.has_body || *shutdown.borrow() || page.headers().contains_key(header::CONNECTION);
    let text = written(conn, &page, &facts, is_last, &visit);
    visit.sent(if facts.is_head { 0 } else { page.body().len() });
    if !write_all(conn, client, text.into()).await {
        return Next::Over;
    }
    if is_last { Next::Close } else { Next::Again }
}

/// What is said to a client whose head can't be used.
pub(crate) async fn refuse<S>(conn: &Arc<Conn>, client: &mut S, fault: Fault) -> Next
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    conn.edge.metrics.failed(fault);
    conn.refused(fault.status());
    let id = crate::request_id::RequestId::next();
    let page = rescue::answer(fault, rescue::Reader::Program, now(), id);
    let mut out = Vec::with_capacity(512);
    put_page(&mut out, &page, true, true, None);
    if write_all(conn, client, out.into()).await { Next::Close } else { Next::Over }
}

enum Sent {
    Ended(Next),
    Switched(Socket, BytesMut, crate::upstream::TunnelPlace),
}

async fn send<S>(
    conn: &Arc<Conn>,
    client: &mut S,
    inbox: &mut BytesMut,
    visit: &mut Visit,
    mut plan: Box<Plan>,
    facts: Facts,
    shutdown: &ShutdownWatch,
) -> Result<Sent, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let edge = &conn.edge;
    let route = Arc::clone(plan.target.route());
    let mut reused = route.take_socket();
    loop {
        let is_reused = reused.is_some();
        let socket = match reused.take() {
            Some(socket) => {
                edge.metrics.upstream.reused.inc();
                socket
            }
            None => {
                let dialled = Box::pin(route.dial_socket(&edge.limits, &edge.policy)).await;
                let socket = dialled.map_err(|error| plan.target.not_dialled(&error, &edge.metrics.upstream))?;
                edge.metrics.upstream.dialled.inc();
                socket
            }
        };
        let setting = Setting { conn, plan: &plan, facts, shutdown };
        let mut transfer = Transfer::new(setting, &mut *client, &mut *inbox, &mut *visit, socket);
        let end = poll_fn(|cx| transfer.poll(cx)).await?;
        match end {
            End::Done { upstream_is_reusable, client_is_reusable } => {
                if upstream_is_reusable {
                    route.put_socket(transfer.into_upstream().0, &edge.room, &edge.limits);
                }
                return Ok(Sent::Ended(if client_is_reusable { Next::Again } else { Next::Close }));
            }
            End::Switched => {
                let (socket, heard) = transfer.into_upstream();
                return match plan.tunnel.take() {
                    Some(place) => Ok(Sent::Switched(socket, heard, place)),
                    None => Ok(Sent::Ended(Next::Close)),
                };
            }
            End::Cut => return Ok(Sent::Ended(Next::Close)),
            End::Left => return Ok(Sent::Ended(Next::Over)),
            // Nobody can tell that it is sent a second time (RFC 9112 section 9.3.1).
            End::Lost { answer_began: false, was_sent } if is_reused && (!was_sent || plan.method_is_idempotent && !facts.has_body) => {
                edge.metrics.upstream.retried.inc();
            }
            End::Lost { .. } => return Err(plan.target.broken()),
        }
    }
}

fn failed(conn: &Conn, fault: Fault, facts: Facts, visit: &Visit) -> Response<Bytes> {
    conn.edge.metrics.failed(fault);
    rescue::answer(fault, facts.reader, now(), visit.id())
}

fn written(conn: &Conn, page: &Response<Bytes>, facts: &Facts, is_last: bool, visit: &Visit) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + page.body().len());
    let id = visit.went_to_control().then(|| visit.id());
    let hsts = conn.hsts();
    put_page(&mut out, page, is_last, !facts.is_head, hsts.as_ref().map(http::HeaderValue::as_bytes));
    let _ = id;
    out
}

fn put_page(out: &mut Vec<u8>, page: &Response<Bytes>, is_last: bool, has_content: bool, hsts: Option<&[u8]>) {
    let status = page.status();
    crate::wire::answer::put_status_line(out, status.as_u16(), status.canonical_reason().unwrap_or_default());
    for (name, value) in page.headers() {
        if name != header::CONNECTION {
            field::put(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if let Some(hsts) = hsts {
        field::put(out, b"strict-transport-security", hsts);
    }
    if is_last {
        field::put(out, b"connection", b"close");
    }
    out.extend_from_slice(b"content-length: ");
    syntax::put_decimal(out, u64::try_from(page.body().len()).unwrap_or_default());
    out.extend_from_slice(b"\r\n\r\n");
    if has_content {
        out.extend_from_slice(page.body());
    }
}

/// Whether the client took it.
async fn write_all<S: AsyncWrite + Unpin>(conn: &Arc<Conn>, client: &mut S, mut text: Bytes) -> bool {
    let mut pace = Pace::default();
    poll_fn(|cx| {
        while !text.is_empty() {
            let polled = std::pin::Pin::new(&mut *client).poll_write(cx, &text);
            match std::task::ready!(pace.judge(polled, cx, conn)) {
                Ok(count @ 1..) => text.advance(count),
                _ => return std::task::Poll::Ready(false),
            }
        }
        let flushed = std::pin::Pin::new(&mut *client).poll_flush(cx);
        pace.judge(flushed, cx, conn).map(|flushed| flushed.is_ok())
    })
    .await
}
