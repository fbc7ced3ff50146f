//! One client connection that speaks HTTP/2: many requests at once, each on its way as HTTP/1.1.
//!
//! ```text
//! accepted --> requests under way <--> none under way --keep_alive--> GOAWAY --header_deadline--> closed
//!                     \__ drain: GOAWAY, requests under way finish __/
//! ```
//!
//! WebSockets over HTTP/2 (RFC 8441) are not offered, so clients open an HTTP/1.1 connection for them.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_util::task::TaskTracker;

use crate::body::Download;
use crate::conn::Conn;
use crate::forward;
use crate::idle::WhenWoken;
use crate::limits::Limits;
use crate::outlet::Outlet;
use crate::pace::{self, Debt, Pace, Slow};

/// Bytes of one request body that may be on their way to an upstream that takes none.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all requests of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Requests taken back before they are looked at (CVE-2023-44487); then the connection is closed.
const UNSEEN_RESETS: usize = 20;
/// Malformed requests of one connection; then it is closed.
const MALFORMED: usize = 32;

/// Serves the connection to its end. When `shutdown` turns true the requests in flight are finished and none is begun.
pub(crate) async fn serve<S>(conn: Arc<Conn>, stream: S, mut shutdown: ShutdownWatch)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let edge = Arc::clone(&conn.edge);
    let limits = &edge.limits;
    let streams = Arc::new(Streams::new());
    let handing = Arc::clone(&conn);
    let refusing = Arc::clone(&conn);
    let io = Lingering { stream, conn: Arc::clone(&conn), pace: Pace::default(), farewell: None };
    let service = service_fn({
        let streams = Arc::clone(&streams);
        move |request| answer(Arc::clone(&conn), request, UnderWay::begin(&streams))
    });
    let mut serving = pin!(builder(limits, edge.tasks.clone()).serve_connection(TokioIo::new(io), service));
    let mut stopping = WhenWoken::new(async { shutdown.wait_for(|stop| *stop).await.is_ok() });
    let mut cut = WhenWoken::new(edge.cut.cancelled());
    let mut taken_back = WhenWoken::new(streams.taken_back(limits.h2_cancelled));
    let mut draining = false;
    let mut timer = pin!(sleep_until(streams.started + limits.header_deadline));
    let mut watch = Watch { debt: Debt::default(), looked: streams.started };
    loop {
        let ended = poll_fn(|cx| poll_served(serving.as_mut(), &handing.outlet, cx));
        tokio::select! {
            biased;
            ended = ended => {
                if let Err(error) = ended {
                    told(&error, &refusing);
                }
                return;
            }
            _ = &mut stopping, if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
                timer.as_mut().reset(Instant::now() + limits.header_deadline);
            }
            () = &mut timer => {
                let now = Instant::now();
                if let Some(slow) = watch.look(&streams, now, limits) {
                    slow.count(&edge.metrics.cut);
                    return;
                }
                let allowed = if draining || streams.is_fresh() { limits.header_deadline } else { limits.keep_alive };
                match streams.idle_since().map(|since| since + allowed) {
                    Some(over) if over > now => timer.as_mut().reset(over),
                    None => timer.as_mut().reset(now + allowed.min(pace::look_every(limits))),
                    Some(_) if draining => return,
                    Some(_) => {
                        if streams.is_fresh() {
                            edge.metrics.cut.header_deadline.inc();
                        }
                        draining = true;
                        serving.as_mut().graceful_shutdown();
                        timer.as_mut().reset(now + limits.header_deadline);
                    }
                }
            }
            () = &mut taken_back => {
                tracing::debug!("client takes back its requests: connection closed");
                edge.metrics.cut.abusive.inc();
                return;
            }
            () = &mut cut => return,
        }
    }
}

/// Polls the connection, and serves the turns that were asked for before if there is nothing left to write.
fn poll_served<T>(serving: Pin<&mut impl Future<Output = T>>, outlet: &Outlet, cx: &mut Context<'_>) -> Poll<T> {
    outlet.is_driven_by(cx.waker());
    let asked = outlet.asked();
    let polled = serving.poll(cx);
    if polled.is_pending() && outlet.is_flushed() {
        outlet.serve(asked);
    }
    polled
}

/// Counts a connection that we have ended because of what came over it.
fn told(error: &hyper::Error, conn: &Conn) {
    tracing::debug!(%error, "client connection ended");
    let source = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    match source.filter(|error| error.is_go_away() && error.is_library()).and_then(h2::Error::reason) {
        Some(h2::Reason::ENHANCE_YOUR_CALM) => conn.edge.metrics.cut.abusive.inc(),
        Some(h2::Reason::NO_ERROR) | None => {}
        Some(_) => conn.refused(StatusCode::BAD_REQUEST),
    }
}

/// Looks now and then whether a client lets answers through: it may take all that is sent to it, and allow little to be sent. That
/// it doesn't take what is sent is seen by its stream.
struct Watch {
    debt: Debt,
    looked: Instant,
}

impl Watch {
    fn look(&mut self, streams: &Streams, now: Instant, limits: &Limits) -> Option<Slow> {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        self.debt.took(streams.left.load(Ordering::Relaxed), limits.send_bytes_per_second);
        if streams.are_waiting() {
            self.debt.waited(passed.min(pace::look_every(limits)));
        } else {
            self.debt.is_even();
        }
        self.debt.verdict(limits, false)
    }
}

fn builder(limits: &Limits, tasks: TaskTracker) -> Builder<Tracked> {
    let mut builder = Builder::new(Tracked(tasks));
    builder
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        .max_local_error_reset_streams(MALFORMED)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(limits.buffer_bytes);
    builder
}

