//! One request: admitted, routed, sent, and its answer handed back; every way out that is not an upstream's answer goes through
//! [`rescue`].
//!
//! A request is sent a second time, on a new connection, only when nobody can tell: the connection was a reused one and either never
//! took the request, or ended without one byte of answer to an idempotent request without a body (RFC 9112 section 9.3.1).

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::EXPECT;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::admit;
use crate::body::{Download, Lease, Progress, Upload};
use crate::conn::Conn;
use crate::edge::Shared;
use crate::headers;
use crate::host::{self, Destination};
use crate::limits::Limits;
use crate::rescue::{self, Fault, Reader};
use crate::tunnel;
use crate::upstream::{DialError, Link, Route, TunnelPlace};

/// How often a request body that has used up its time is looked at again, at most: it may be the upstream that isn't reading.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
    let (edge, now) = (&conn.edge, Instant::now());
    let client = conn.via.client(request.headers(), &edge.policy);
    edge.gate.request_of(client, now, &edge.policy, &edge.limits)?;
    let admitted = host::admit(request.method(), request.version(), request.uri(), request.headers())?;
    conn.check(&admitted)?;
    if let Some(location) = conn.redirect(&admitted, request.uri()) {
        return Ok(rescue::moved(location).map(|page| Download::page(page, Arc::clone(conn))));
    }
    let target = match admitted.destination {
        Destination::Pod(key) => Target::Pod(key.and_then(|key| edge.routes.route(&key)).ok_or(Fault::NoSuchPod)?),
        Destination::Control => Target::Control(Arc::clone(&edge.control)),
    };
    target.check_room(edge, now, request.body().size_hint().lower())?;
    let can_upgrade = request.version() == Version::HTTP_11 && request.body().is_end_stream();
    let upgrade = headers::upgrade_of(request.headers()).filter(|_| can_upgrade);
    let tunnel = match &upgrade {
        Some(_) => {
            let place = target.route().tunnel(&edge.limits).ok_or(Fault::PodTunnelsFull)?;
            Some(Tunnel { client_side: hyper::upgrade::on(&mut request), place })
        }
        None => None,
    };

    let (mut parts, body) = request.into_parts();
    if parts.version != Version::HTTP_11 || body.is_end_stream() || !headers::expects_continue(&parts.headers) {
        parts.headers.remove(EXPECT);
    }
    headers::to_upstream(&mut parts.headers, admitted.host, &conn.via, upgrade);
    let head = upstream_head(parts);
    let (response, lease) = exchange(conn, &target, head, body).await?;
    edge.metrics.answered(target.is_pod(), response.status());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(conn, &target, tunnel, response, lease);
    }
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    headers::to_client(&mut parts.headers, None).map_err(|_| target.broken())?;
    Ok(Response::from_parts(parts, Download::upstream(body, lease, Arc::clone(conn))))
}

/// What a request that asks for an upgrade may become.
struct Tunnel {
    client_side: OnUpgrade,
    place: TunnelPlace,
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

    /// Whether a request with at least `length` bytes of body may be sent there at `now`.
    fn check_room(&self, edge: &Shared, now: Instant, length: u64) -> Result<(), Fault> {
        match self {
            Target::Pod(pod) => edge.gate.request_to(pod, now, &edge.limits),
            Target::Control(_) if length > self.bytes_max(&edge.limits) => Err(Fault::BodyTooLarge),
            Target::Control(_) => Ok(()),
        }
    }

    /// Bytes a request body may have.
    fn bytes_max(&self, limits: &Limits) -> u64 {
        if self.is_pod() { u64::MAX } else { limits.control_body_bytes }
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
            (_, DialError::Unwanted(_)) => Fault::PodRefused,
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
    let progress = (!body.is_end_stream()).then(|| Arc::new(Progress::of(conn, target.bytes_max(&edge.limits))));
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
    let link = target.route().dial(&edge.limits, &edge.policy).await.map_err(|error| target.not_dialled(&error))?;
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
    match progress {
        Some(upload) if upload.too_large() => Fault::BodyTooLarge,
        Some(upload) if upload.failed() => Fault::BadBody,
        _ => target.broken(),
    }
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
    let answered = pin!(link.sender.try_send_request(request));
    let patience = target.patience(edge);
    let result = match progress {
        None => timeout(patience, answered).await.map_err(|_elapsed| target.timed_out())?,
        Some(upload) => while_sending(upload, &edge.limits, patience, answered).await?.ok_or_else(|| target.timed_out())?,
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

/// Awaits the answer as long as the request body moves, and fast enough. `None` when the upstream let `patience` pass.
async fn while_sending<T>(
    upload: &Progress,
    limits: &Limits,
    patience: Duration,
    mut answered: Pin<&mut impl Future<Output = T>>,
) -> Result<Option<T>, Fault> {
    let (mut frames, mut since) = (0, Instant::now());
    loop {
        let allowed = admit::body_allowance(upload.bytes(), limits.body_grace, limits.body_bytes_per_second);
        let left = allowed.saturating_sub(upload.waited()).max(LOOK_AGAIN);
        if let Ok(answer) = timeout(left.min(patience.saturating_sub(since.elapsed())), answered.as_mut()).await {
            return Ok(Some(answer));
        }
        let allowed = admit::body_allowance(upload.bytes(), limits.body_grace, limits.body_bytes_per_second);
        if upload.awaits_client() && upload.waited() >= allowed {
            return Err(Fault::ClientTooSlow);
        }
        if upload.frames() != frames {
            (frames, since) = (upload.frames(), Instant::now());
        } else if since.elapsed() >= patience {
            return if upload.awaits_client() { Err(Fault::ClientStalled) } else { Ok(None) };
        }
    }
}

fn take_back(error: &mut TrySendError<Request<Upload>>) -> Option<Box<Request<Upload>>> {
    error.take_message().map(Box::new)
}

/// A 101 that was asked for becomes a tunnel; one that was not is no answer to anything.
fn switch(
    conn: &Arc<Conn>,
    target: &Target,
    tunnel: Option<Tunnel>,
    mut response: Response<Incoming>,
    lease: Lease,
) -> Result<Response<Download>, Fault> {
    let (Some(Tunnel { client_side, place }), Some(protocol)) = (tunnel, headers::upgrade_of(response.headers())) else {
        return Err(target.broken());
    };
    let upstream_side = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    parts.extensions.clear();
    parts.version = Version::HTTP_11;
    headers::to_client(&mut parts.headers, Some(protocol)).map_err(|_| target.broken())?;
    conn.clock.upgraded();
    tunnel::open(client_side, upstream_side, lease, place, Arc::clone(conn));
    Ok(Response::from_parts(parts, Download::page(bytes::Bytes::new(), Arc::clone(conn))))
}
