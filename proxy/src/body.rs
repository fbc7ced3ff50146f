//! Bodies on their way through: frame by frame, never collected; hyper's own flow control is the backpressure.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prometheus::IntCounter;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::conn::Conn;
use crate::headers;
use crate::limits::Limits;
use crate::outlet::Turn;
use crate::upstream::{Link, Route};
use crate::visit::Visit;

/// How far a request body has come, so that waiting for the answer is only bounded while nothing moves.
#[derive(Debug)]
pub(crate) struct Progress {
    begun: Instant,
    frames: AtomicU64,
    bytes: AtomicU64,
    bytes_max: u64,
    received: IntCounter,
    /// Microseconds spent waiting for the client, the wait under way not counted.
    waited: AtomicU64,
    /// When the wait under way began, in microseconds since `begun` and at least 1; 0 when the client isn't waited for.
    waiting_since: AtomicU64,
    failed: AtomicBool,
    too_large: AtomicBool,
    done: AtomicBool,
}

impl Progress {
    /// For a body of this client connection, of no more than `bytes_max` bytes.
    pub(crate) fn of(conn: &Conn, bytes_max: u64) -> Progress {
        Progress {
            begun: Instant::now(),
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_max,
            received: conn.edge.metrics.received.clone(),
            waited: AtomicU64::new(0),
            waiting_since: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            too_large: AtomicBool::new(false),
            done: AtomicBool::new(false),
        }
    }

    /// Frames taken from the client so far, its end included.
    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Bytes taken from the client so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the upstream would take more and the client has not sent it.
    pub(crate) fn awaits_client(&self) -> bool {
        self.waiting_since.load(Ordering::Relaxed) != 0
    }

    /// How long the client has been waited for in all.
    pub(crate) fn waited(&self) -> Duration {
        let under_way = match self.waiting_since.load(Ordering::Relaxed) {
            0 => 0,
            since => self.now().saturating_sub(since),
        };
        Duration::from_micros(self.waited.load(Ordering::Relaxed).saturating_add(under_way))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    fn wait_begins(&self) {
        if self.waiting_since.load(Ordering::Relaxed) == 0 {
            self.waiting_since.store(self.now(), Ordering::Relaxed);
        }
    }

    fn wait_ends(&self) {
        let since = self.waiting_since.load(Ordering::Relaxed);
        if since != 0 {
            self.waited.fetch_add(self.now().saturating_sub(since), Ordering::Relaxed);
            self.waiting_since.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the upstream connection has let go of the body.
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether the client broke off or framed the body wrongly.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether the client sent more than it may.
    pub(crate) fn too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }
}

/// Why a request body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the client's body broke off or is malformed")]
    Client(#[source] hyper::Error),
    #[error("the client's body is larger than allowed")]
    TooLarge,
}

/// A request body.
pub(crate) struct Upload {
    inner: Option<(Incoming, Arc<Progress>)>,
    held: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Upload {
    /// No body: costs nothing, and can be sent twice.
    pub(crate) fn none() -> Upload {
        Upload { inner: None, held: None }
    }

    pub(crate) fn new(body: Incoming, progress: Arc<Progress>) -> Upload {
        Upload { inner: Some((body, progress)), held: None }
    }

    /// Takes nothing from the client before `go`, or before `patience` is over: a client that expects 100 Continue is given it by
    /// hyper when its body is first asked for.
    pub(crate) fn hold(&mut self, go: Arc<Notify>, patience: Duration) {
        self.held = Some(Box::pin(async move {
            let _whichever_first = timeout(patience, go.notified()).await;
        }));
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if let Some(held) = &mut self.held {
            ready!(held.as_mut().poll(cx));
            self.held = None;
        }
        let Some((body, progress)) = &mut self.inner else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            progress.wait_begins();
            return Poll::Pending;
        };
        progress.wait_ends();
        progress.frames.fetch_add(1, Ordering::Relaxed);
        match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::clean_trailers(trailers);
                }
                let length = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                progress.received.inc_by(length);
                let bytes = progress.bytes.fetch_add(length, Ordering::Relaxed).saturating_add(length);
                if bytes > progress.bytes_max {
                    progress.too_large.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(UploadError::TooLarge)));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                progress.failed.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(UploadError::Client(error))))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some((_, progress)) = &self.inner {
            progress.done.store(true, Ordering::Relaxed);
        }
    }
}

