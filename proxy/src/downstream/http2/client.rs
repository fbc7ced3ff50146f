//! The client's side of a request over HTTP/2: content and answer as frames of its stream. Only what the client's windows allow is given to
//! the connection, so a client that takes nothing is waited for here.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::downstream::http2::flow::{Flow, Piece, Waiting};
use crate::request::ENCODED;
use crate::request::client::{Beginning, Chunks, Client, Lack, Sent};
use crate::telemetry::request_id::X_REQUEST_ID;
use crate::time::http_date;
use crate::wire::answer::{AnswerHead, Body, Coding, Reply};
use crate::wire::chunk::{self, Decoder};
use crate::wire::field::Class;

/// One request of a connection.
pub(crate) struct Http2Client {
    flow: Arc<Flow>,
    body: RecvStream,
    /// Content that has come and isn't taken.
    content: Bytes,
    /// All of it has come, and this behind it.
    trailers: Option<HeaderMap>,
    respond: SendResponse<Piece>,
    /// Once its head is sent.
    answer: Option<SendStream<Piece>>,
    /// The client took its request back, or the connection is over.
    has_left: bool,
    outbox: BytesMut,
    end: End,
    waiting: Option<Waiting>,
}

/// How far the end of an answer is.
enum End {
    /// There may be more.
    Open,
    /// All that there is to send is in the outbox; these follow it.
    Put(Option<HeaderMap>),
    Sent,
}

impl Http2Client {
    pub(crate) fn new(flow: &Arc<Flow>, body: RecvStream, respond: SendResponse<Piece>) -> Self {
        Self {
            flow: Arc::clone(flow),
            body,
            content: Bytes::new(),
            trailers: None,
            respond,
            answer: None,
            has_left: false,
            outbox: BytesMut::new(),
            end: End::Open,
            waiting: None,
        }
    }

    /// An answer of the edge's own.
    pub(crate) fn page(&mut self, page: &Response<Bytes>, is_head: bool, hsts: Option<HeaderValue>) {
        let mut headers = page.headers().clone();
        headers.remove(CONNECTION);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(page.body().len()));
        headers.extend(HeaderValue::from_bytes(&http_date::now()).ok().map(|date| (DATE, date)));
        if let Some(hsts) = hsts {
            headers.insert(STRICT_TRANSPORT_SECURITY, hsts);
        }
        let ends = is_head || page.body().is_empty();
        self.send_head(page.status(), headers, ends);
        if !ends {
            self.outbox.extend_from_slice(page.body());
            self.end = End::Put(None);
        }
    }

    /// The answer is reset, when what there is of it has left.
    pub(crate) fn breaks(self) {
        if let Some(answer) = self.answer {
            self.flow.breaks(answer);
        }
    }

    fn send_head(&mut self, status: StatusCode, headers: HeaderMap, ends: bool) {
        match self.respond.send_response(head_of(status, headers), ends) {
            Ok(answer) => self.answer = Some(answer),
            // The stream is reset already.
            Err(_) => self.has_left = true,
        }
        if ends {
            self.end = End::Sent;
        }
    }

    fn send_informational(&mut self, status: StatusCode, headers: HeaderMap) {
        // An error: the stream is reset already.
        self.has_left |= self.respond.send_informational(head_of(status, headers)).is_err();
    }

    /// Bytes the client lets through, of so many.
    fn poll_capacity(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        answer.reserve_capacity(wanted);
        let mut capacity = answer.capacity();
        while capacity == 0 {
            let Poll::Ready(polled) = answer.poll_capacity(cx) else {
                self.waiting.get_or_insert_with(|| self.flow.wait());
                return Poll::Pending;
            };
            capacity = polled.ok_or(io::ErrorKind::BrokenPipe)?.map_err(io::Error::other)?;
        }
        self.waiting = None;
        Poll::Ready(Ok(capacity.min(wanted)))
    }

    fn send(&mut self, content: Bytes, ends: bool) -> io::Result<()> {
        let Some(answer) = &mut self.answer else { return Err(io::ErrorKind::BrokenPipe.into()) };
        answer.send_data(Piece::new(content, &self.flow), ends).map_err(io::Error::other)?;
        if ends {
            self.end = End::Sent;
        }
        Ok(())
    }

    /// Sends what is in the outbox, and the end behind it; how many bytes, and whether that is all.
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.outbox.is_empty() {
            match std::mem::replace(&mut self.end, End::Sent) {
                End::Put(Some(trailers)) => {
                    let sent = self.answer.as_mut().map(|answer| answer.send_trailers(trailers));
                    sent.transpose().map_err(io::Error::other)?;
                }
                End::Put(None) => self.send(Bytes::new(), true)?,
                end => self.end = end,
            }
            return Poll::Ready(Ok(0));
        }
        let count = ready!(self.poll_capacity(self.outbox.len(), cx))?;
        let content = self.outbox.split_to(count).freeze();
        let ends = self.outbox.is_empty() && matches!(self.end, End::Put(None));
        self.send(content, ends)?;
        Poll::Ready(Ok(count))
    }
}

