//! The client's side of one request: where its content comes from, and where its answer goes. HTTP/1 and HTTP/2 have one each.

use std::io;
use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::upstream::pipe::Pipe;
use crate::wire::answer::AnswerHead;
use crate::wire::chunk::Decoder;

/// The client of one request.
pub(crate) trait Client {
    /// Content of known length that has come and isn't taken.
    fn content(&self) -> &[u8];

    /// So much of it is taken.
    fn take(&mut self, count: usize);

    /// Takes what has come of content of unknown length, and writes it as chunks.
    fn take_chunks(&mut self, out: &mut BytesMut, passes_trailers: bool) -> Result<Chunks, Lack>;

    /// Ready when more content has come; so many bytes are to come, if that is known.
    fn poll_content(&mut self, left: Option<u64>, cx: &mut Context<'_>) -> Poll<Result<(), Lack>>;

    /// Ready when the client doesn't wait for its answer any more.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether that may be asked at any time. Otherwise all its content must have come, or none be taken any more.
    fn is_heard_apart(&self) -> bool;

    /// It may send its content: 100 Continue.
    fn invite(&mut self);

    /// An answer that isn't the last word: 101, and informational ones but 100.
    fn inform(&mut self, head: &AnswerHead<'_>);

    /// The head of the answer.
    fn begin(&mut self, head: &AnswerHead<'_>, reply: Beginning<'_>);

    /// Whether content of unknown length is sent as it is.
    fn takes_raw(&self) -> bool;

    /// Whether there is room for more content to [put](Client::put).
    fn has_room(&self) -> bool;

    /// Content of unknown length.
    fn put(&mut self, content: &[u8]);

    /// Its end, with the trailers that this decoder has read.
    fn put_end(&mut self, trailers: Option<&Decoder>);

    /// Sends what was put, then the first `direct` bytes of `heard`, which are the last of the answer if it `ends`. Ready with no bytes when
    /// all is sent.
    fn poll_send(&mut self, heard: &mut BytesMut, direct: usize, ends: bool, cx: &mut Context<'_>) -> Poll<io::Result<Sent>>;

    /// Whether content may come through a pipe.
    fn takes_pipes(&self) -> bool {
        false
    }

    /// Sends what the pipe holds; how much has left. All that came before it must have been sent.
    fn poll_drain(&mut self, _: &mut Pipe, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// There is no more content, and not all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// It broke off, or is malformed.
    Malformed,
    /// The client has taken its request back.
    Left,
}

/// What became chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// Bytes of content.
    pub(crate) bytes: usize,
    /// That was all.
    pub(crate) is_done: bool,
}

/// What left for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) bytes: usize,
    /// Those of them that were sent directly.
    pub(crate) direct: usize,
}

/// What the client is told besides what the head of its answer says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning<'a> {
    /// No content follows.
    pub(crate) ends: bool,
    /// All of the request has gone to the upstream.
    pub(crate) request_is_complete: bool,
    /// Date, unless the answer has that.
    pub(crate) date: Option<&'a [u8]>,
    /// Strict-Transport-Security, unless the answer has that.
    pub(crate) hsts: Option<&'a [u8]>,
    /// Shown in what the control plane answers.
    pub(crate) request_id: Option<&'a [u8]>,
}
