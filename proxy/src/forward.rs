//! One request: admitted, routed, sent, and its answer handed back; every way out that is not an upstream's answer goes through
//! [`rescue`].
//!
//! A request is sent a second time, on a new connection, only when nobody can tell: the connection was a reused one and either never
//! took the request, or ended without one byte of answer to an idempotent request without a body (RFC 9112 section 9.3.1).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::EXPECT;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::body::{Download, Lease, Progress, Upload};
use crate::conn::Conn;
use crate::edge::Shared;
use crate::headers;
use crate::host::{self, Destination};
use crate::rescue::{self, Fault, Reader};
use crate::tunnel;
use crate::upstream::{DialError, Link, Route};

/// Answers one request of a client connection.
pub(crate) async fn answer(conn: Arc<Conn>, request: Request<Incoming>) -> Response<Download> {
    let reader = Reader::of(request.headers());
    conn.unread.store(!request.body().is_end_stream(), Ordering::Relaxed);
    match forward(&conn, request).await {
        Ok(response) => response,
        Err(fault) => {
            conn.edge.metrics.failed(fault);
            rescue::answer(fault, reader).map(|page| Download::page(page, conn))
        }
    }
}

async fn forward(conn: &Arc<Conn>, mut request: Request<Incoming>) -> Result<Response<Download>, Fault> {
    let edge = &conn.edge;
    let admitted = host::admit(request.method(), request.version(), request.uri(), request.headers())?;
    let target = match admitted.destination {
        Destination::Pod(key) => Target::Pod(key.and_then(|key| edge.routes.route(&key)).ok_or(Fault::NoSuchPod)?),
        Destination::Control => Target::Control(Arc::clone(&edge.control)),
    };
    let can_upgrade = request.version() == Version::HTTP_11 && request.body().is_end_stream();
    let upgrade = headers::upgrade_of(request.headers()).filter(|_| can_upgrade);
    let client_side = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));

    let (mut parts, body) = request.into_parts();
    if parts.version != Version::HTTP_11 || body.is_end_stream() || !headers::expects_continue(&parts.headers) {
        parts.headers.remove(EXPECT);
    }
    headers::to_upstream(&mut parts.headers, admitted.host, conn.client.clone(), upgrade);
    let head = upstream_head(parts);
    let (response, lease) = exchange(conn, &target, head, body).await?;
    edge.metrics.answered(target.is_pod(), response.status());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(conn, &target, client_side, response, lease);
    }
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    headers::to_client(&mut parts.headers, None).map_err(|_| target.broken())?;
    Ok(Response::from_parts(parts, Download::upstream(body, lease, Arc::clone(conn))))
}

/// The upstream of a request, and which faults its failures are.
#[derive(Debug)]
enum Target {
    Pod(Arc<Route>),
    Control(Arc<Route>),
}

impl Target {
    fn route(&self) -> &Arc<Route> {
        match self {
            Target::Pod(route) | Target::Control(route) => route,
        }
    }

    fn is_pod(&self) -> bool {
        matches!(self, Target::Pod(_))
    }

    fn patience(&self, edge: &Shared) -> Duration {
        if self.is_pod() { edge.limits.first_byte } else { edge.limits.control_first_byte }
    }

    fn timed_out(&self) -> Fault {
        if self.is_pod() { Fault::PodTimedOut } else { Fault::ControlTimedOut }
    }

    fn broken(&self) -> Fault {
        if self.is_pod() { Fault::PodBroken } else { Fault::ControlBroken }
    }

    fn not_dialled(&self, error: &DialError) -> Fault {
        tracing::debug!(error = error as &dyn std::error::Error, route = ?self.route(), "upstream not reached");
        match (self, error) {
            (Target::Pod(_), DialError::Timeout) => Fault::PodTimedOut,
            (Target::Pod(_), DialError::Connect(_)) => Fault::PodUnreachable,
            (Target::Control(_), DialError::Timeout | DialError::Connect(_)) => Fault::ControlUnreachable,
            (_, DialError::Handshake(_)) => self.broken(),
        }
    }
}

/// What is sent of a request besides its body: HTTP/1.1, origin-form, and nothing of this side's connection.
fn upstream_head(parts: Parts) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = parts.method;
    *head.headers_mut() = parts.headers;
    *head.uri_mut() = match parts.uri.authority() {
        None => parts.uri,
        Some(_) => Uri::from(parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"))),
    };
    head
}

