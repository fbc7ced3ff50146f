//! HTTP and WebSocket to an edge, under any Host, one connection per request.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite};

/// A request body.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}) in: {} {}", self.status, self.text()))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body of `count` times `chunk`, of which no more than one is ever in memory.
pub fn repeated(chunk: Bytes, count: usize) -> Body {
    let frames = futures::stream::iter(std::iter::repeat_n(chunk, count).map(|chunk| Ok(Frame::data(chunk))));
    BodyExt::boxed(StreamBody::new(frames))
}

/// Reads a body to its end and returns its length, keeping nothing.
pub async fn length(mut body: Incoming) -> hyper::Result<u64> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(length)
}

/// Sends a request and returns the answer when its headers are there. An error means that there is no answer.
pub async fn open(to: SocketAddr, request: Request<Body>) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the connection; what goes wrong with it is also seen by the request.
    tokio::spawn(connection.with_upgrades());
    Ok(sender.send_request(request).await?)
}

/// Sends a request and reads the whole answer.
pub async fn send(to: SocketAddr, request: Request<Body>) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = open(to, request).await?.into_parts();
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
}

/// `GET path` under `host`.
pub fn get(host: &str, path: &str) -> Request<Body> {
    let request = Request::get(path).header(header::HOST, host).body(full(""));
    request.unwrap_or_else(|error| panic!("GET {path} under {host}: {error}"))
}

/// Opens a WebSocket at `path` under `host`.
pub async fn websocket(to: SocketAddr, host: &str, path: &str) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
    let stream = TcpStream::connect(to).await?;
    let (socket, _) = client_async(format!("ws://{host}{path}"), stream).await?;
    Ok(socket)
}
