//! Bodies on their way through: frame by frame, never collected; hyper's own flow control is the backpressure.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::conn::Conn;
use crate::limits::Limits;
use crate::upstream::{Link, Route};

/// How far a request body has come, so that waiting for the answer is only bounded while nothing moves.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    frames: AtomicU64,
    awaits_client: AtomicBool,
    failed: AtomicBool,
    done: AtomicBool,
    unread: Arc<AtomicBool>,
}

impl Progress {
    /// For a body of this client connection.
    pub(crate) fn of(conn: &Conn) -> Progress {
        Progress { unread: Arc::clone(&conn.unread), ..Progress::default() }
    }

    /// Frames taken from the client so far, its end included.
    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Whether the upstream would take more and the client has not sent it.
    pub(crate) fn awaits_client(&self) -> bool {
        self.awaits_client.load(Ordering::Relaxed)
    }

    /// Whether the upstream connection has let go of the body.
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether the client broke off or framed the body wrongly.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
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
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(held) = &mut self.held {
            ready!(held.as_mut().poll(cx));
            self.held = None;
        }
        let Some((body, progress)) = &mut self.inner else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        progress.awaits_client.store(polled.is_pending(), Ordering::Relaxed);
        if polled.is_ready() {
            progress.frames.fetch_add(1, Ordering::Relaxed);
        }
        if let Poll::Ready(Some(Err(_))) = polled {
            progress.failed.store(true, Ordering::Relaxed);
        }
        if body.is_end_stream() || matches!(polled, Poll::Ready(None)) {
            progress.unread.store(false, Ordering::Relaxed);
        }
        polled
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

/// An answer's body. Dropping it tells the client connection that it is between requests again.
#[derive(Debug)]
pub(crate) struct Download {
    source: Source,
    conn: Arc<Conn>,
}

#[derive(Debug)]
enum Source {
    Page(Bytes),
    Upstream { body: Incoming, lease: Option<Lease> },
}

impl Download {
    pub(crate) fn page(page: Bytes, conn: Arc<Conn>) -> Download {
        Download { source: Source::Page(page), conn }
    }

    pub(crate) fn upstream(body: Incoming, lease: Lease, conn: Arc<Conn>) -> Download {
        let mut download = Download { source: Source::Upstream { body, lease: Some(lease) }, conn };
        download.give_back_if_done(false);
        download
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
        match &mut self.source {
            Source::Page(page) if page.is_empty() => Poll::Ready(None),
            Source::Page(page) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(page))))),
            Source::Upstream { body, .. } => {
                let polled = Pin::new(body).poll_frame(cx);
                match &polled {
                    Poll::Ready(None) => self.give_back_if_done(true),
                    Poll::Ready(Some(Ok(_))) => self.give_back_if_done(false),
                    Poll::Ready(Some(Err(_))) | Poll::Pending => {}
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Page(page) => page.is_empty(),
            Source::Upstream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Page(page) => SizeHint::with_exact(u64::try_from(page.len()).unwrap_or(u64::MAX)),
            Source::Upstream { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.conn.clock.request_ended();
    }
}
