//! What we take for a message, others must take for the same message, or for none: hyper reads the bytes that came, and those that are
//! written of them. For tests, and for tests/fuzz, where it is built with `wire` and nothing else of this crate.
//!
//! Each function panics when somebody disagrees.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::answer::{self, Asked, Body, Coding, Reply};
use crate::wire::chunk::{self, Decoder, Piece};
use crate::wire::request::{self, Forwarded};
use crate::wire::{Bounds, Framing, syntax};

const BOUNDS: Bounds = Bounds { bytes: 8 * 1024, fields: 64 };
const FORWARDED: Forwarded<'_> =
    Forwarded { host: Some(b"pod.example"), peer: b"192.0.2.1", is_believed: false, is_secure: true, request_id: b"id" };

/// One message, as somebody reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    /// Method and target of a request; status of an answer.
    line: String,
    content: Vec<u8>,
}

/// The requests of one connection.
pub(crate) fn requests(bytes: &[u8]) {
    let (mut ours, mut written, mut rest) = (Vec::new(), Vec::new(), bytes);
    while let Ok(Some((head, length))) = request::read(rest, BOUNDS) {
        let Some((content, left)) = content_of(head.framing, &rest[length..]) else { break };
        let mut upstream = BytesMut::new();
        head.put(&mut upstream, &FORWARDED);
        assert_is_strict(&upstream);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let line = format!("{} {}", text(head.method), text(head.target.path));
        match head.framing {
            Framing::Unsaid | Framing::Length(_) => upstream.extend_from_slice(&content),
            Framing::Chunked => put_chunks(&mut upstream, &content),
        }
        // What the edge doesn't send on isn't a message of the next hop.
        let is_sent = !matches!(head.method, b"CONNECT" | b"TRACE") && head.upgrade.is_none();
        // Another form of the target is written in origin form.
        let is_origin = head.target.authority.is_none();
        ours.push((Message { line, content }, is_origin));
        if !is_sent {
            break;
        }
        written.push(upstream);
        rest = left;
    }
    for ((message, is_origin), theirs) in ours.iter().zip(read_by_hyper(bytes)) {
        assert_eq!(message.content, theirs.content, "the content of {bytes:?}");
        assert!(!is_origin || message.line == theirs.line, "{} is {} to hyper", message.line, theirs.line);
    }
    for ((message, is_origin), upstream) in ours.iter().zip(&written) {
        let theirs = read_by_hyper(upstream);
        assert!(theirs.len() <= 1, "{upstream:?} is more than one request: {theirs:?}");
        if let Some(theirs) = theirs.first() {
            assert_eq!(message.content, theirs.content, "the content of {upstream:?}");
            assert!(!is_origin || message.line == theirs.line, "{} is {} to hyper", message.line, theirs.line);
        }
    }
}

/// The answer to one request.
pub(crate) fn answers(bytes: &[u8], is_head: bool) {
    let mut rest = bytes;
    let (message, written) = loop {
        let Ok(Some((head, length))) = answer::read(rest, BOUNDS, Asked { is_head }) else { return };
        rest = &rest[length..];
        if head.status == 101 {
            return;
        }
        if head.status < 200 {
            continue;
        }
        let framing = match head.body {
            // Its content is left unread, and the connection isn't used again.
            Body::None { announced: true } => return,
            Body::None { .. } => Framing::Unsaid,
            Body::Length(length) => Framing::Length(length),
            Body::Chunked | Body::UntilClose => Framing::Chunked,
        };
        let content =
            if head.body == Body::UntilClose { Some(rest.to_vec()) } else { content_of(framing, rest).map(|(content, _)| content) };
        let Some(content) = content else { return };
        let coding = if framing == Framing::Chunked { Coding::Chunked } else { Coding::Plain };
        let mut client = BytesMut::new();
        head.put(&mut client, &Reply { coding, ..Reply::BARE });
        assert_is_strict(&client);
        match coding {
            Coding::Chunked => put_chunks(&mut client, &content),
            Coding::Plain | Coding::UntilClose => client.extend_from_slice(&content),
        }
        break (Message { line: head.status.to_string(), content }, client);
    };
    for (what, bytes) in [("came", bytes), ("is written", &written)] {
        if let Some(theirs) = answer_by_hyper(bytes, is_head) {
            assert_eq!(message, theirs, "what {what}: {bytes:?}");
        }
    }
}

