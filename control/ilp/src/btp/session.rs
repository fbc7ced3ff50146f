//! One WebSocket between two neighbours: requests and their responses, both ways at once.
//!
//! [`Session`] is the handle for requests; [`drive`] is the task that owns the socket and ends when it closes. Requests still
//! unanswered then get the reject "unreachable".
//!
//! ```text
//! open --(stop)--> draining: new requests are rejected as temporary, those begun are answered -> closed
//!   +--(closed by the other end, silent, or a write that takes too long)-----------------------> closed
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{SinkExt, StreamExt, stream::SplitSink};
use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
    time,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as WsError, Message, protocol::WebSocketConfig},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::codec::{BtpBody, BtpPacket, SubProtocol};
use crate::{
    link::Link,
    packet::{ErrorCode, Packet, Prepare, Reject, Reply},
};

/// Longest frame, in bytes: the largest ILP packet with its address and overhead.
const FRAME_MAX: usize = 40_000;
/// Frames queued for writing.
const OUTBOX_MAX: usize = 256;
/// Requests of the other end being answered at once; more are rejected with "rate limited".
const ANSWERING_MAX: usize = 100;
/// Interval between pings.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Silence after which the other end counts as disconnected.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Timeout for writing one frame: an end that doesn't read must not block the session.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// Timeout for closing a socket.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Answers the Prepares of the other end.
#[async_trait]
pub trait Handler: std::fmt::Debug + Send + Sync + 'static {
    /// Answers one Prepare.
    async fn answer(&self, prepare: Prepare) -> Reply;
}

/// Limits for a WebSocket that carries BTP.
pub fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(FRAME_MAX)).max_frame_size(Some(FRAME_MAX))
}

type Waiting = Arc<Mutex<HashMap<u32, oneshot::Sender<Vec<SubProtocol>>>>>;

/// A handle to the other end; cheap to clone.
#[derive(Clone, Debug)]
pub struct Session {
    outbox: mpsc::Sender<Message>,
    waiting: Waiting,
    /// Requests waiting for their responses.
    asking: TaskTracker,
    stop: CancellationToken,
}

/// What [`drive`] writes out.
#[derive(Debug)]
pub struct Outbox(mpsc::Receiver<Message>);

impl Session {
    /// A session for [`drive`]; it is drained and closed when `stop` is cancelled.
    pub fn new(stop: &CancellationToken) -> (Self, Outbox) {
        let (outbox, written) = mpsc::channel(OUTBOX_MAX);
        let session = Self { outbox, waiting: Waiting::default(), asking: TaskTracker::new(), stop: stop.child_token() };
        (session, Outbox(written))
    }

    /// Whether both are handles to one session.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.waiting, &other.waiting)
    }

    /// Asks the driver to complete requests in progress, then to close the socket.
    pub(crate) fn close(&self) {
        self.stop.cancel();
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Vec<SubProtocol>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for its response; none if the session ends.
    async fn ask(&self, parts: Vec<SubProtocol>) -> Option<Vec<SubProtocol>> {
        let _busy = self.asking.token();
        let (answer, answered) = oneshot::channel();
        let request_id = {
            let mut waiting = self.waiting();
            let mut request_id: u32 = rand::random();
            while waiting.contains_key(&request_id) {
                request_id = request_id.wrapping_add(1);
            }
            waiting.insert(request_id, answer);
            request_id
        };
        // Also runs when this future is dropped because its packet has expired.
        let _forget = Forget { session: self, request_id };
        let frame = BtpPacket { request_id, body: BtpBody::Message(parts) };
        self.outbox.send(Message::Binary(frame.encode().into())).await.ok()?;
        answered.await.ok()
    }
}

struct Forget<'a> {
    session: &'a Session,
    request_id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.session.waiting().remove(&self.request_id);
    }
}

#[async_trait]
impl Link for Session {
    async fn send(&self, prepare: Prepare) -> Reply {
        let left = Timestamp::now().duration_until(prepare.expires_at);
        let left = if left.is_positive() { left.unsigned_abs() } else { Duration::ZERO };
        let asked = self.ask(vec![SubProtocol::ilp(prepare.encode())]);
        let response = time::timeout(left, asked).await.map_err(|_| made_here(ErrorCode::R00_TRANSFER_TIMED_OUT, "no answer in time"))?;
        let parts = response.ok_or_else(|| made_here(ErrorCode::T01_PEER_UNREACHABLE, "not connected"))?;
        let packet = parts.iter().find(|part| part.name == "ilp").map(|part| Packet::decode(&part.data));
        match packet {
            Some(Ok(Packet::Fulfill(fulfill))) => Ok(fulfill),
            Some(Ok(Packet::Reject(reject))) => Err(reject),
            _ => Err(made_here(ErrorCode::T00_INTERNAL_ERROR, "the answer can't be read")),
        }
    }
}

