//! One request: admitted, routed, sent, and its answer handed back; every way out that is not an upstream's answer goes through
//! [`rescue`].
//!
//! A request is sent a second time, on a new connection, only when nobody can tell: the connection was a reused one and either never
//! took the request, or ended without one byte of answer to an idempotent request without a body (RFC 9112 section 9.3.1).

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::admit;
use crate::body::{Download, Lease, Progress, Upload};
use crate::conn::Conn;
use crate::edge::Shared;
use crate::headers;
use crate::host::{self, Destination};
use crate::limits::Limits;
use crate::metrics::{To, Upstreams};
use crate::rescue::{self, Fault, Reader};
use crate::tunnel::{self, Tunnel};
use crate::upstream::{DialError, Link, Route, TunnelPlace};
use crate::visit::Visit;

/// How often a request body that has used up its time is looked at again, at most: it may be the upstream that isn't reading.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Answers one request of a client connection.
pub(crate) async fn answer(conn: Arc<Conn>, request: Request<Incoming>) -> Response<Download> {
    let reader = Reader::of(request.headers());
    conn.unread.store(!request.body().is_end_stream(), Ordering::Relaxed);
    let mut visit = Visit::begin(&conn, &request);
    let response = forward(&conn, &mut visit, request).await.unwrap_or_else(|fault| {
        conn.edge.metrics.failed(fault);
        let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        rescue::answer(fault, reader, now).map(Answer::Page)
    });
    visit.answered(response.status());
    response.map(|answer| match answer {
        Answer::Page(page) => Download::page(page, visit, conn),
        Answer::Upstream(body, lease) => Download::upstream(body, lease, visit, conn),
        Answer::Tunnel(tunnel) => {
            tunnel::open(tunnel, visit, Arc::clone(&conn));
            Download::switched(conn)
        }
    })
}

/// What follows the head of an answer.
enum Answer {
    Page(Bytes),
    Upstream(Incoming, Lease),
    Tunnel(Tunnel),
}