/// A chunked body, wherever it is cut.
pub(crate) fn chunks(bytes: &[u8]) {
    let whole = decoded(&[bytes]);
    for at in 0..=bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(decoded(&[first, second]), whole, "cut at {at}");
    }
    if let Some(Some((content, _))) = whole {
        let mut again = BytesMut::new();
        put_chunks(&mut again, &content);
        assert_eq!(decoded(&[&again]).flatten().map(|(content, _)| content), Some(content));
    }
}

/// Content and trailers of a body in pieces; none if it is malformed, or none yet.
fn decoded(pieces: &[&[u8]]) -> Option<Option<(Vec<u8>, Vec<u8>)>> {
    let (mut decoder, mut content) = (Decoder::default(), Vec::new());
    for piece in pieces {
        let mut input = *piece;
        loop {
            match decoder.next(&mut input).ok()? {
                Piece::Data(data) => content.extend_from_slice(data),
                Piece::More => break,
                Piece::End => {
                    let trailers = decoder.trailers().flat_map(|(name, value)| [name, b":", value, b"\n"].concat());
                    return Some(Some((content, trailers.collect())));
                }
            }
        }
    }
    Some(None)
}

/// The content of a message, and what is left behind it; none if it isn't whole.
fn content_of(framing: Framing, bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    match framing {
        Framing::Unsaid => Some((Vec::new(), bytes)),
        Framing::Length(length) => {
            let (content, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
            Some((content.to_vec(), rest))
        }
        Framing::Chunked => {
            let (mut decoder, mut content, mut input) = (Decoder::default(), Vec::new(), bytes);
            loop {
                match decoder.next(&mut input).ok()? {
                    Piece::Data(data) => content.extend_from_slice(data),
                    Piece::More => return None,
                    Piece::End => return Some((content, input)),
                }
            }
        }
    }
}

fn put_chunks(out: &mut BytesMut, content: &[u8]) {
    for part in content.chunks(7) {
        chunk::put(out, part);
    }
    chunk::put_end(out, std::iter::empty());
}

/// A head of ours can be read in one way: lines end with CR LF and have neither of them inside, names are tokens, one field frames.
fn assert_is_strict(head: &[u8]) {
    let text = String::from_utf8_lossy(head);
    let lines = text.strip_suffix("\r\n\r\n").unwrap_or_else(|| panic!("{text:?} has no end"));
    let (mut framed, mut hosts) = (0, 0);
    for (number, line) in lines.split("\r\n").enumerate() {
        assert!(!line.is_empty() && !line.contains(['\r', '\n', '\0']), "{line:?} of {text:?}");
        let Some((name, _)) = line.split_once(':').filter(|_| number > 0) else { continue };
        assert!(syntax::is_token(name.as_bytes()), "{name:?} of {text:?}");
        framed += usize::from(matches!(name, "content-length" | "transfer-encoding"));
        hosts += usize::from(name == "host");
    }
    let is_answer = text.starts_with("HTTP/1.1 ");
    assert!(framed <= 1 && (hosts == 1 || is_answer), "{text:?}");
}

/// Bytes that come, and nobody who hears what is said to them.
struct Recorded<'b> {
    bytes: &'b [u8],
    /// They come when something was said; who waits for them.
    held: bool,
    waiting: Option<Waker>,
}

impl<'b> Recorded<'b> {
    fn request(bytes: &'b [u8]) -> Self {
        Self { bytes, held: false, waiting: None }
    }

    fn answer(bytes: &'b [u8]) -> Self {
        Self { bytes, held: true, waiting: None }
    }
}

impl AsyncRead for Recorded<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (first, rest) = self.bytes.split_at(self.bytes.len().min(buf.remaining()));
        buf.put_slice(first);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recorded<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.held = false;
        self.waiting.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn runs<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap_or_else(|error| panic!("a runtime: {error}")).block_on(future)
}

