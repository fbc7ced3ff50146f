//! The loop of a connection.
//!
//! ```text
//! accepted --> requests under way <--> none under way --keep_alive--> GOAWAY --header_deadline--> closed
//!                     \__ drain: GOAWAY, requests under way finish __/
//! ```
//!
//! WebSockets over HTTP/2 (RFC 8441) are not offered, so clients open an HTTP/1.1 connection for them.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::Reason;
use h2::server::{Builder, Connection};
use http::StatusCode;
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::context::conn::Conn;
use crate::downstream::http2::answer::{Ended, answer};
use crate::downstream::http2::flow::{Flow, Piece};
use crate::downstream::http2::stream::Lingering;
use crate::downstream::pace::{self, Debt, Slow};
use crate::policy::limits::Limits;
use crate::time::timers::WhenWoken;

/// Bytes of one request body that may be on their way to an upstream that takes none.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all requests of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Requests taken back before they are looked at (CVE-2023-44487); then the connection is closed.
const UNSEEN_RESETS: usize = 20;
/// Malformed requests of one connection; then it is closed.
const MALFORMED: usize = 32;

/// Serves the connection to its end. When `shutdown` turns true the requests in flight are finished and none is begun.
pub(crate) async fn serve<S>(conn: Arc<Conn>, socket: S, mut shutdown: ShutdownWatch)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let edge = &conn.edge;
    let limits = &edge.limits;
    let (flow, started) = (Arc::<Flow>::default(), Instant::now());
    let mut stopping = WhenWoken::new(async { shutdown.wait_for(|stop| *stop).await.is_ok() });
    let mut cut = WhenWoken::new(edge.cut.cancelled());
    let mut timer = Box::pin(sleep_until(started + limits.header_deadline));
    let greeted = tokio::select! {
        biased;
        greeted = builder(limits).handshake(Lingering::new(socket, &conn, &flow)) => greeted,
        _ = &mut stopping => return,
        () = &mut timer => return edge.metrics.cut.header_deadline.inc(),
        () = &mut cut => return,
    };
    let connection = match greeted {
        Ok(connection) => connection,
        Err(error) => return log_end(&error, &conn, started),
    };
    let requests = FuturesUnordered::new();
    let begin = |request, respond| answer(Arc::clone(&conn), Arc::clone(&flow), request, respond);
    let counts = Counts { begun: 0, answered: 0, taken_back: 0, idle_since: started };
    let mut session = Session { connection, requests, begin, flow: &flow, counts, taken_back_max: limits.h2_cancelled };
    let mut watch = Watch { debt: Debt::default(), looked: started };
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            over = poll_fn(|cx| session.poll(cx)) => {
                return match over {
                    Over::Closed(ended) => ended.err().iter().for_each(|error| log_end(error, &conn, started)),
                    Over::Abusive => {
                        tracing::debug!("client takes back its requests: connection closed");
                        edge.metrics.cut.abusive.inc();
                    }
                };
            }
            _ = &mut stopping, if !draining => {
                draining = true;
                session.connection.graceful_shutdown();
                timer.as_mut().reset(Instant::now() + limits.header_deadline);
            }
            () = &mut timer => {
                let now = Instant::now();
                if let Some(slow) = watch.look(&flow, now, limits) {
                    slow.count(&edge.metrics.cut);
                    return;
                }
                let is_fresh = session.counts.begun == 0;
                let allowed = if draining || is_fresh { limits.header_deadline } else { limits.keep_alive };
                match session.idle_since().map(|since| since + allowed) {
                    Some(over) if over > now => timer.as_mut().reset(over),
                    None => timer.as_mut().reset(now + allowed.min(pace::look_every(limits))),
                    Some(_) if draining => return,
                    Some(_) => {
                        if is_fresh {
                            edge.metrics.cut.header_deadline.inc();
                        }
                        draining = true;
                        session.connection.graceful_shutdown();
                        timer.as_mut().reset(now + limits.header_deadline);
                    }
                }
            }
            () = &mut cut => return,
        }
    }
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        .max_local_error_reset_streams(Some(MALFORMED))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(limits.buffer_bytes);
    builder
}

/// Counts a connection that we have ended because of what came over it.
fn log_end(error: &h2::Error, conn: &Conn, started: Instant) {
    tracing::debug!(%error, "client connection ended");
    match error.reason().filter(|_| error.is_go_away() && error.is_library()) {
        Some(Reason::ENHANCE_YOUR_CALM) => conn.edge.metrics.cut.abusive.inc(),
        Some(Reason::NO_ERROR) | None => {}
        Some(_) => conn.refused(StatusCode::BAD_REQUEST, started.elapsed()),
    }
}

/// The connection and its requests under way.
struct Session<'f, S, B, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection: Connection<Lingering<S>, Piece>,
    requests: FuturesUnordered<F>,
    begin: B,
    flow: &'f Flow,
    counts: Counts,
    taken_back_max: u32,
}

struct Counts {
    begun: u32,
    answered: u32,
    taken_back: u32,
    idle_since: Instant,
}

/// How a connection came to its end.
enum Over {
    Closed(Result<(), h2::Error>),
    /// The client has taken back more requests than it may.
    Abusive,
}

impl<S, B, F> Session<'_, S, B, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Fn(http::Request<h2::RecvStream>, h2::server::SendResponse<Piece>) -> F,
    F: Future<Output = Ended>,
{
    /// Since when no request is under way.
    fn idle_since(&self) -> Option<Instant> {
        self.requests.is_empty().then_some(self.counts.idle_since)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        loop {
            // First, so that what they have to say leaves in one write.
            while let Poll::Ready(Some(ended)) = self.requests.poll_next_unpin(cx) {
                if self.counts.ends(ended, self.taken_back_max) {
                    return Poll::Ready(Over::Abusive);
                }
            }
            let begun = self.counts.begun;
            while let Poll::Ready(accepted) = self.connection.poll_accept(cx) {
                match accepted {
                    Some(Ok((request, respond))) => {
                        self.counts.begun = self.counts.begun.saturating_add(1);
                        self.requests.push((self.begin)(request, respond));
                    }
                    Some(Err(error)) => return Poll::Ready(Over::Closed(Err(error))),
                    None => return Poll::Ready(Over::Closed(Ok(()))),
                }
            }
            if begun == self.counts.begun && !self.flow.reset_broken() {
                return Poll::Pending;
            }
        }
    }
}

impl Counts {
    /// Counts the end of a request; whether too many were taken back.
    fn ends(&mut self, ended: Ended, taken_back_max: u32) -> bool {
        self.idle_since = Instant::now();
        match ended {
            Ended::Answered => self.answered = self.answered.saturating_add(1),
            Ended::TakenBack => self.taken_back = self.taken_back.saturating_add(1),
        }
        self.taken_back > self.answered.saturating_add(taken_back_max)
    }
}

/// Looks now and then whether a client lets answers through: it may take all that is sent to it, and allow little to be sent. That
/// it doesn't take what is sent is seen by its socket.
struct Watch {
    debt: Debt,
    looked: Instant,
}

impl Watch {
    fn look(&mut self, flow: &Flow, now: Instant, limits: &Limits) -> Option<Slow> {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        self.debt.took(flow.left(), limits.send_bytes_per_second);
        if flow.is_waiting() {
            self.debt.waited(passed.min(pace::look_every(limits)));
        } else {
            self.debt.is_even();
        }
        self.debt.verdict(limits, false)
    }
}
