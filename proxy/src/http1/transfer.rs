//! Both directions of one request, on the sockets of its client and of its upstream, polled together: so an answer may come before the
//! request is complete, and nothing needs a task or a channel.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http1::download::{Download, End, Setting};
use crate::http1::socket::Socket;
use crate::http1::upload::{Sides, Upload, Wait};
use crate::idle::{LazyTimer, Moment};
use crate::rescue::Fault;
use crate::visit::Visit;

/// Bytes that are read of the next request while one is being answered.
const AHEAD: usize = 256;

/// One request between two sockets.
pub(crate) struct Transfer<'a, S> {
    setting: Setting<'a>,
    client: &'a mut S,
    inbox: &'a mut BytesMut,
    visit: &'a mut Visit,
    socket: Socket,
    upload: Upload,
    download: Download,
    timer: LazyTimer,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Transfer<'a, S> {
    pub(crate) fn new(setting: Setting<'a>, client: &'a mut S, inbox: &'a mut BytesMut, visit: &'a mut Visit, socket: Socket) -> Self {
        let (upload, download) = (Upload::new(setting.plan), Download::new(setting.facts));
        Self { setting, client, inbox, visit, socket, upload, download, timer: LazyTimer::default() }
    }

    /// The upstream's connection, and what it has said that isn't passed on.
    pub(crate) fn into_upstream(self) -> (Socket, BytesMut) {
        (self.socket, self.download.heard)
    }

    /// Ready when the request is over; a fault is for the client to be told.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, Fault>> {
        loop {
            let Self { setting, client, inbox, visit, socket, upload, download, .. } = self;
            let mut sides = Sides { client: &mut **client, inbox, upstream: &mut socket.stream };
            if let Err(fault) = upload.poll(cx, &mut sides, setting.plan, visit) {
                return Poll::Ready(if download.has_begun() { Ok(End::Cut) } else { Err(fault) });
            }
            let was_held = upload.is_held();
            if let Poll::Ready(end) = download.poll(cx, &mut **client, &mut socket.stream, *setting, visit, upload) {
                return Poll::Ready(end);
            }
            if was_held && !upload.is_held() {
                continue;
            }
            if self.poll_left(cx).is_ready() {
                return Poll::Ready(Ok(End::Left));
            }
            if Pin::new(&mut self.socket.cut).poll(cx).is_ready() {
                self.setting.conn.edge.metrics.upstream.broken.inc();
                return Poll::Ready(Ok(if self.download.has_begun() {
                    End::Cut
                } else {
                    End::Lost { answer_began: true, was_sent: true }
                }));
            }
            ready!(self.poll_overdue(cx))?;
        }
    }

    /// A client that closes while it waits has left, unless it has sent more requests before.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What it has to send comes first, whether or not the upstream takes it.
        let has_sent_all = if self.setting.facts.has_body { self.upload.is_done() } else { self.upload.is_over() };
        if !has_sent_all || !self.inbox.is_empty() {
            return Poll::Pending;
        }
        let mut room = [0; AHEAD];
        let mut buf = ReadBuf::new(&mut room);
        match ready!(Pin::new(&mut *self.client).poll_read(cx, &mut buf)) {
            Ok(()) if !buf.filled().is_empty() => {
                self.inbox.extend_from_slice(buf.filled());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Ready when a wait is over: with a fault, or for there is something to do again. An answer that has begun takes as long as it does.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self.download.has_begun() {
            return Poll::Pending;
        }
        let Setting { conn, plan, .. } = self.setting;
        let (edge, target) = (&conn.edge, &plan.target);
        loop {
            let fault = match self.upload.wait(Moment::now(), target.patience(edge), &edge.limits) {
                Wait::Until(deadline) => {
                    ready!(self.timer.poll(deadline, cx));
                    continue;
                }
                Wait::Release => {
                    self.upload.release(plan);
                    self.download.invite();
                    return Poll::Ready(Ok(()));
                }
                Wait::TooSlow => Fault::ClientTooSlow,
                Wait::Stalled => Fault::ClientStalled,
                Wait::Unanswered => {
                    edge.metrics.upstream.answer_timeout.inc();
                    target.timed_out()
                }
            };
            return Poll::Ready(Err(fault));
        }
    }
}
