//! Both directions of one request, between its client and the connection to its upstream, polled together: so an answer may come before
//! the request is complete, and nothing needs a task or a channel.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use crate::request::client::Client;
use crate::request::download::Download;
use crate::request::error_response::Fault;
use crate::request::exchange::{End, Setting};
use crate::request::upload::{Stop, Upload, Wait};
use crate::request::visit::Visit;
use crate::time::timers::Moment;
use crate::upstream::socket::Socket;

/// One request between two sides.
pub(crate) struct Transfer<'a, C> {
    setting: Setting<'a>,
    client: &'a mut C,
    visit: &'a mut Visit,
    socket: Socket,
    upload: Upload,
    download: Download,
}

impl<'a, C: Client> Transfer<'a, C> {
    pub(crate) fn new(setting: Setting<'a>, client: &'a mut C, visit: &'a mut Visit, socket: Socket) -> Self {
        Self { setting, client, visit, socket, upload: Upload::new(setting.plan), download: Download::new() }
    }

    /// The upstream's connection, and what it has said that isn't passed on.
    pub(crate) fn into_upstream(self) -> (Socket, BytesMut) {
        (self.socket, self.download.heard)
    }

    /// Ready when the request is over; a fault is for the client to be told.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, Fault>> {
        loop {
            if self.client.is_heard_apart() && self.client.poll_left(cx).is_ready() {
                return Poll::Ready(Ok(End::Left));
            }
            let Self { setting, client, visit, socket, upload, download } = self;
            match upload.poll(cx, *client, &mut socket.stream, setting.plan, visit) {
                Ok(()) => {}
                Err(Stop::Left) => return Poll::Ready(Ok(End::Left)),
                Err(Stop::Fault(_)) if download.has_begun() => return Poll::Ready(Ok(End::Cut)),
                Err(Stop::Fault(fault)) => return Poll::Ready(Err(fault)),
            }
            let was_held = upload.is_held();
            if let Poll::Ready(end) = download.poll(cx, *client, &mut socket.stream, *setting, visit, upload) {
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

    /// A client that goes while it waits has left. What it has to send comes first, whether or not the upstream takes it.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let has_sent_all = if self.setting.facts.has_body { self.upload.is_done() } else { self.upload.is_over() };
        if has_sent_all && !self.client.is_heard_apart() { self.client.poll_left(cx) } else { Poll::Pending }
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
                    ready!(self.socket.timer.poll(deadline, cx));
                    continue;
                }
                Wait::Release => {
                    self.upload.release(plan);
                    self.client.invite();
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
