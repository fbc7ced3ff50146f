//! A request is sent to its upstream, and its answer to the client.
//!
//! It is sent a second time only when nobody can tell (RFC 9112 section 9.3.1): the connection was a reused one, and either took nothing of
//! it, or ended without one byte of answer to an idempotent request without content.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::Response;

use crate::context::conn::Conn;
use crate::request::client::Client;
use crate::request::error_response::{self, Fault};
use crate::request::exchange::{End, Setting};
use crate::request::plan::{Facts, Plan};
use crate::request::target::now;
use crate::request::transfer::Transfer;
use crate::request::visit::Visit;
use crate::upstream::route::TunnelPlace;
use crate::upstream::socket::Socket;

/// What became of a request.
pub(crate) enum Outcome {
    /// The client has its answer.
    Answered { request_is_complete: bool },
    /// The upstream has switched protocols, and has said this.
    Switched(Socket, BytesMut, TunnelPlace),
    /// The answer broke off.
    Cut,
    /// The client left.
    Left,
}

/// Sends it; a fault is for the client to be told.
pub(crate) async fn send<C: Client>(
    conn: &Arc<Conn>,
    client: &mut C,
    visit: &mut Visit,
    plan: &mut Plan,
    facts: Facts,
) -> Result<Outcome, Fault> {
    let edge = &conn.edge;
    let route = Arc::clone(plan.target.route());
    let mut reused = route.take();
    loop {
        let is_reused = reused.is_some();
        let socket = match reused.take() {
            Some(socket) => {
                edge.metrics.upstream.reused.inc();
                socket
            }
            None => {
                let left = poll_fn(|cx| if client.is_heard_apart() { client.poll_left(cx) } else { Poll::Pending });
                let dialled = tokio::select! {
                    biased;
                    () = left => return Ok(Outcome::Left),
                    dialled = Box::pin(route.dial(&edge.limits, &edge.policy)) => dialled,
                };
                let socket = dialled.map_err(|error| plan.target.not_dialled(&error, &edge.metrics.upstream))?;
                edge.metrics.upstream.dialled.inc();
                socket
            }
        };
        let mut transfer = Transfer::new(Setting { conn, plan, facts }, &mut *client, &mut *visit, socket);
        let end = poll_fn(|cx| transfer.poll(cx)).await?;
        match end {
            End::Done { upstream_is_reusable, request_is_complete } => {
                if upstream_is_reusable {
                    route.put(transfer.into_upstream().0, &edge.room, &edge.limits);
                }
                return Ok(Outcome::Answered { request_is_complete });
            }
            End::Switched => {
                let (socket, heard) = transfer.into_upstream();
                return Ok(plan.tunnel.take().map_or(Outcome::Cut, |place| Outcome::Switched(socket, heard, place)));
            }
            End::Cut => return Ok(Outcome::Cut),
            End::Left => return Ok(Outcome::Left),
            End::Lost { answer_began: false, was_sent } if is_reused && (!was_sent || plan.method_is_idempotent && !facts.has_body) => {
                edge.metrics.upstream.retried.inc();
            }
            End::Lost { .. } => return Err(plan.target.broken()),
        }
    }
}

/// The page for a request that has no answer.
pub(crate) fn page_of(fault: Fault, conn: &Conn, facts: Facts, visit: &Visit) -> Response<Bytes> {
    conn.edge.metrics.failed(fault.label());
    error_response::answer(fault, facts.reader, now(), visit.id())
}
