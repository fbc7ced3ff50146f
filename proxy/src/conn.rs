//! One client connection that speaks HTTP/1: hyper on top of pingora's stream or TLS on it, with deadlines for what hyper would wait for, and the drain.
//!
//! ```text
//!            request's first byte            headers complete
//!   Idle --------------------------> Head --------------------> Busy --+
//!    ^  keep_alive                    ^  header_deadline               |  answer sent
//!    +-------------------------------------------------------------------+
//!                             accept -+        101 answered: Tunnel, for good
//! ```
//!
//! hyper's own header timeout counts the idle time before a request as well and takes a timer per request; this one takes a timer per
//! connection and touches it only when a read has to wait.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::body::Download;
use crate::edge::Shared;
use crate::forward;
use crate::gate::Place;
use crate::headers::Via;
use crate::host::Admitted;
use crate::metrics::Counted;
use crate::rescue::Fault;
use crate::tls::{Facts, policy};

/// How often a connection that drains is looked at while it may still send a request: rarely needed, it needs no bell of its own.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What the requests of one client connection share.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) edge: Arc<Shared>,
    /// Whom it is with.
    pub(crate) via: Via,
    /// What its handshake has told; none: it is plain.
    tls: Option<Facts>,
    pub(crate) clock: Clock,
    /// Whether the last request has a body that has not been read to its end.
    pub(crate) unread: Arc<AtomicBool>,
    _place: Place,
    _counted: Counted,
}

impl Conn {
    pub(crate) fn new(edge: Arc<Shared>, peer: IpAddr, tls: Option<Facts>, place: Place) -> Conn {
        let counted = Counted::new(&edge.metrics.connections);
        let via = Via::new(peer, tls.is_some(), &edge.policy);
        Conn { edge, via, tls, clock: Clock::start(), unread: Arc::default(), _place: place, _counted: counted }
    }

    /// Whether the client speaks TLS with us.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Refuses a host other than the one the connection was opened for.
    pub(crate) fn check(&self, admitted: &Admitted) -> Result<(), Fault> {
        let named = self.tls.as_ref().and_then(|tls| tls.name.as_deref()).zip(admitted.host.as_ref());
        if named.is_none_or(|(name, host)| policy::agree(name, host)) { Ok(()) } else { Err(Fault::Misdirected) }
    }

    /// Where at https this request is sent.
    pub(crate) fn redirect(&self, admitted: &Admitted, uri: &Uri) -> Option<HeaderValue> {
        let port = self.edge.redirect.filter(|_| !self.is_secure())?;
        policy::https_location(admitted.host.as_ref()?, uri, port)
    }
}

/// Answers one request of the connection.
pub(crate) async fn answer(conn: Arc<Conn>, request: Request<Incoming>) -> Response<Download> {
    let hsts = conn.edge.hsts.clone().filter(|_| conn.is_secure());
    let mut response = forward::answer(conn, request).await;
    if let Some(hsts) = hsts {
        response.headers_mut().entry(STRICT_TRANSPORT_SECURITY).or_insert(hsts);
    }
    response
}

/// Serves the connection to its end. When `shutdown` turns true the request in flight is finished and nothing is begun.
pub(crate) async fn serve<S>(conn: Arc<Conn>, stream: S, mut shutdown: ShutdownWatch)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let edge = Arc::clone(&conn.edge);
    let last = Arc::clone(&conn);
    let io = Timed { stream, conn: Arc::clone(&conn), timer: None, farewell: None, stalled: None };
    let service = service_fn(move |request| {
        conn.clock.request_began();
        let conn = Arc::clone(&conn);
        async move { Ok::<_, Infallible>(answer(conn, request).await) }
    });
    let mut builder = Builder::new();
    builder.header_read_timeout(None).max_header_size(edge.limits.header_bytes).max_buf_size(edge.limits.buffer_bytes);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    // hyper closes what isn't busy: a request whose first bytes are on their way would get no answer.
    let mut stopping = pin!(async {
        drop(shutdown.wait_for(|stop| *stop).await);
        last.clock.head_ended(last.edge.limits.last_request).await;
    });
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut serving => {
                if let Err(error) = ended {
                    if error.is_parse() {
                        edge.metrics.cut.malformed.inc();
                    }
                    tracing::debug!(%error, "client connection ended");
                }
                return;
            }
            () = &mut stopping, if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
            () = edge.cut.cancelled() => return,
        }
    }
}