async fn forward(conn: &Arc<Conn>, visit: &mut Visit, mut request: Request<Incoming>) -> Result<Response<Answer>, Fault> {
    let edge = &conn.edge;
    let client = conn.via.client(request.headers(), &edge.policy);
    edge.gate.request_of(client, visit.begun(), &edge.policy, &edge.limits)?;
    if request.body().size_hint().exact().is_none() && !headers::is_framed_once(request.headers(), conn.requests.is_ambiguous()) {
        return Err(Fault::BadFraming);
    }
    let admitted = host::admit(request.method(), request.version(), request.uri(), request.headers())?;
    conn.check(&admitted)?;
    if let Some(location) = conn.redirect(&admitted, request.uri()) {
        return Ok(rescue::moved(location).map(Answer::Page));
    }
    let target = Target::of(&admitted.destination, edge, visit)?;
    target.check_room(edge, visit.begun(), request.body().size_hint().lower())?;
    let can_upgrade = request.version() == Version::HTTP_11 && request.body().is_end_stream();
    let upgrade = headers::upgrade_of(request.headers()).filter(|_| can_upgrade);
    let switchable = match &upgrade {
        Some(_) => {
            let place = target.route().tunnel(&edge.limits).ok_or(Fault::PodTunnelsFull)?;
            Some((hyper::upgrade::on(&mut request), place))
        }
        None => None,
    };

    let (mut parts, body) = request.into_parts();
    if parts.version != Version::HTTP_11 || body.is_end_stream() || !headers::expects_continue(&parts.headers) {
        parts.headers.remove(EXPECT);
    }
    headers::to_upstream(&mut parts.headers, admitted.host, &conn.via, upgrade);
    let head = upstream_head(parts);
    let progress = (!body.is_end_stream()).then(|| Arc::new(Progress::of(conn, target.bytes_max(&edge.limits))));
    if let Some(progress) = &progress {
        visit.uploads(Arc::clone(progress));
    }
    let (response, lease) = exchange(edge, &target, head, body, progress).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(conn, &target, switchable, response, lease);
    }
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    headers::to_client(&mut parts.headers, None).map_err(|_| target.broken())?;
    Ok(Response::from_parts(parts, Answer::Upstream(body, lease)))
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

    fn of(destination: &Destination, edge: &Shared, visit: &mut Visit) -> Result<Target, Fault> {
        let Destination::Pod(key) = destination else {
            visit.goes(To::Control);
            return Ok(Target::Control(Arc::clone(&edge.control)));
        };
        let key = key.ok_or(Fault::NoSuchPod)?;
        visit.is_for(key);
        let route = edge.routes.route(&key).ok_or(Fault::NoSuchPod)?;
        visit.goes(To::Pod);
        Ok(Target::Pod(route))
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

    fn not_dialled(&self, error: &DialError, counters: &Upstreams) -> Fault {
        match error {
            DialError::Unwanted(_) => counters.unwanted.inc(),
            DialError::Withdrawn => {}
            DialError::Timeout => counters.connect_timeout.inc(),
            DialError::Connect(_) => counters.unreachable.inc(),
            DialError::Handshake(_) => counters.broken.inc(),
        }
        tracing::debug!(error = error as &dyn std::error::Error, route = ?self.route(), "upstream not reached");
        match (self, error) {
            (_, DialError::Unwanted(_)) => Fault::PodRefused,
            (_, DialError::Withdrawn) => Fault::NoSuchPod,
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
async fn exchange(
    edge: &Shared,
    target: &Target,
    head: Request<()>,
    body: Incoming,
    progress: Option<Arc<Progress>>,
) -> Result<(Response<Incoming>, Lease), Fault> {
    let upload = progress.as_ref().map_or_else(Upload::none, |progress| Upload::new(body, Arc::clone(progress)));
    let mut request = head.map(|()| upload);
    if request.headers().contains_key(EXPECT) {
        hold_for_continue(&mut request, edge.limits.continue_wait);
    }
    if let Some(link) = target.route().take() {
        edge.metrics.upstream.reused.inc();
        let spare = (progress.is_none() && request.method().is_idempotent()).then(|| copy_without_body(&request));
        match send(edge, target, link, request, progress.as_ref()).await? {
            Sent::Answered(response, lease) => return Ok((response, lease)),
            Sent::Untouched(unsent) => request = unsent,
            Sent::Lost { answer_began: false } => request = spare.ok_or_else(|| lost(target, progress.as_deref()))?,
            Sent::Lost { answer_began: true } => return Err(lost(target, progress.as_deref())),
        }
        edge.metrics.upstream.retried.inc();
    }
    let link = target.route().dial(&edge.limits, &edge.policy).await.map_err(|error| target.not_dialled(&error, &edge.metrics.upstream))?;
    edge.metrics.upstream.dialled.inc();
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
    Untouched(Request<Upload>),
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
        None => timeout(patience, answered).await.ok(),
        Some(upload) => while_sending(upload, &edge.limits, patience, answered).await?,
    };
    let Some(result) = result else {
        edge.metrics.upstream.answer_timeout.inc();
        return Err(target.timed_out());
    };
    Ok(match result {
        Ok(response) => Sent::Answered(response, Lease { link, route: Arc::clone(target.route()), upload: progress.cloned() }),
        Err(mut error) => match take_back(&mut error) {
            Some(request) => Sent::Untouched(request),
            None => {
                tracing::debug!(error = error.error() as &dyn std::error::Error, "upstream gave no answer");
                if progress.is_none_or(|upload| !upload.failed() && !upload.too_large()) {
                    edge.metrics.upstream.broken.inc();
                }
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

fn take_back(error: &mut TrySendError<Request<Upload>>) -> Option<Request<Upload>> {
    error.take_message()
}

/// A 101 that was asked for becomes a tunnel; one that was not is no answer to anything.
fn switch(
    conn: &Arc<Conn>,
    target: &Target,
    switchable: Option<(OnUpgrade, TunnelPlace)>,
    mut response: Response<Incoming>,
    lease: Lease,
) -> Result<Response<Answer>, Fault> {
    let (Some((client, place)), Some(protocol)) = (switchable, headers::upgrade_of(response.headers())) else {
        return Err(target.broken());
    };
    let upstream = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    parts.extensions.clear();
    parts.version = Version::HTTP_11;
    headers::to_client(&mut parts.headers, Some(protocol)).map_err(|_| target.broken())?;
    conn.clock.upgraded();
    Ok(Response::from_parts(parts, Answer::Tunnel(Tunnel { client, upstream, lease, place })))
}