fn answer(
    conn: Arc<Conn>,
    mut request: Request<Incoming>,
    mut under_way: UnderWay,
) -> impl Future<Output = Result<Response<Watched>, Infallible>> + Send {
    as_http1(&mut request);
    // Boxed: h2 and tokio move it half a dozen times until it is a task.
    Box::pin(forward::answer(conn, request)).map(|response| {
        Ok(response.map(|body| {
            under_way.finished = body.is_end_stream();
            Watched { body, under_way }
        }))
    })
}

/// Says in fields what HTTP/1.1 has no other place for, or no other form (RFC 9113 sections 8.2.3 and 8.3.1).
fn as_http1(request: &mut Request<Incoming>) {
    if let Some(authority) = request.uri().authority()
        && !request.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    join_cookies(request.headers_mut());
}

/// HTTP/2 clients send each cookie as a field of its own; HTTP/1.1 allows one field.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

/// A stream that is closed only when the client has ended, or after `linger`: what a client still sends (it acknowledges what it takes)
/// would be answered with a reset, which overtakes the last answers. Writes fail when the client takes too little.
#[derive(Debug)]
struct Lingering<S> {
    stream: S,
    conn: Arc<Conn>,
    pace: Pace,
    farewell: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.conn.outlet.wrote();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.pace.judge(polled, cx, &this.conn)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        if polled.is_ready() {
            this.conn.outlet.flushed();
        }
        this.pace.judge(polled, cx, &this.conn)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.farewell.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let linger = this.conn.edge.limits.linger;
        let farewell = this.farewell.get_or_insert_with(|| Box::pin(sleep(linger)));
        let mut discarded = [0; 8 * 1024];
        while farewell.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.conn.outlet.wrote();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.pace.judge(polled, cx, &this.conn)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// hyper runs each request as a task; the drain waits for them.
#[derive(Debug, Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tracked {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// The requests of one connection, counted.
#[derive(Debug)]
struct Streams {
    started: Instant,
    begun: AtomicU32,
    open: AtomicU32,
    finished: AtomicU32,
    cancelled: AtomicU32,
    idle_since_millis: AtomicU64,
    /// Answers with bytes that the client has not taken yet.
    handed: AtomicU32,
    /// Bytes of answers that have left for the client.
    left: AtomicU64,
    cancellation: Notify,
}

impl Streams {
    fn new() -> Streams {
        Streams {
            started: Instant::now(),
            begun: AtomicU32::new(0),
            open: AtomicU32::new(0),
            finished: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            idle_since_millis: AtomicU64::new(0),
            handed: AtomicU32::new(0),
            left: AtomicU64::new(0),
            cancellation: Notify::new(),
        }
    }

    fn is_fresh(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == 0
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Since when no request is under way.
    fn idle_since(&self) -> Option<Instant> {
        let idle = self.open.load(Ordering::Acquire) == 0;
        idle.then(|| self.started + Duration::from_millis(self.idle_since_millis.load(Ordering::Relaxed)))
    }

    /// Whether there are bytes for the client that it has not let out.
    fn are_waiting(&self) -> bool {
        self.handed.load(Ordering::Acquire) > 0
    }

    /// Ready when the client has taken back more requests than it may.
    async fn taken_back(&self, allowed: u32) {
        loop {
            let finished = self.finished.load(Ordering::Relaxed);
            if self.cancelled.load(Ordering::Relaxed) > finished.saturating_add(allowed) {
                return;
            }
            self.cancellation.notified().await;
        }
    }
}

/// One request, until its answer has been sent or either side has given up.
#[derive(Debug)]
struct UnderWay {
    streams: Arc<Streams>,
    finished: bool,
    /// The client has a piece of the answer before it.
    handed: bool,
}

impl UnderWay {
    fn begin(streams: &Arc<Streams>) -> UnderWay {
        streams.begun.fetch_add(1, Ordering::Relaxed);
        streams.open.fetch_add(1, Ordering::Relaxed);
        UnderWay { streams: Arc::clone(streams), finished: false, handed: false }
    }

    /// The client takes bytes: it is asked for the next ones.
    fn taken(&mut self) {
        if std::mem::take(&mut self.handed) {
            self.streams.handed.fetch_sub(1, Ordering::Release);
        }
    }

    fn hand(&mut self) {
        self.handed = true;
        self.streams.handed.fetch_add(1, Ordering::Release);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let streams = &self.streams;
        if self.handed {
            streams.handed.fetch_sub(1, Ordering::Release);
        }
        if self.finished {
            streams.finished.fetch_add(1, Ordering::Relaxed);
        } else {
            streams.cancelled.fetch_add(1, Ordering::Relaxed);
            streams.cancellation.notify_one();
        }
        streams.idle_since_millis.store(streams.millis(), Ordering::Relaxed);
        streams.open.fetch_sub(1, Ordering::Release);
    }
}

/// An answer's body that says when it has been read to its end.
#[derive(Debug)]
struct Watched {
    body: Download,
    under_way: UnderWay,
}

/// Bytes of an answer, which are counted as they leave.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    streams: Arc<Streams>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.streams.left.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Body for Watched {
    type Data = Piece;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, hyper::Error>>> {
        self.under_way.taken();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.under_way.hand();
        }
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.body.is_end_stream() {
            self.under_way.finished = true;
        }
        polled.map_ok(|frame| frame.map_data(|bytes| Piece { bytes, streams: Arc::clone(&self.under_way.streams) }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
