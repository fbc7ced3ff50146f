//! Connecting to a BTP server: URL, authentication, and a session for a client that pays.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{SinkExt, StreamExt};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use tokio::{net::TcpStream, time};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Error as WsError, Message},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::{
    codec::{BtpBody, BtpPacket, ContentType, SubProtocol},
    session::{Handler, Session, drive, socket_config},
};
use crate::{
    ildcp::{self, Account},
    link::Link,
    oer::DecodeError,
    packet::{ErrorCode, Prepare, Reject, Reply},
};

/// How long connecting and authenticating may take, each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `btp+ws://[account]:secret@host:port[/path]`, or `btp+wss://` for TLS.
#[derive(Clone, PartialEq, Eq)]
pub struct BtpUrl {
    socket: Url,
    account: String,
    secret: String,
}

/// The text isn't a BTP URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a BTP URL is btp+ws://:secret@host:port or btp+wss://:secret@host:port")]
pub struct BadBtpUrl;

impl FromStr for BtpUrl {
    type Err = BadBtpUrl;

    fn from_str(text: &str) -> Result<Self, BadBtpUrl> {
        let plain = text.strip_prefix("btp+").filter(|rest| rest.starts_with("ws://") || rest.starts_with("wss://")).ok_or(BadBtpUrl)?;
        let mut socket: Url = plain.parse().map_err(|_| BadBtpUrl)?;
        let decode = |part: &str| percent_decode_str(part).decode_utf8().map(|text| text.into_owned()).map_err(|_| BadBtpUrl);
        let account = decode(socket.username())?;
        let secret = decode(socket.password().ok_or(BadBtpUrl)?)?;
        if secret.is_empty() || socket.host_str().is_none_or(str::is_empty) {
            return Err(BadBtpUrl);
        }
        // The credentials go only into the first message: a URL may end up in a proxy's log.
        socket.set_username("").and_then(|()| socket.set_password(None)).map_err(|()| BadBtpUrl)?;
        Ok(Self { socket, account, secret })
    }
}

impl BtpUrl {
    /// The same server with another secret: a new account, on servers that create accounts on demand.
    #[must_use]
    pub fn stranger(&self, secret: &str) -> Self {
        Self { socket: self.socket.clone(), account: String::new(), secret: secret.to_owned() }
    }
}

impl fmt::Display for BtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "btp+{}", self.socket)
    }
}

impl fmt::Debug for BtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why connecting failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Timeout.
    #[error("{0} doesn't answer")]
    Timeout(BtpUrl),
    /// The socket can't be opened, or was closed during authentication.
    #[error("can't connect to {url}")]
    Socket {
        /// The server.
        url: BtpUrl,
        /// The cause.
        #[source]
        source: Box<WsError>,
    },
    /// The server rejects the account or secret.
    #[error("{url} refuses the credentials: {reason}")]
    Refused {
        /// The server.
        url: BtpUrl,
        /// Its error.
        reason: String,
    },
    /// The server doesn't speak BTP.
    #[error("{0} doesn't speak BTP")]
    NotBtp(BtpUrl),
}

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An open socket whose server has accepted our credentials.
pub(crate) async fn open(url: &BtpUrl) -> Result<Socket, ConnectError> {
    let failed = |source: WsError| ConnectError::Socket { url: url.clone(), source: Box::new(source) };
    let timeout = |_| ConnectError::Timeout(url.clone());
    let connect = connect_async_with_config(url.socket.as_str(), Some(socket_config()), true);
    let (mut socket, _) = time::timeout(CONNECT_TIMEOUT, connect).await.map_err(timeout)?.map_err(failed)?;
    let request_id = rand::random();
    let auth = vec![
        SubProtocol { name: "auth".to_owned(), content_type: ContentType::Octets, data: Vec::new() },
        SubProtocol::text("auth_username", &url.account),
        SubProtocol::text("auth_token", &url.secret),
    ];
    let frame = BtpPacket { request_id, body: BtpBody::Message(auth) }.encode();
    socket.send(Message::Binary(frame.into())).await.map_err(failed)?;
    let answer = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Binary(bytes))) => return BtpPacket::decode(&bytes).map_err(|_| ConnectError::NotBtp(url.clone())),
                Some(Ok(Message::Close(_))) | None => {
                    return Err(ConnectError::Refused { url: url.clone(), reason: "it closed the connection".to_owned() });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(failed(error)),
            }
        }
    };
    let answer = time::timeout(CONNECT_TIMEOUT, answer).await.map_err(timeout)??;
    match answer.body {
        BtpBody::Response(_) if answer.request_id == request_id => Ok(socket),
        BtpBody::Error(error) => {
            let reason = String::from_utf8_lossy(&error.data).chars().filter(|c| !c.is_control()).take(200).collect();
            Err(ConnectError::Refused { url: url.clone(), reason })
        }
        _ => Err(ConnectError::NotBtp(url.clone())),
    }
}

/// The session of a client that pays and isn't paid; closes when dropped.
#[derive(Debug)]
pub struct BtpLink {
    session: Session,
    _stop: DropGuard,
}

/// The parent connector doesn't return our address and asset.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// It rejected the request.
    #[error("the connector doesn't tell our address: {} {}", .0.code, .0.message)]
    Rejected(Reject),
    /// Its answer can't be parsed.
    #[error("the connector's answer about our address can't be read")]
    Unreadable(#[from] DecodeError),
}

impl BtpLink {
    /// Connects and authenticates.
    pub async fn connect(url: &BtpUrl) -> Result<Self, ConnectError> {
        let socket = open(url).await?;
        let stop = CancellationToken::new();
        let (session, outbox) = Session::new(&stop);
        let driving = session.clone();
        tokio::spawn(async move {
            let ended = drive(socket, driving, outbox, Arc::new(Unpayable)).await;
            tracing::debug!(%ended, "BTP session has ended");
        });
        Ok(Self { session, _stop: stop.drop_guard() })
    }

    /// Our address and asset, as assigned by the connector.
    pub async fn account(&self) -> Result<Account, AccountError> {
        account_over(&self.session).await
    }
}

/// Asks the other end of a link for our address and asset.
pub(crate) async fn account_over(link: &dyn Link) -> Result<Account, AccountError> {
    let fulfill = link.send(ildcp::request(Timestamp::now())).await.map_err(AccountError::Rejected)?;
    Ok(ildcp::parse_response(&fulfill)?)
}

#[async_trait]
impl Link for BtpLink {
    async fn send(&self, prepare: Prepare) -> Reply {
        self.session.send(prepare).await
    }
}

/// Rejects every packet: this end takes no payments.
#[derive(Debug)]
struct Unpayable;

#[async_trait]
impl Handler for Unpayable {
    async fn answer(&self, _: Prepare) -> Reply {
        let message = "no payments are taken here".to_owned();
        Err(Reject { code: ErrorCode::F02_UNREACHABLE, triggered_by: None, message, data: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_their_secret() {
        let url: BtpUrl = "btp+ws://pod:s%2Fecret@localhost:7768".parse().unwrap();
        assert_eq!((url.account.as_str(), url.secret.as_str()), ("pod", "s/ecret"));
        assert_eq!(url.socket.as_str(), "ws://localhost:7768/");
        assert_eq!(format!("{url} {url:?}"), "btp+ws://localhost:7768/ btp+ws://localhost:7768/");
        for bad in ["", "ws://:x@h", "btp+http://:x@h", "btp+ws://h:7768", "btp+ws://:@h", "btp+ws://:x@", "btp+wss://"] {
            assert_eq!(bad.parse::<BtpUrl>(), Err(BadBtpUrl), "{bad}");
        }
    }
}
