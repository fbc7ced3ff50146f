//! What is done about a request, decided from its head alone.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Response;

use crate::context::conn::Conn;
use crate::request::HEAD_ROOM;
use crate::request::error_response::{self, Fault, Reader};
use crate::request::host::{self, Named};
use crate::request::https;
use crate::request::target::Target;
use crate::request::visit::Visit;
use crate::upstream::route::TunnelPlace;
use crate::wire::Framing;
use crate::wire::request::{Forwarded, RequestHead};

/// A request that is to be sent to an upstream.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// The head its upstream gets.
    pub(crate) head: BytesMut,
    pub(crate) framing: Framing,
    /// Bytes its body may have.
    pub(crate) body_max: u64,
    pub(crate) passes_trailers: bool,
    pub(crate) waits_for_continue: bool,
    pub(crate) method_is_idempotent: bool,
    /// Room for the tunnel it would become.
    pub(crate) tunnel: Option<TunnelPlace>,
}

/// What there is to know of the client's side, whatever becomes of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) is_head: bool,
    pub(crate) is_old: bool,
    pub(crate) keeps_alive: bool,
    pub(crate) takes_trailers: bool,
    pub(crate) has_body: bool,
    pub(crate) reader: Reader,
}

impl Facts {
    pub(crate) fn of(head: &RequestHead<'_>) -> Facts {
        Facts {
            is_head: head.method == b"HEAD",
            is_old: head.is_old,
            keeps_alive: head.keeps_alive,
            takes_trailers: head.takes_trailers,
            has_body: head.has_body(),
            reader: Reader::of(head.accepts()),
        }
    }
}

/// A request whose head was read. Boxed, because it goes from hand to hand.
pub(crate) struct Begun {
    pub(crate) visit: Visit,
    pub(crate) facts: Facts,
    pub(crate) decision: Result<Decision, Fault>,
}

impl Begun {
    pub(crate) fn of(conn: &Arc<Conn>, head: &RequestHead<'_>) -> Box<Begun> {
        let mut visit = Visit::begin(conn, head);
        let decision = decide(conn, &mut visit, head);
        Box::new(Begun { visit, facts: Facts::of(head), decision })
    }
}

/// What comes of a head.
pub(crate) enum Decision {
    Send(Plan),
    /// The edge answers it.
    Answer(Response<Bytes>),
}

fn decide(conn: &Arc<Conn>, visit: &mut Visit, head: &RequestHead<'_>) -> Result<Decision, Fault> {
    let edge = &conn.edge;
    let client = conn.via.client(head.forwarded_for().rev(), &edge.policy);
    if !edge.gate.admits_from(client, visit.begun(), &edge.policy, &edge.limits) {
        return Err(Fault::ClientTooFast);
    }
    if matches!(head.method, b"CONNECT" | b"TRACE") {
        return Err(Fault::MethodNotAllowed);
    }
    if head.fields.len() > edge.limits.header_fields {
        return Err(Fault::TooManyFields);
    }
    if head.has_odd_target {
        return Err(Fault::BadTarget);
    }
    if head.has_hosts {
        return Err(Fault::BadHost);
    }
    let named = Named { host: head.host, authority: head.target.authority, may_be_missing: head.is_old };
    let admitted = host::admit(named)?;
    https::check(conn, &admitted)?;
    if let Some(location) = https::redirect(conn, &admitted, head.target.path) {
        return Ok(Decision::Answer(error_response::moved(location)));
    }
    let target = Target::of(&admitted.destination, edge, visit)?;
    let length = if let Framing::Length(length) = head.framing { length } else { 0 };
    target.check_room(edge, visit.begun(), length)?;
    let tunnel = match head.upgrade {
        Some(_) => Some(target.route().tunnel(&edge.limits).ok_or(Fault::PodTunnelsFull)?),
        None => None,
    };
    let mut out = BytesMut::with_capacity(HEAD_ROOM);
    let id = visit.id().text();
    head.put(
        &mut out,
        &Forwarded {
            host: admitted.host,
            peer: conn.via.text.as_bytes(),
            is_believed: conn.via.trusted,
            is_secure: conn.via.secure,
            request_id: &id,
        },
    );
    Ok(Decision::Send(Plan {
        body_max: target.bytes_max(&edge.limits),
        target,
        head: out,
        framing: head.framing,
        passes_trailers: head.has_trailer(),
        waits_for_continue: head.waits_for_continue(),
        method_is_idempotent: visit.method().is_idempotent(),
        tunnel,
    }))
}
