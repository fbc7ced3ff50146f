//! One request, from its head to the last byte of its answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::COOKIE;
use http::uri::Scheme;
use http::{HeaderMap, Request, Response, request};

use crate::context::conn::Conn;
use crate::downstream::http2::client::Http2Client;
use crate::downstream::http2::flow::{Flow, Piece};
use crate::request::client::{Client, Sent};
use crate::request::error_response::{self, Fault, Reader};
use crate::request::plan::{Begun, Decision};
use crate::request::send::{self, Outcome};
use crate::request::target::now;
use crate::telemetry::request_id::RequestId;
use crate::wire::BadHead;
use crate::wire::field::Field;
use crate::wire::request::{RequestHead, Target};

/// How a request came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Answered,
    /// Its client has taken it back.
    TakenBack,
}

/// Answers one request.
pub(crate) async fn answer(conn: Arc<Conn>, flow: Arc<Flow>, request: Request<RecvStream>, respond: SendResponse<Piece>) -> Ended {
    let (parts, body) = request.into_parts();
    let begun = begin(&conn, &parts, !body.is_end_stream());
    drop(parts);
    let mut client = Http2Client::new(&flow, body, respond);
    let mut begun = match begun {
        Ok(begun) => begun,
        Err(bad) => return Box::pin(refuse(&conn, client, bad.into())).await,
    };
    let facts = begun.facts;
    let page = match &mut begun.decision {
        Ok(Decision::Answer(page)) => std::mem::take(page),
        Ok(Decision::Send(plan)) => match send::send(&conn, &mut client, &mut begun.visit, plan, facts).await {
            Ok(Outcome::Answered { .. }) => return Ended::Answered,
            Ok(Outcome::Cut | Outcome::Switched(..)) => {
                client.breaks();
                return Ended::Answered;
            }
            Ok(Outcome::Left) => return Ended::TakenBack,
            Err(fault) => send::page_of(fault, &conn, facts, &begun.visit),
        },
        Err(fault) => send::page_of(*fault, &conn, facts, &begun.visit),
    };
    begun.visit.answered(page.status());
    begun.visit.sent(if facts.is_head { 0 } else { page.body().len() });
    Box::pin(send_page(&conn, client, &page, facts.is_head)).await
}

/// What is said to a client whose head can't be used.
async fn refuse(conn: &Conn, client: Http2Client, fault: Fault) -> Ended {
    conn.edge.metrics.failed(fault.label());
    let page = error_response::answer(fault, Reader::Program, now(), RequestId::next());
    send_page(conn, client, &page, false).await
}

async fn send_page(conn: &Conn, mut client: Http2Client, page: &Response<Bytes>, is_head: bool) -> Ended {
    client.page(page, is_head, conn.hsts());
    let mut nothing = BytesMut::new();
    poll_fn(|cx| {
        loop {
            match client.poll_send(&mut nothing, 0, false, cx) {
                Poll::Ready(Ok(Sent { bytes: 1.., .. })) => {}
                Poll::Ready(Ok(_)) => return Poll::Ready(Ended::Answered),
                Poll::Ready(Err(_)) => return Poll::Ready(Ended::TakenBack),
                Poll::Pending => return client.poll_left(cx).map(|()| Ended::TakenBack),
            }
        }
    })
    .await
}

fn begin(conn: &Arc<Conn>, parts: &request::Parts, has_content: bool) -> Result<Box<Begun>, BadHead> {
    let uri = &parts.uri;
    let cookies = joined_cookies(&parts.headers);
    let others = parts.headers.iter().filter(|(name, _)| cookies.is_none() || *name != COOKIE);
    let others = others.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let fields = others.chain(cookies.as_deref().map(|cookies| ("cookie", cookies)));
    let fields = fields.map(|(name, value)| Field::new(name.as_bytes(), value)).collect();
    let target = Target {
        authority: uri.authority().map(|authority| authority.as_str().as_bytes()),
        path: uri.path_and_query().map_or("", |path| path.as_str()).as_bytes(),
    };
    let mut head = RequestHead::of_http2(parts.method.as_str().as_bytes(), target, has_content, fields)?;
    // In the line of a request it would be read as something else.
    let is_http = uri.scheme().is_none_or(|scheme| [&Scheme::HTTP, &Scheme::HTTPS].contains(&scheme));
    head.has_odd_target = !is_http || !matches!(target.path, b"" | b"*" | [b'/', ..]);
    Ok(Begun::of(conn, &head))
}

/// Cookies that came as fields of their own, which HTTP/1.1 has no form for (RFC 9113 section 8.2.3).
fn joined_cookies(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut cookies = headers.get_all(COOKIE).iter();
    let (first, second) = (cookies.next()?, cookies.next()?);
    let mut joined = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    Some(joined)
}
