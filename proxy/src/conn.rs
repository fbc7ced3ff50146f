//! One client connection that speaks HTTP/1: hyper on top of pingora's stream or TLS on it, with deadlines for what hyper would wait for,
//! rest while there is nothing to do, and the drain.
//!
//! hyper's own header timeout counts the idle time before a request as well and takes a timer per request; this one takes a timer per
//! connection and touches it only when a read has to wait.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, StatusCode, Uri};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pingora::protocols::SocketDigest;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::access::Entry;
use crate::clock::Clock;
use crate::edge::Shared;
use crate::forward;
use crate::gate::Place;
use crate::headers::Via;
use crate::host::Admitted;
use crate::idle::{LazyTimer, Moment, WhenWoken};
use crate::lengths::{Heads, Requests};
use crate::metrics::Counted;
use crate::outlet::Outlet;
use crate::pace::Pace;
use crate::refusal::Refusal;
use crate::rescue::Fault;
use crate::rest::{self, Lent};
use crate::tls::{Facts, policy};

/// Who has opened a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) socket: Option<Arc<SocketDigest>>,
}

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
    /// Whether the last request is one of HTTP/1.0, whose answer may end with the connection.
    pub(crate) is_old: AtomicBool,
    pub(crate) outlet: Outlet,
    socket: Option<Arc<SocketDigest>>,
    pub(crate) requests: Requests,
    _place: Place,
    _counted: Counted,
}

impl Conn {
    pub(crate) fn new(edge: Arc<Shared>, peer: Peer, tls: Option<Facts>, place: Place) -> Conn {
        let counted = Counted::new(&edge.metrics.connections);
        let via = Via::new(peer.address, tls.is_some(), &edge.policy);
        Conn {
            edge,
            via,
            tls,
            clock: Clock::start(),
            unread: Arc::default(),
            is_old: AtomicBool::default(),
            outlet: Outlet::default(),
            socket: peer.socket,
            requests: Requests::default(),
            _place: place,
            _counted: counted,
        }
    }

    /// Bytes sent whose arrival the client's kernel has acknowledged. Only while its stream is open.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.socket.as_ref().and_then(|socket| socket.tcp_info()).map_or(0, |info| info.tcpi_bytes_acked)
    }

    /// What came over it is no request, and the connection is closed for that.
    pub(crate) fn refused(&self, status: StatusCode) {
        let cut = &self.edge.metrics.cut;
        if status == StatusCode::BAD_REQUEST {
            cut.malformed.inc()
        } else {
            cut.header_too_large.inc()
        }
        if let Some(log) = self.edge.access.as_ref().filter(|log| log.takes_next()) {
            log.add(Entry::refused(self.via.peer, status, self.clock.waited()));
        }
    }

    /// hyper has given the connection up.
    fn ended(&self, error: &hyper::Error) {
        if error.is_parse_too_large() {
            self.refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        } else if error.is_parse() {
            self.refused(StatusCode::BAD_REQUEST);
        }
        tracing::debug!(%error, "client connection ended");
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

    /// What is said to browsers over https.
    pub(crate) fn hsts(&self) -> Option<HeaderValue> {
        self.edge.hsts.clone().filter(|_| self.is_secure())
    }

    /// Where at https this request is sent.
    pub(crate) fn redirect(&self, admitted: &Admitted, uri: &Uri) -> Option<HeaderValue> {
        let port = self.edge.redirect.filter(|_| !self.is_secure())?;
        policy::https_location(admitted.host.as_ref()?, uri, port)
    }
}

/// Serves the connection to its end. When `shutdown` turns true the request in flight is finished and nothing is begun.
pub(crate) async fn serve<S>(conn: Arc<Conn>, mut stream: S, mut shutdown: ShutdownWatch)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = &conn.edge.limits;
    // hyper closes what isn't busy: a request whose first bytes are on their way would get no answer.
    let mut stopping = WhenWoken::new(async {
        drop(shutdown.wait_for(|stop| *stop).await);
        conn.clock.head_ended(limits.last_request).await;
    });
    let mut cut = WhenWoken::new(conn.edge.cut.cancelled());
    let mut first = Bytes::new();
    while let Some(mut idle) = converse(&conn, stream, first, &mut stopping, &mut cut).await {
        let _resting = Counted::new(&conn.edge.metrics.resting);
        let deadline = Moment::now().after(limits.keep_alive.saturating_sub(conn.clock.waited()));
        let next = tokio::select! {
            biased;
            next = rest::next(&mut idle, deadline) => next,
            () = &mut stopping => None,
            () = &mut cut => return,
        };
        let Some(next) = next else {
            tokio::select! {
                () = rest::close(idle, limits.linger) => {}
                () = &mut cut => {}
            }
            return;
        };
        (stream, first) = (idle, next);
    }
}