fn made_here(code: ErrorCode, message: &str) -> Reject {
    Reject { code, triggered_by: None, message: message.to_owned(), data: Vec::new() }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The other end closed it.
    #[error("closed by the other end")]
    Closed,
    /// We closed it.
    #[error("closed here")]
    Stopped,
    /// No frame could be read or written for too long.
    #[error("the other end is silent")]
    Silent,
    /// The socket failed.
    #[error("the connection failed")]
    Socket(#[source] Box<WsError>),
}

/// Owns the socket until it closes. Dropping the future closes the socket.
pub async fn drive<S>(socket: WebSocketStream<S>, session: Session, outbox: Outbox, handler: Arc<dyn Handler>) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Dropped after the outbox: a request sent in between either fails to queue or is removed from `waiting`.
    let hang_up = HangUp(session.clone());
    let Outbox(mut outbox) = outbox;
    let (mut sink, mut stream) = socket.split();
    let answering = TaskTracker::new();
    let mut ping = time::interval(PING_INTERVAL);
    let mut heard = time::Instant::now();
    let reason = loop {
        let done = tokio::select! {
            Some(frame) = outbox.recv() => write(&mut sink, frame).await,
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE_MAX { Err(Ended::Silent) } else { write(&mut sink, Message::Ping(Vec::new().into())).await }
            }
            message = stream.next() => {
                heard = time::Instant::now();
                match message {
                    Some(Ok(Message::Binary(bytes))) => {
                        receive(&bytes, &session, &handler, &answering);
                        Ok(())
                    }
                    Some(Ok(Message::Close(_))) | None => Err(Ended::Closed),
                    Some(Ok(_)) => Ok(()),
                    Some(Err(error)) => Err(Ended::Socket(Box::new(error))),
                }
            }
            () = session.stop.cancelled(), if !answering.is_closed() => {
                answering.close();
                session.asking.close();
                Ok(())
            }
            // Both complete only after they have been closed.
            _ = async { tokio::join!(answering.wait(), session.asking.wait()) } => Err(Ended::Stopped),
        };
        if let Err(reason) = done {
            break reason;
        }
    };
    while let (Ended::Stopped, Ok(frame)) = (&reason, outbox.try_recv()) {
        if write(&mut sink, frame).await.is_err() {
            break;
        }
    }
    drop(outbox);
    drop(hang_up);
    // Read what the other end still sends: a socket closed with unread bytes is reset, which discards our last
    // frames. A peer that doesn't read them in time is disconnected anyway.
    let farewell = async {
        if sink.close().await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    let _ = time::timeout(CLOSE_MAX, farewell).await;
    reason
}

struct HangUp(Session);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.waiting().clear();
    }
}

async fn write<S>(sink: &mut SplitSink<WebSocketStream<S>, Message>, frame: Message) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match time::timeout(WRITE_MAX, sink.send(frame)).await {
        Ok(written) => written.map_err(|error| Ended::Socket(Box::new(error))),
        Err(_) => Err(Ended::Silent),
    }
}

fn receive(bytes: &[u8], session: &Session, handler: &Arc<dyn Handler>, answering: &TaskTracker) {
    let Ok(frame) = BtpPacket::decode(bytes) else {
        tracing::debug!(bytes = bytes.len(), "a BTP frame that can't be read is ignored");
        return;
    };
    match frame.body {
        BtpBody::Response(parts) => {
            if let Some(answer) = session.waiting().remove(&frame.request_id) {
                // The requester may have given up.
                let _ = answer.send(parts);
            }
        }
        BtpBody::Error(_) => drop(session.waiting().remove(&frame.request_id)),
        BtpBody::Transfer { .. } => respond(session, frame.request_id, Vec::new()),
        BtpBody::Message(parts) => {
            let Some(part) = parts.into_iter().find(|part| part.name == "ilp") else {
                return respond(session, frame.request_id, Vec::new());
            };
            if answering.is_closed() || answering.len() >= ANSWERING_MAX {
                let slow_down = made_here(ErrorCode::T05_RATE_LIMITED, "too many packets at once");
                return respond(session, frame.request_id, vec![SubProtocol::ilp(slow_down.encode())]);
            }
            let (session, handler) = (session.clone(), handler.clone());
            answering.spawn(async move {
                let reply = match Packet::decode(&part.data) {
                    Ok(Packet::Prepare(prepare)) => handler.answer(prepare).await,
                    Ok(_) | Err(_) => Err(made_here(ErrorCode::F01_INVALID_PACKET, "not a Prepare")),
                };
                let frame = response(frame.request_id, vec![SubProtocol::ilp(Packet::from(reply).encode())]);
                // If the session has ended, the answer is obsolete.
                let _ = session.outbox.send(frame).await;
            });
        }
    }
}

/// Responds from within the driving task, which must not wait for itself: if the outbox is full the response is dropped, and the
/// other end's request times out.
fn respond(session: &Session, request_id: u32, parts: Vec<SubProtocol>) {
    let _ = session.outbox.try_send(response(request_id, parts));
}

fn response(request_id: u32, parts: Vec<SubProtocol>) -> Message {
    Message::Binary(BtpPacket { request_id, body: BtpBody::Response(parts) }.encode().into())
}