/// The whole requests that hyper's server reads.
fn read_by_hyper(bytes: &[u8]) -> Vec<Message> {
    let read = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let read = Arc::clone(&read);
        async move {
            let (head, body) = request.into_parts();
            let line = format!("{} {}", head.method, head.uri.path_and_query().map_or("", |path| path.as_str()));
            if let Ok(content) = body.collect().await {
                let message = Message { line, content: content.to_bytes().to_vec() };
                read.lock().unwrap_or_else(|panic| panic.into_inner()).push(message);
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let serving =
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(Recorded::request(bytes)), service);
    // However the connection ends: what is of interest has been read by then.
    let _ = runs(serving);
    std::mem::take(&mut *read.lock().unwrap_or_else(|panic| panic.into_inner()))
}

/// The answer that hyper's client reads, if that is a whole one.
fn answer_by_hyper(bytes: &[u8], is_head: bool) -> Option<Message> {
    runs(async {
        let io = TokioIo::new(Recorded::answer(bytes));
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(io).await.ok()?;
        let request = Request::builder().method(if is_head { "HEAD" } else { "GET" }).uri("/").body(Empty::new()).ok()?;
        let asked = async {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let content = body.collect().await.ok()?.to_bytes().to_vec();
            Some(Message { line: head.status.as_str().to_owned(), content })
        };
        tokio::pin!(asked, connection);
        tokio::select! {
            biased;
            answer = &mut asked => answer,
            _ = &mut connection => asked.await,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Requests that somebody has been smuggled with, and what they hide.
    const SMUGGLING: &[&str] = &[
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nX: X\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent_Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://x/a?b#c HTTP/1.1\r\nHost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, x-a\r\nX-A: 1\r\nUpgrade: h2c\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\nHost: y\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n000000000000000005\r\nhello\r\n0\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\nHost: x\n\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    const ANSWERS: &[&str] = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 4\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 205 Reset Content\r\nConnection: keep-alive\r\n\r\nto the end",
    ];

    /// Pieces of messages, which in most paid requests are none.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "GET ",
            "POST ",
            "/a",
            "/b?c",
            "*",
            "http://x/",
            " HTTP/1.1",
            " HTTP/1.0",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 204 x",
            "\r\n",
            "\r\n",
            "\r\n",
            "\n",
            "\r\n\r\n",
            "\r",
            " ",
            "\t",
            "Host: x",
            "Content-Length: 5",
            "Content-Length: 0",
            "content-length:05",
            "Transfer-Encoding: chunked",
            "transfer-encoding: chunked, chunked",
            "Connection: close",
            "Connection: keep-alive, te",
            "Trailer: a",
            "X: y",
            "X-Forwarded-For: 1.2.3.4",
            ":",
            ",",
            ";a=b",
            "0\r\n\r\n",
            "5\r\nhello\r\n",
            "5",
            "a",
            "hello",
            "\0",
            "\u{e9}",
        ]);
        prop::collection::vec(piece, 1..40).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn known_smuggling_is_one_message_to_everybody_or_none() {
        for text in SMUGGLING {
            requests(text.as_bytes());
            requests([text, "GET /honest HTTP/1.1\r\nHost: x\r\n\r\n"].concat().as_bytes());
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            chunks(body.as_bytes());
        }
        for text in ANSWERS {
            answers(text.as_bytes(), false);
            answers(text.as_bytes(), true);
        }
    }

    #[test]
    fn others_are_asked_indeed() {
        let message = |line: &str, content: &str| Message { line: line.to_owned(), content: content.as_bytes().to_vec() };
        let text = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(read_by_hyper(text.as_bytes()), [message("POST /a", "hello"), message("GET /b", "")]);
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(answer_by_hyper(text.as_bytes(), false), Some(message("200", "hello")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn pieces_in_any_order_are_one_message_to_everybody_or_none(text in text(), is_head: bool) {
            requests(format!("POST / HTTP/1.1\r\nHost: x\r\n{text}").as_bytes());
            requests(text.as_bytes());
            answers(format!("HTTP/1.1 200 OK\r\n{text}").as_bytes(), is_head);
            chunks(text.as_bytes());
        }
    }
}
