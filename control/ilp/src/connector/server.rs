//! WebSockets of the embedded connector: handshake, authentication, connected accounts.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use codiusd_supervisor::isolated;
use futures::{SinkExt, StreamExt};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::{StatusCode, header},
    },
};
use tokio_util::sync::CancellationToken;

use super::router::{HOST, Router};
use crate::{
    address::is_segment,
    btp::{
        codec::{BtpBody, BtpError, BtpPacket, SubProtocol},
        session::{Handler, Session, drive, socket_config},
    },
    packet::{ErrorCode, Prepare, Reject, Reply},
};

/// Connections of a listener at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// How long the WebSocket handshake and the authentication may take, each.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Packets an account may send in a minute.
const PACKETS_PER_MINUTE: u32 = 10_000;
/// Longest account name.
const ACCOUNT_MAX: usize = 64;

/// Accepts connections until `stop` is cancelled; then waits for the open ones, which complete the requests they have begun.
pub(crate) async fn serve(listener: TcpListener, router: Arc<Router>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    if let Err(error) = greet_and_drive(stream, router, stop).await {
                        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "BTP connection refused");
                    }
                });
            }
            Err(error) => {
                // Probably out of file descriptors: wait for other connections to close.
                tracing::warn!(%error, "BTP connection not accepted");
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

#[derive(Debug, thiserror::Error)]
enum GreetingError {
    #[error("no valid auth message came first")]
    NotAuthenticated,
    #[error("the WebSocket can't be opened")]
    Socket(#[from] tokio_tungstenite::tungstenite::Error),
    #[error("it took too long")]
    Timeout(#[from] time::error::Elapsed),
}

async fn greet_and_drive(stream: TcpStream, router: Arc<Router>, stop: CancellationToken) -> Result<(), GreetingError> {
    let Some(greeted) = stop.run_until_cancelled(greet(stream)).await else { return Ok(()) };
    let (socket, child) = greeted?;
    let (session, outbox) = Session::new(&stop);
    let oldest = router.connect(&child, session.clone());
    if let Some(oldest) = oldest {
        oldest.close();
    }
    let handler = Arc::new(Child { name: child.clone(), router: router.clone(), rate: Mutex::default() });
    // Releases the account however the session ends.
    match isolated(drive(socket, session.clone(), outbox, handler)).await {
        Ok(ended) => tracing::debug!(account = child, %ended, "BTP session has ended"),
        Err(panicked) => tracing::error!(account = child, error = %panicked, "BTP session"),
    }
    router.disconnect(&child, &session);
    Ok(())
}

/// Handshake and authentication; returns the socket and its account's name.
async fn greet(stream: TcpStream) -> Result<(WebSocketStream<TcpStream>, String), GreetingError> {
    // Packets are small, and each waits for the one before: disable Nagle's algorithm.
    stream.set_nodelay(true).map_err(tokio_tungstenite::tungstenite::Error::Io)?;
    let handshake = accept_hdr_async_with_config(stream, refuse_pages, Some(socket_config()));
    let mut socket = time::timeout(GREETING_TIMEOUT, handshake).await??;
    let child = time::timeout(GREETING_TIMEOUT, authenticate(&mut socket)).await??;
    Ok((socket, child))
}

/// A web page may open WebSockets to localhost; browsers then send `Origin`, and our clients never do.
#[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
fn refuse_pages(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
    if request.headers().contains_key(header::ORIGIN) {
        let mut refusal = ErrorResponse::new(Some("web pages may not connect here".to_owned()));
        *refusal.status_mut() = StatusCode::FORBIDDEN;
        return Err(refusal);
    }
    Ok(response)
}

/// The first frame must authenticate; returns the account's name.
async fn authenticate(socket: &mut WebSocketStream<TcpStream>) -> Result<String, GreetingError> {
    let bytes = loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => break bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(_)) | None => return Err(GreetingError::NotAuthenticated),
        }
    };
    let frame = BtpPacket::decode(&bytes).map_err(|_| GreetingError::NotAuthenticated)?;
    let account = match &frame.body {
        BtpBody::Message(parts) => account_of(parts),
        _ => None,
    };
    let body = match &account {
        Some(_) => BtpBody::Response(Vec::new()),
        None => BtpBody::Error(BtpError {
            code: *b"F00",
            name: "NotAcceptedError".to_owned(),
            triggered_at: Timestamp::now().strftime("%Y%m%d%H%M%S.%3fZ").to_string(),
            data: b"auth, auth_username and a non-empty auth_token must come first".to_vec(),
            protocol_data: Vec::new(),
        }),
    };
    let answer = BtpPacket { request_id: frame.request_id, body }.encode();
    socket.send(Message::Binary(answer.into())).await?;
    account.ok_or(GreetingError::NotAuthenticated)
}

/// The account's name: the given one, or a hash of the token. Any token is accepted, but it must not be missing.
fn account_of(parts: &[SubProtocol]) -> Option<String> {
    if parts.first()?.name != "auth" {
        return None;
    }
    let part = |name: &str| parts.iter().find(|part| part.name == name).map(|part| part.data.as_slice()).filter(|data| !data.is_empty());
    let token = part("auth_token")?;
    let Some(name) = part("auth_username") else { return Some(URL_SAFE_NO_PAD.encode(Sha256::digest(token))) };
    let name = str::from_utf8(name).ok()?;
    (is_segment(name) && name.len() <= ACCOUNT_MAX && name != HOST).then(|| name.to_owned())
}

/// Routes the packets of one child.
#[derive(Debug)]
struct Child {
    name: String,
    router: Arc<Router>,
    rate: Mutex<Rate>,
}

#[derive(Debug)]
struct Rate {
    minute: time::Instant,
    packets: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { minute: time::Instant::now(), packets: 0 }
    }
}

impl Rate {
    fn allows_one_more(&mut self) -> bool {
        if self.minute.elapsed() >= Duration::from_secs(60) {
            *self = Self::default();
        }
        self.packets += 1;
        self.packets <= PACKETS_PER_MINUTE
    }
}

#[async_trait]
impl Handler for Child {
    async fn answer(&self, prepare: Prepare) -> Reply {
        let allowed = self.rate.lock().unwrap_or_else(PoisonError::into_inner).allows_one_more();
        if !allowed {
            let (own, message) = (&self.router.host().address, "too many requests, throttling.");
            return Err(Reject::new(ErrorCode::T05_RATE_LIMITED, own, message));
        }
        self.router.route(&self.name, prepare, Timestamp::now()).await
    }
}

/// Binds a listener's address; returns the bound address before serving begins.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
