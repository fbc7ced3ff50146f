//! The loop of a client connection: while it waits it is its stream and nothing else.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use crate::context::conn::Conn;
use crate::downstream::http1::answer::{self, Next};
use crate::downstream::http1::client::{ClientStream, poll_read_few};
use crate::downstream::http1::clock::Clock;
use crate::request::plan::Begun;
use crate::telemetry::metrics::Counted;
use crate::time::timers::{LazyTimer, WhenWoken};
use crate::wire::BadHead;

/// Bytes that are read at once of a head.
const READ: usize = 4 * 1024;
/// Bytes of the first read of a request, for which there is room on the stack.
const FIRST: usize = 2048;

/// Serves the connection to its end. When `shutdown` turns true the request in flight is finished and nothing is begun.
pub(crate) async fn serve<S>(conn: Arc<Conn>, mut stream: S, shutdown: ShutdownWatch)
where
    S: ClientStream + 'static,
{
    let limits = &conn.edge.limits;
    let (mut told, clock) = (shutdown.clone(), Clock::start());
    let mut stopping = WhenWoken::new(async {
        drop(told.wait_for(|stop| *stop).await);
        clock.head_ended(limits.last_request).await;
    });
    let mut cut = WhenWoken::new(conn.edge.cut.cancelled());
    let (mut inbox, mut timer) = (BytesMut::new(), LazyTimer::default());
    loop {
        if inbox.is_empty() {
            // It may wait for long.
            inbox = BytesMut::new();
        }
        let begun = tokio::select! {
            biased;
            begun = head(&conn, &clock, &mut stream, &mut inbox, &mut timer, &mut stopping) => begun,
            () = &mut cut => return,
        };
        // Boxed: there is none of it while the connection waits.
        let next = tokio::select! {
            biased;
            next = Box::pin(answered(&conn, &clock, &mut stream, &mut inbox, begun, &shutdown)) => next,
            () = &mut cut => return,
        };
        let listens = match next {
            Next::Again => continue,
            Next::Over => return,
            Next::Leave => false,
            Next::Close => true,
        };
        tokio::select! {
            () = Box::pin(part(stream, listens, limits.linger)) => {}
            () = &mut cut => {}
        }
        return;
    }
}

/// Answers a request, or what isn't one.
async fn answered<S>(
    conn: &Arc<Conn>,
    clock: &Clock,
    stream: &mut S,
    inbox: &mut BytesMut,
    begun: Result<Box<Begun>, NoHead>,
    shutdown: &ShutdownWatch,
) -> Next
where
    S: ClientStream,
{
    let begun = match begun {
        Ok(begun) => begun,
        Err(NoHead::Ended) => return Next::Over,
        Err(NoHead::Idle) => return Next::Leave,
        Err(NoHead::Late) => {
            conn.edge.metrics.cut.header_deadline.inc();
            return Next::Over;
        }
        Err(NoHead::Bad(bad)) => return Box::pin(answer::refuse(conn, stream, bad.into(), clock.waited())).await,
    };
    clock.request_began();
    let next = answer::answer(conn, stream, inbox, begun, shutdown).await;
    clock.request_ended();
    if !inbox.is_empty() {
        clock.bytes_came();
    }
    next
}

enum NoHead {
    /// The client has closed.
    Ended,
    /// It has said nothing for too long, or the edge drains.
    Idle,
    /// Its head took too long.
    Late,
    Bad(BadHead),
}

/// Waits for the head of a request.
async fn head<S: AsyncRead + Unpin>(
    conn: &Arc<Conn>,
    clock: &Clock,
    stream: &mut S,
    inbox: &mut BytesMut,
    timer: &mut LazyTimer,
    stopping: &mut (impl Future<Output = ()> + Unpin),
) -> Result<Box<Begun>, NoHead> {
    let limits = &conn.edge.limits;
    let mut looked_at = 0;
    let mut parked = inbox.is_empty().then(|| Counted::new(&conn.edge.metrics.parked));
    loop {
        // A head that isn't whole is looked at again when there is one more line.
        let has_line = inbox.get(looked_at..).is_some_and(|new| memchr::memchr(b'\n', new).is_some());
        if (has_line || inbox.len() > limits.header_bytes)
            && let Some(begun) = answer::begin(conn, inbox).map_err(NoHead::Bad)?
        {
            return Ok(begun);
        }
        looked_at = inbox.len();
        let came = poll_fn(|cx| {
            let polled = if inbox.is_empty() {
                poll_read_few::<FIRST>(stream, inbox, cx)
            } else {
                inbox.reserve(READ);
                poll_read_buf(Pin::new(&mut *stream), cx, inbox)
            };
            if polled.is_ready() {
                return polled.map(|read| Ok(read.is_ok_and(|count| count > 0)));
            }
            if Pin::new(&mut *stopping).poll(cx).is_ready() {
                return Poll::Ready(Err(NoHead::Idle));
            }
            let Some(deadline) = clock.deadline(limits.header_deadline, limits.keep_alive) else { return Poll::Pending };
            ready!(timer.poll(deadline, cx));
            Poll::Ready(Err(if clock.is_in_head() { NoHead::Late } else { NoHead::Idle }))
        })
        .await?;
        if !came {
            return Err(NoHead::Ended);
        }
        drop(parked.take());
        clock.bytes_came();
    }
}

/// Ends what is sent to the client and, if one `listens`, takes what it sends until it ends, too; at most for `patience`. Closed while
/// there is something to read, its last bytes could be lost in a reset.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, listens: bool, patience: Duration) {
    let parting = async {
        if stream.shutdown().await.is_err() || !listens {
            return;
        }
        let mut discarded = [0; FIRST];
        while stream.read(&mut discarded).await.is_ok_and(|count| count > 0) {}
    };
    // Whoever doesn't take it is gone.
    drop(timeout(patience, parting).await);
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio_rustls::server::TlsStream;

    use super::*;

    fn size_of_future<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_waits_is_small() {
        let size = size_of_future(serve::<TcpStream>).max(size_of_future(serve::<Box<TlsStream<TcpStream>>>));
        assert!(size <= SIZE_MAX, "{size} bytes: what of it is needed only for a request?");
    }

    /// Bytes of the future of a connection, which is what there is of it while it waits.
    const SIZE_MAX: usize = 512;
}
