//! One request: admitted, routed, sent, and its answer handed back; every way out that is not an upstream's answer goes through
//! [`rescue`].
//!
//! A request is sent a second time, on a new connection, only when nobody can tell: the connection was a reused one and either never
//! took the request, or ended without one byte of answer to an idempotent request without a body (RFC 9112 section 9.3.1).

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{EXPECT, STRICT_TRANSPORT_SECURITY};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::admit;
use crate::body::{Download, Lease, Progress, Upload};
use crate::conn::Conn;
use crate::edge::Shared;
use crate::headers::{self, Content};
use crate::host::{self, Destination};
use crate::limits::Limits;
use crate::metrics::Upstreams;
use crate::request_id::X_REQUEST_ID;
use crate::rescue::{self, Fault, Reader};
use crate::upstream::{DialError, Link, Route};
use crate::visit::Visit;

/// How often a request body that has used up its time is looked at again, at most: it may be the upstream that isn't reading.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Answers one request of a client connection. All that can be decided at once is, before there is a future: what waits for the upstream
/// is then small, and is moved around with every request.
pub(crate) fn answer(conn: Arc<Conn>, request: Request<Incoming>) -> impl Future<Output = Response<Download>> + Send {
    let reader = Reader::of(request.headers());
    let mut visit = Visit::begin(&conn, &request);
    let step = prepare(&conn, &mut visit, request);
    async move {
        let answered = match step {
            Ok(Step::Send(sending)) => sending.run(&conn).await,
            Ok(Step::Answer(page)) => Ok(page.map(Answer::Page)),
            Err(fault) => Err(fault),
        };
        let mut response = answered.unwrap_or_else(|fault| {
            conn.edge.metrics.failed(fault);
            rescue::answer(fault, reader, now(), visit.id()).map(Answer::Page)
        });
        visit.answered(response.status());
        if visit.went_to_control() {
            response.headers_mut().insert(X_REQUEST_ID, visit.id().value());
        }
        if let Some(hsts) = conn.hsts() {
            response.headers_mut().entry(STRICT_TRANSPORT_SECURITY).or_insert(hsts);
        }
        response.map(|answer| match answer {
            Answer::Page(page) => Download::page(page, visit, conn),
            Answer::Upstream(body, lease) => Download::upstream(body, lease, visit, conn),
        })
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or_default()
}

/// What follows the head of an answer.
enum Answer {
    Page(Bytes),
    Upstream(Incoming, Lease),
}

/// What is done about a request.
enum Step {
    /// The edge answers it.
    Answer(Response<Bytes>),
    Send(Box<Sending>),
}

/// A request on its way to its upstream.
struct Sending {
    target: Target,
    request: Request<Upload>,
    /// That of its body, if it has one.
    progress: Option<Arc<Progress>>,
}

fn prepare(conn: &Arc<Conn>, visit: &mut Visit, mut request: Request<Incoming>) -> Result<Step, Fault> {
    let edge = &conn.edge;
    let client = conn.via.client(request.headers(), &edge.policy);
    edge.gate.request_of(client, visit.begun(), &edge.policy, &edge.limits)?;
    if request.body().size_hint().exact().is_none() && !headers::is_framed_once(request.headers()) {
        return Err(Fault::BadFraming);
    }
    if request.headers().len() > edge.limits.header_fields {
        return Err(Fault::TooManyFields);
    }
    let admitted = host::admit(request.method(), request.version(), request.uri(), request.headers())?;
    conn.check(&admitted)?;
    if let Some(location) = conn.redirect(&admitted, || Some(request.uri().clone())) {
        return Ok(Step::Answer(rescue::moved(location)));
    }
    let target = Target::of(&admitted.destination, edge, visit)?;
    target.check_room(edge, visit.begun(), request.body().size_hint().lower())?;
    let progress = (!request.body().is_end_stream()).then(|| Arc::new(Progress::of(conn, target.bytes_max(&edge.limits))));
    if progress.is_none() || request.version() != Version::HTTP_11 || !headers::expects_continue(request.headers()) {
        request.headers_mut().remove(EXPECT);
    }
    headers::to_upstream(request.headers_mut(), admitted.host, &conn.via, visit.id());
    as_upstream_takes_it(&mut request);
    let mut request = request.map(|body| match &progress {
        Some(progress) => Upload::new(body, Arc::clone(progress)),
        None => Upload::none(),
    });
    if let Some(progress) = &progress {
        visit.uploads(Arc::clone(progress));
        if request.headers().contains_key(EXPECT) {
            hold_for_continue(&mut request, edge.limits.continue_wait);
        }
    }
    Ok(Step::Send(Box::new(Sending { target, request, progress })))
}

impl Sending {
    async fn run(self: Box<Self>, conn: &Arc<Conn>) -> Result<Response<Answer>, Fault> {
        let Sending { target, request, progress } = *self;
        let (response, lease) = exchange(&conn.edge, &target, request, progress).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(target.broken());
        }
        let (mut parts, body) = response.into_parts();
        parts.version = Version::HTTP_11;
        let answer = match headers::to_client(parts.status, &mut parts.headers).map_err(|_| target.broken())? {
            // The lease is dropped, and with it the connection.
            Content::None { announced } if announced || !body.is_end_stream() => Answer::Page(Bytes::new()),
            _ => Answer::Upstream(body, lease),
        };
        Ok(Response::from_parts(parts, answer))
    }
}