/// Answers requests until the connection ends, or has been idle so long that it may rest: then its stream comes back. `first` was read
/// from it already.
async fn converse<S>(
    conn: &Arc<Conn>,
    stream: S,
    first: Bytes,
    mut stopping: impl Future<Output = ()> + Unpin,
    mut cut: impl Future<Output = ()> + Unpin,
) -> Option<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (stream, mut back) = Lent::new(stream, first);
    let io = Timed {
        stream,
        conn: Arc::clone(conn),
        heads: Heads::default(),
        timer: LazyTimer::default(),
        farewell: None,
        pace: Pace::default(),
        refusal: Refusal::default(),
    };
    let asked = Arc::clone(conn);
    let service = service_fn(move |request| {
        asked.clock.request_began();
        asked.requests.begin();
        forward::answer(Arc::clone(&asked), request).map(Ok::<_, Infallible>)
    });
    let limits = &conn.edge.limits;
    let mut builder = Builder::new();
    builder
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_headers(limits.header_fields)
        .max_buf_size(limits.buffer_bytes);
    // Boxed, so that nothing of it is left when the connection rests.
    let mut serving = Box::pin(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    let mut draining = false;
    loop {
        let ended = poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Pending if conn.clock.is_resting() && !draining => Poll::Ready(None),
            polled => polled.map(Some),
        });
        tokio::select! {
            biased;
            ended = ended => {
                match ended {
                    None => {
                        drop(serving);
                        return back.try_recv().ok().flatten();
                    }
                    Some(Err(error)) => {
                        conn.ended(&error);
                        // A broken answer: its client may be sending, and is not to lose what has left.
                        if error.is_user() && !conn.is_old.load(Ordering::Relaxed) {
                            drop(serving);
                            let stream = back.try_recv().ok().flatten();
                            tokio::select! {
                                () = rest::part(stream, limits.linger) => {}
                                () = &mut cut => {}
                            }
                        }
                    }
                    Some(Ok(())) => {}
                }
                return None;
            }
            () = &mut stopping, if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
            () = &mut cut => return None,
        }
    }
}

/// The client's stream, whose reads fail when the clock says so, and whose writes when the client takes too little.
#[derive(Debug)]
struct Timed<S> {
    stream: Lent<S>,
    conn: Arc<Conn>,
    heads: Heads,
    timer: LazyTimer,
    /// Ends the wait for a client that is still sending.
    farewell: Option<Pin<Box<Sleep>>>,
    /// Ends the wait for a client that takes too little of what is sent to it.
    pace: Pace,
    refusal: Refusal,
}

impl<S: AsyncRead + Unpin> Timed<S> {
    /// Whether hyper has nothing of a request: what was read has all been answered.
    fn may_rest(&self) -> bool {
        self.conn.clock.is_idle() && self.heads.is_between(&self.conn.requests)
    }

    /// Ready when the current wait is over its time.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limits = &self.conn.edge.limits;
        let idle = if self.may_rest() { limits.rest_after.min(limits.keep_alive) } else { limits.keep_alive };
        match self.conn.clock.deadline(limits.header_deadline, idle) {
            Some(deadline) => self.timer.poll(deadline, cx),
            None => Poll::Pending,
        }
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
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match polled {
            Poll::Ready(_) => {
                let Timed { conn, heads, .. } = &mut *self;
                conn.clock.bytes_came();
                if conn.clock.is_in_head() {
                    heads.resume(&conn.requests);
                }
                if !conn.clock.is_tunnel() {
                    heads.read(buf.filled().get(before..).unwrap_or_default(), &conn.requests);
                }
            }
            Poll::Pending if self.poll_overdue(cx).is_ready() && !self.may_rest() => {
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
        let this = &mut *self;
        let refused = this.refusal.poll_write(&mut this.stream, cx, buf, this.conn.clock.is_in_head());
        let polled = refused.unwrap_or_else(|| Pin::new(&mut this.stream).poll_write(cx, buf));
        this.pace.judge(polled, cx, &this.conn)
    }

    /// The last flush of an answer is where the wait for the next request begins: hyper does not read again before bytes arrive. It asks
    /// for one only when it has written all it had: so this is where a connection may rest.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.refusal.flushed();
        let asked = this.conn.outlet.asked();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        let polled = this.pace.judge(flushed, cx, &this.conn);
        if polled.is_ready() {
            self.conn.outlet.serve(asked);
        }
        if polled.is_ready() && self.poll_overdue(cx).is_ready() {
            if self.may_rest() {
                self.conn.clock.rest();
            } else {
                cx.waker().wake_by_ref();
            }
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
        let this = &mut *self;
        let first = bufs.first().map_or(&[][..], |first| first);
        let refused = this.refusal.poll_write(&mut this.stream, cx, first, this.conn.clock.is_in_head());
        let polled = refused.unwrap_or_else(|| Pin::new(&mut this.stream).poll_write_vectored(cx, bufs));
        this.pace.judge(polled, cx, &this.conn)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