impl Client for Http2Client {
    fn content(&self) -> &[u8] {
        &self.content
    }

    fn take(&mut self, count: usize) {
        self.content.advance(count);
        // An error: the stream is over, and there is nothing to let through.
        let _ = self.body.flow_control().release_capacity(count);
    }

    fn take_chunks(&mut self, out: &mut BytesMut, passes_trailers: bool) -> Result<Chunks, Lack> {
        let content = std::mem::take(&mut self.content);
        let bytes = content.len();
        if bytes > 0 {
            chunk::put(out, &content);
            let _ = self.body.flow_control().release_capacity(bytes);
        }
        if let Some(trailers) = &self.trailers {
            let fields = trailers.iter().filter(|_| passes_trailers).map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
            chunk::put_end(out, fields.filter(|(name, _)| !Class::of(name).is_barred_from_trailers()));
        }
        Ok(Chunks { bytes, is_done: self.trailers.is_some() })
    }

    fn poll_content(&mut self, _: Option<u64>, cx: &mut Context<'_>) -> Poll<Result<(), Lack>> {
        let lack = |error: h2::Error| if error.is_library() { Lack::Malformed } else { Lack::Left };
        if let Some(content) = ready!(self.body.poll_data(cx)) {
            self.content = content.map_err(lack)?;
        } else {
            self.trailers = Some(ready!(self.body.poll_trailers(cx)).map_err(lack)?.unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.answer {
            _ if self.has_left => Poll::Ready(()),
            Some(answer) => answer.poll_reset(cx).map(drop),
            None => self.respond.poll_reset(cx).map(drop),
        }
    }

    fn is_heard_apart(&self) -> bool {
        true
    }

    fn invite(&mut self) {
        self.send_informational(StatusCode::CONTINUE, HeaderMap::new());
    }

    fn inform(&mut self, head: &AnswerHead<'_>) {
        if let Ok(status) = StatusCode::from_u16(head.status)
            && status != StatusCode::SWITCHING_PROTOCOLS
        {
            self.send_informational(status, fields(head, &Reply::BARE));
        }
    }

    fn begin(&mut self, head: &AnswerHead<'_>, beginning: Beginning<'_>) {
        let Beginning { date, hsts, request_id, .. } = beginning;
        let coding = if head.body == Body::Chunked { Coding::Chunked } else { Coding::Plain };
        let mut headers = fields(head, &Reply { coding, request_id, ..Reply::BARE });
        for (name, value) in [(DATE, date), (STRICT_TRANSPORT_SECURITY, hsts), (X_REQUEST_ID, request_id)] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_bytes(value).ok()) {
                headers.insert(name, value);
            }
        }
        if let Some(length) = head.length_passed() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        self.send_head(StatusCode::from_u16(head.status).unwrap_or_default(), headers, beginning.ends);
    }

    fn takes_raw(&self) -> bool {
        true
    }

    fn has_room(&self) -> bool {
        self.outbox.len() < ENCODED
    }

    fn put(&mut self, content: &[u8]) {
        self.outbox.extend_from_slice(content);
    }

    fn put_end(&mut self, trailers: Option<&Decoder>) {
        let trailers: HeaderMap = trailers.into_iter().flat_map(Decoder::trailers).filter_map(field).collect();
        self.end = End::Put(Some(trailers).filter(|trailers| !trailers.is_empty()));
    }

    fn poll_send(&mut self, heard: &mut BytesMut, direct: usize, ends: bool, cx: &mut Context<'_>) -> Poll<io::Result<Sent>> {
        if self.has_left {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let put = ready!(self.poll_outbox(cx))?;
        if put > 0 || direct == 0 {
            return Poll::Ready(Ok(Sent { bytes: put, direct: 0 }));
        }
        let count = ready!(self.poll_capacity(direct, cx))?;
        self.send(heard.split_to(count).freeze(), ends && count == direct)?;
        Poll::Ready(Ok(Sent { bytes: count, direct: count }))
    }
}

fn head_of(status: StatusCode, headers: HeaderMap) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    head
}

fn fields(head: &AnswerHead<'_>, reply: &Reply<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(head.fields.len());
    for (name, value) in head.passed(reply).filter_map(field) {
        headers.append(name, value);
    }
    headers
}

fn field((name, value): (&[u8], &[u8])) -> Option<(HeaderName, HeaderValue)> {
    HeaderName::from_bytes(name).ok().zip(HeaderValue::from_bytes(value).ok())
}