/// The upstream of a request, and which faults its failures are.
#[derive(Debug)]
pub(crate) enum Target {
    Pod(Arc<Route>),
    Control(Arc<Route>),
}

impl Target {
    pub(crate) fn route(&self) -> &Arc<Route> {
        match self {
            Target::Pod(route) | Target::Control(route) => route,
        }
    }

    fn is_pod(&self) -> bool {
        matches!(self, Target::Pod(_))
    }

    pub(crate) fn of(destination: &Destination, edge: &Shared, visit: &mut Visit) -> Result<Target, Fault> {
        let Destination::Pod(key) = destination else {
            visit.goes_to_control();
            return Ok(Target::Control(Arc::clone(&edge.control)));
        };
        let key = key.ok_or(Fault::NoSuchPod)?;
        visit.is_for(key);
        let route = edge.routes.route(&key).ok_or_else(|| edge.routes.why_not(&key, now()))?;
        visit.goes_to_pod(&route);
        Ok(Target::Pod(route))
    }

    /// Whether a request with at least `length` bytes of body may be sent there at `now`.
    pub(crate) fn check_room(&self, edge: &Shared, now: Instant, length: u64) -> Result<(), Fault> {
        if let Target::Pod(pod) = self {
            edge.gate.request_to(pod, now, &edge.limits)?;
        }
        if length > self.bytes_max(&edge.limits) { Err(Fault::BodyTooLarge) } else { Ok(()) }
    }

    /// Bytes a request body may have.
    pub(crate) fn bytes_max(&self, limits: &Limits) -> u64 {
        if self.is_pod() { limits.pod_body_bytes } else { limits.control_body_bytes }
    }

    pub(crate) fn patience(&self, edge: &Shared) -> Duration {
        if self.is_pod() { edge.limits.first_byte } else { edge.limits.control_first_byte }
    }

    pub(crate) fn timed_out(&self) -> Fault {
        if self.is_pod() { Fault::PodTimedOut } else { Fault::ControlTimedOut }
    }

    pub(crate) fn broken(&self) -> Fault {
        if self.is_pod() { Fault::PodBroken } else { Fault::ControlBroken }
    }

    pub(crate) fn not_dialled(&self, error: &DialError, counters: &Upstreams) -> Fault {
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

/// Makes the head one of HTTP/1.1 in origin-form, with nothing of this side's connection.
fn as_upstream_takes_it<B>(request: &mut Request<B>) {
    request.extensions_mut().clear();
    *request.version_mut() = Version::HTTP_11;
    if request.uri().authority().is_some() {
        let parts = std::mem::take(request.uri_mut()).into_parts();
        *request.uri_mut() = Uri::from(parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
}

/// Sends the request and waits for the head of the answer.
async fn exchange(
    edge: &Shared,
    target: &Target,
    mut request: Request<Upload>,
    progress: Option<Arc<Progress>>,
) -> Result<(Response<Incoming>, Lease), Fault> {
    if let Some(link) = target.route().take() {
        edge.metrics.upstream.reused.inc();
        let spare = (progress.is_none() && request.method().is_idempotent()).then(|| Box::new(copy_without_body(&request)));
        match send(edge, target, link, request, progress.as_ref()).await? {
            Sent::Answered(response, lease) => return Ok((response, lease)),
            Sent::Untouched(unsent) => request = *unsent,
            Sent::Lost { answer_began: false } => request = *spare.ok_or_else(|| lost(target, progress.as_deref()))?,
            Sent::Lost { answer_began: true } => return Err(lost(target, progress.as_deref())),
        }
        edge.metrics.upstream.retried.inc();
    }
    // Rare and large: it would be room in every request's future.
    let dialled = Box::pin(target.route().dial(&edge.limits, &edge.policy)).await;
    let link = dialled.map_err(|error| target.not_dialled(&error, &edge.metrics.upstream))?;
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
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Sent {
    Answered(Response<Incoming>, Lease),
    /// The connection had ended before it took the request.
    Untouched(Box<Request<Upload>>),
    Lost {
        answer_began: bool,
    },
}

fn send<'a>(
    edge: &'a Shared,
    target: &'a Target,
    mut link: Link,
    request: Request<Upload>,
    progress: Option<&'a Arc<Progress>>,
) -> impl Future<Output = Result<Sent, Fault>> + Send + 'a {
    let received = link.received();
    let mut answered = Box::pin(link.sender.try_send_request(request));
    async move {
        let patience = target.patience(edge);
        let result = match progress {
            None => link.within(patience, answered.as_mut()).await,
            Some(upload) => Box::pin(while_sending(upload, &edge.limits, patience, answered.as_mut())).await?,
        };
        let Some(result) = result else {
            edge.metrics.upstream.answer_timeout.inc();
            return Err(target.timed_out());
        };
        Ok(match result {
            Ok(response) => Sent::Answered(response, Lease { link, route: Arc::clone(target.route()), upload: progress.cloned() }),
            Err(mut error) => match take_back(&mut error) {
                Some(request) => Sent::Untouched(Box::new(request)),
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