/// A connection in use by one answer; goes back to its route's shelf when the answer has been read to its end and the request sent to
/// its end, and is closed otherwise: an answer may come before the request is complete, and then the rest of it is not wanted.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) link: Link,
    pub(crate) route: Arc<Route>,
    pub(crate) upload: Option<Arc<Progress>>,
}

impl Lease {
    fn give_back(self, room: &Arc<Semaphore>, limits: &Limits) {
        if self.upload.is_none_or(|upload| upload.is_done()) {
            self.route.put(self.link, room, limits);
        }
    }
}

/// An answer's body.
#[derive(Debug)]
pub(crate) struct Download {
    source: Source,
    visit: Visit,
    conn: Arc<Conn>,
}

#[derive(Debug)]
enum Source {
    Page(Bytes),
    Upstream {
        body: Incoming,
        lease: Option<Lease>,
    },
    /// The upstream broke off; held back until what came before has left.
    Broken {
        error: Option<hyper::Error>,
        turn: Turn,
    },
}

impl Download {
    /// The edge's own page.
    pub(crate) fn page(page: Bytes, visit: Visit, conn: Arc<Conn>) -> Download {
        Download { source: Source::Page(page), visit, conn }
    }

    pub(crate) fn upstream(body: Incoming, lease: Lease, visit: Visit, conn: Arc<Conn>) -> Download {
        let mut download = Download { source: Source::Upstream { body, lease: Some(lease) }, visit, conn };
        download.give_back_if_done(false);
        download
    }

    fn count(&mut self, bytes: usize) {
        self.visit.sent(bytes);
    }

    /// The upstream broke off. Its connection is closed.
    fn poll_broken(&mut self, error: hyper::Error, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let turn = self.conn.outlet.ask();
        self.source = Source::Broken { error: Some(error), turn };
        Pin::new(self).poll_frame(cx)
    }

    fn give_back_if_done(&mut self, saw_end: bool) {
        if let Source::Upstream { body, lease } = &mut self.source
            && (saw_end || body.is_end_stream())
            && let Some(lease) = lease.take()
        {
            lease.give_back(&self.conn.edge.room, &self.conn.edge.limits);
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        match &mut this.source {
            Source::Page(page) if page.is_empty() => Poll::Ready(None),
            Source::Page(page) => {
                let page = std::mem::take(page);
                this.count(page.len());
                Poll::Ready(Some(Ok(Frame::data(page))))
            }
            Source::Upstream { body, .. } => {
                let mut polled = Pin::new(body).poll_frame(cx);
                match &mut polled {
                    Poll::Ready(None) => this.give_back_if_done(true),
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            headers::clean_trailers(trailers);
                        }
                        this.count(frame.data_ref().map_or(0, Bytes::len));
                        this.give_back_if_done(false);
                    }
                    Poll::Ready(Some(Err(_))) | Poll::Pending => {}
                }
                match polled {
                    Poll::Ready(Some(Err(error))) => this.poll_broken(error, cx),
                    polled => polled,
                }
            }
            Source::Broken { error, turn } => {
                ready!(this.conn.outlet.poll_left(turn, cx));
                Poll::Ready(error.take().map(Err))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Page(page) => page.is_empty(),
            Source::Upstream { body, .. } => body.is_end_stream(),
            Source::Broken { error, .. } => error.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Page(page) => SizeHint::with_exact(u64::try_from(page.len()).unwrap_or(u64::MAX)),
            Source::Upstream { body, .. } => body.size_hint(),
            Source::Broken { .. } => SizeHint::new(),
        }
    }
}