/// Sends the request and waits for the head of the answer.
async fn exchange(conn: &Conn, target: &Target, head: Request<()>, body: Incoming) -> Result<(Response<Incoming>, Lease), Fault> {
    let edge = &conn.edge;
    let progress = (!body.is_end_stream()).then(|| Arc::new(Progress::of(conn)));
    let upload = progress.as_ref().map_or_else(Upload::none, |progress| Upload::new(body, Arc::clone(progress)));
    let mut request = head.map(|()| upload);
    if request.headers().contains_key(EXPECT) {
        hold_for_continue(&mut request, edge.limits.continue_wait);
    }
    if let Some(link) = target.route().take() {
        edge.metrics.upstream_reused.inc();
        let spare = (progress.is_none() && request.method().is_idempotent()).then(|| copy_without_body(&request));
        match send(edge, target, link, request, progress.as_ref()).await? {
            Sent::Answered(response, lease) => return Ok((response, lease)),
            Sent::Untouched(unsent) => request = *unsent,
            Sent::Lost { answer_began: false } => request = spare.ok_or_else(|| lost(target, progress.as_deref()))?,
            Sent::Lost { answer_began: true } => return Err(lost(target, progress.as_deref())),
        }
        edge.metrics.upstream_retried.inc();
    }
    let link = target.route().dial(&edge.limits).await.map_err(|error| target.not_dialled(&error))?;
    edge.metrics.upstream_dialled.inc();
    match send(edge, target, link, request, progress.as_ref()).await? {
        Sent::Answered(response, lease) => Ok((response, lease)),
        Sent::Untouched(_) | Sent::Lost { .. } => Err(lost(target, progress.as_deref())),
    }
}

/// Lets the upstream decide from the head alone: its 100 releases the body, and its refusal spares it.
fn hold_for_continue(request: &mut Request<Upload>, patience: Duration) {
    let go = Arc::new(Notify::new());
    request.body_mut().hold(Arc::clone(&go), patience);
    hyper::ext::on_informational(request, move |answer| {
        if answer.status() == StatusCode::CONTINUE {
            go.notify_one();
        }
    });
}

fn copy_without_body(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::none());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn lost(target: &Target, progress: Option<&Progress>) -> Fault {
    if progress.is_some_and(Progress::failed) { Fault::BadBody } else { target.broken() }
}

/// What became of a request on one connection.
enum Sent {
    Answered(Response<Incoming>, Lease),
    /// The connection had ended before it took the request.
    Untouched(Box<Request<Upload>>),
    Lost {
        answer_began: bool,
    },
}

async fn send(
    edge: &Shared,
    target: &Target,
    mut link: Link,
    request: Request<Upload>,
    progress: Option<&Arc<Progress>>,
) -> Result<Sent, Fault> {
    let received = link.received();
    let mut answered = pin!(link.sender.try_send_request(request));
    let mut frames = 0;
    let result = loop {
        match timeout(target.patience(edge), &mut answered).await {
            Ok(result) => break result,
            Err(_elapsed) => match progress {
                Some(upload) if upload.frames() != frames => frames = upload.frames(),
                Some(upload) if upload.awaits_client() => return Err(Fault::ClientStalled),
                _ => return Err(target.timed_out()),
            },
        }
    };
    Ok(match result {
        Ok(response) => Sent::Answered(response, Lease { link, route: Arc::clone(target.route()), upload: progress.cloned() }),
        Err(mut error) => match take_back(&mut error) {
            Some(request) => Sent::Untouched(request),
            None => {
                tracing::debug!(error = error.error() as &dyn std::error::Error, "upstream gave no answer");
                Sent::Lost { answer_began: link.received() != received }
            }
        },
    })
}

fn take_back(error: &mut TrySendError<Request<Upload>>) -> Option<Box<Request<Upload>>> {
    error.take_message().map(Box::new)
}

/// A 101 that was asked for becomes a tunnel; one that was not is no answer to anything.
fn switch(
    conn: &Arc<Conn>,
    target: &Target,
    client_side: Option<OnUpgrade>,
    mut response: Response<Incoming>,
    lease: Lease,
) -> Result<Response<Download>, Fault> {
    let (Some(client_side), Some(protocol)) = (client_side, headers::upgrade_of(response.headers())) else {
        return Err(target.broken());
    };
    let upstream_side = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    parts.extensions.clear();
    parts.version = Version::HTTP_11;
    headers::to_client(&mut parts.headers, Some(protocol)).map_err(|_| target.broken())?;
    conn.clock.upgraded();
    tunnel::open(client_side, upstream_side, lease, Arc::clone(conn));
    Ok(Response::from_parts(parts, Download::page(bytes::Bytes::new(), Arc::clone(conn))))
}