/// Which wait a connection is in, and since when.
#[derive(Debug)]
pub(crate) struct Clock {
    accepted: Instant,
    phase: AtomicU8,
    since_millis: AtomicU64,
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
const TUNNEL: u8 = 3;

impl Clock {
    fn start() -> Clock {
        Clock { accepted: Instant::now(), phase: AtomicU8::new(HEAD), since_millis: AtomicU64::new(0) }
    }

    fn enter(&self, phase: u8) {
        let millis = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since_millis.store(millis, Ordering::Relaxed);
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn request_began(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// The answer to the last request is out, or given up.
    pub(crate) fn request_ended(&self) {
        if self.phase.load(Ordering::Relaxed) != TUNNEL {
            self.enter(IDLE);
        }
    }

    /// No request follows on this connection; silence on it is nobody's fault.
    pub(crate) fn upgraded(&self) {
        self.enter(TUNNEL);
    }

    fn bytes_came(&self) {
        if self.phase.load(Ordering::Relaxed) == IDLE {
            self.enter(HEAD);
        }
    }

    fn is_in_head(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == HEAD
    }

    /// Waits until no request's headers are on their way, at most `patience`: what has come already is noticed first.
    async fn head_ended(&self, patience: Duration) {
        let over = Instant::now() + patience;
        while matches!(self.phase.load(Ordering::Relaxed), IDLE | HEAD) {
            sleep(LOOK_AGAIN).await;
            if !self.is_in_head() || Instant::now() >= over {
                return;
            }
        }
    }

    /// When the wait that the connection is in has lasted too long.
    fn deadline(&self, header: Duration, keep_alive: Duration) -> Option<Instant> {
        let allowed = match self.phase.load(Ordering::Relaxed) {
            IDLE => keep_alive,
            HEAD => header,
            _ => return None,
        };
        Some(self.accepted + Duration::from_millis(self.since_millis.load(Ordering::Relaxed)) + allowed)
    }
}

/// The client's stream, whose reads fail when the clock says so, and whose writes when the client takes none.
#[derive(Debug)]
struct Timed<S> {
    stream: S,
    conn: Arc<Conn>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Ends the wait for a client that is still sending.
    farewell: Option<Pin<Box<Sleep>>>,
    /// Ends the wait for a client that takes no more of what is sent to it.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> Timed<S> {
    /// Ready when the current wait is over its time. A timer that fires for an earlier wait is set anew, not per request.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let limits = &self.conn.edge.limits;
            let Some(deadline) = self.conn.clock.deadline(limits.header_deadline, limits.keep_alive) else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// Fails what the client has kept waiting for too long.
    fn poll_unstalled<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let edge = &self.conn.edge;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(edge.limits.send_stall)));
        ready!(stalled.as_mut().poll(cx));
        edge.metrics.cut.send_stall.inc();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Takes what a client that has its answer still sends, until it ends or `farewell` does: closing the connection earlier would
    /// answer it with a reset, which overtakes the answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut discarded = [0; 8 * 1024];
        while self.farewell.as_mut().is_some_and(|farewell| farewell.as_mut().poll(cx).is_pending()) {
            let mut buf = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match polled {
            Poll::Ready(_) => self.conn.clock.bytes_came(),
            Poll::Pending if self.poll_overdue(cx).is_ready() => {
                if self.conn.clock.is_in_head() {
                    self.conn.edge.metrics.cut.header_deadline.inc();
                }
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.poll_unstalled(polled, cx)
    }

    /// The last flush of an answer is where the wait for the next request begins: hyper does not read again before bytes arrive.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        let polled = self.poll_unstalled(flushed, cx);
        if polled.is_ready() && self.poll_overdue(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.farewell.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.conn.unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.farewell = Some(Box::pin(sleep(self.conn.edge.limits.linger)));
        }
        self.poll_linger(cx).map(Ok)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.poll_unstalled(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
