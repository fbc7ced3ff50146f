//! HTTP over hyperd's socket: one call, one connection, a time limit, and a typed failure.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time};
use tokio_util::task::AbortOnDropHandle;
use url::form_urlencoded;

use super::{error::HyperdError, metrics::Metrics};

/// Maximum size of an answer that is read as a whole, in bytes.
const ANSWER_MAX: usize = 8 * 1024 * 1024;
/// Maximum length of an answer's line that is parsed, in bytes.
const LINE_MAX: usize = 64 * 1024;
/// How long hyperd may take to accept a connection: it answers within a second of its start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A call of hyperd's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Create,
    Delete,
    Info,
    List,
    Logs,
    Pull,
    Start,
    Stop,
    Version,
}

impl Call {
    pub(super) const ALL: [Self; 9] =
        [Self::Create, Self::Delete, Self::Info, Self::List, Self::Logs, Self::Pull, Self::Start, Self::Stop, Self::Version];

    /// The label in the metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Info => "info",
            Self::List => "list",
            Self::Logs => "logs",
            Self::Pull => "pull",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Version => "version",
        }
    }

    fn route(self) -> (Method, &'static str) {
        match self {
            Self::Create => (Method::POST, "/pod/create"),
            Self::Delete => (Method::DELETE, "/pod"),
            Self::Info => (Method::GET, "/pod/info"),
            Self::List => (Method::GET, "/list"),
            Self::Logs => (Method::GET, "/container/logs"),
            Self::Pull => (Method::POST, "/image/create"),
            Self::Start => (Method::POST, "/pod/start"),
            Self::Stop => (Method::POST, "/pod/stop"),
            Self::Version => (Method::GET, "/version"),
        }
    }

    /// The call's time limit: a create boots a virtual machine, which hyperd itself gives up after 60 s.
    fn timeout(self) -> Duration {
        let seconds = match self {
            Self::Create | Self::Start => 90,
            Self::Delete | Self::Stop => 30,
            Self::Pull => 600,
            Self::Info | Self::List | Self::Logs | Self::Version => 10,
        };
        Duration::from_secs(seconds)
    }
}

/// A client of one hyperd.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
    metrics: Metrics,
}

/// An answer whose body hasn't been read yet.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) body: Incoming,
    /// Process id of the daemon, as reported by the kernel.
    pub(super) peer: Option<i32>,
    status: StatusCode,
    /// Closed when this is dropped: hyperd then sees the connection close.
    pub(super) connection: AbortOnDropHandle<()>,
}

impl Client {
    pub(super) fn new(socket: PathBuf, metrics: Metrics) -> Self {
        Self { socket, metrics }
    }

    /// Counts a running pod that can't be distinguished from others.
    pub(super) fn misplaced(&self) {
        self.metrics.misplaced.inc();
    }

    /// Sends a call, and reads the whole answer.
    pub(super) async fn call(&self, call: Call, query: &[(&str, &str)], body: Option<Vec<u8>>) -> Result<Bytes, HyperdError> {
        self.call_with_peer(call, query, body).await.map(|(bytes, _)| bytes)
    }

    /// The same, with the daemon's process id.
    pub(super) async fn call_with_peer(
        &self,
        call: Call,
        query: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<(Bytes, Option<i32>), HyperdError> {
        self.timed(call, async {
            let open = self.request(call, query, body).await?;
            let (status, peer) = (open.status, open.peer);
            let bytes = whole(call, open).await?;
            if status.is_success() { Ok((bytes, peer)) } else { Err(HyperdError::of_text(status, &String::from_utf8_lossy(&bytes))) }
        })
        .await
    }

    /// Sends a call, and passes each line of the answer to `look` as it arrives.
    pub(super) async fn lines(&self, call: Call, query: &[(&str, &str)], mut look: impl FnMut(&[u8])) -> Result<(), HyperdError> {
        self.timed(call, async {
            let open = self.accepted(call, query).await?;
            let (mut body, _connection) = (open.body, open.connection);
            let mut line = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|error| HyperdError::from((call, error.into())))?.into_data() else { continue };
                for piece in data.split_inclusive(|byte| *byte == b'\n') {
                    if line.len() + piece.len() <= LINE_MAX {
                        line.extend_from_slice(piece);
                    }
                    if piece.ends_with(b"\n") {
                        look(&line);
                        line.clear();
                    }
                }
            }
            look(&line);
            Ok(())
        })
        .await
    }

    /// Sends a call, and leaves the body unread.
    pub(super) async fn open(&self, call: Call, query: &[(&str, &str)]) -> Result<Open, HyperdError> {
        self.timed(call, self.accepted(call, query)).await
    }

    async fn timed<T>(&self, call: Call, asked: impl Future<Output = Result<T, HyperdError>>) -> Result<T, HyperdError> {
        let begun = Instant::now();
        let outcome = time::timeout(call.timeout(), asked).await.unwrap_or_else(|elapsed| Err((call, elapsed.into()).into()));
        self.metrics.observe(call, begun.elapsed(), outcome.as_ref().err());
        outcome
    }

    /// The answer, or an error if hyperd refused the call.
    async fn accepted(&self, call: Call, query: &[(&str, &str)]) -> Result<Open, HyperdError> {
        let open = self.request(call, query, None).await?;
        if open.status.is_success() {
            return Ok(open);
        }
        let status = open.status;
        Err(HyperdError::of_text(status, &String::from_utf8_lossy(&whole(call, open).await?)))
    }

    async fn request(&self, call: Call, query: &[(&str, &str)], body: Option<Vec<u8>>) -> Result<Open, HyperdError> {
        let stream = time::timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket)).await;
        let stream = stream.unwrap_or_else(|elapsed| Err(elapsed.into())).map_err(HyperdError::Away)?;
        let peer = stream.peer_cred().ok().and_then(|cred| cred.pid());
        let lost = |error: hyper::Error| HyperdError::from((call, error.into()));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // The request reports its errors, too.
            let _ = connection.await;
        }));
        let (method, path) = call.route();
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|_| HyperdError::Unreadable)?;
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        Ok(Open { body: response.into_body(), peer, status, connection })
    }
}

async fn whole(call: Call, open: Open) -> Result<Bytes, HyperdError> {
    let read = Limited::new(open.body, ANSWER_MAX).collect().await;
    Ok(read.map_err(|error| HyperdError::from((call, error)))?.to_bytes())
}
