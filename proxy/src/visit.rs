//! One request, from its head to the last byte of its answer or tunnel: what is counted and logged of it. It is over when it is dropped,
//! however that comes about.

use std::sync::Arc;
use std::time::Instant;

use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, StatusCode};

use crate::access::{Entry, LEFT, Line};
use crate::body::Progress;
use crate::conn::Conn;
use crate::metrics::To;
use crate::request_id::RequestId;
use crate::route::PodKey;
use crate::traffic::Traffic;
use crate::upstream::Route;
use crate::wire::request::RequestHead;

#[derive(Debug)]
pub(crate) struct Visit {
    conn: Arc<Conn>,
    begun: Instant,
    method: Method,
    id: RequestId,
    to: To,
    /// What is counted for the pod it is sent to.
    traffic: Option<Arc<Traffic>>,
    status: Option<StatusCode>,
    upload: Option<Arc<Progress>>,
    received: u64,
    sent: u64,
    /// What will be logged; none: this one isn't.
    line: Option<Box<Line>>,
}

impl Visit {
    pub(crate) fn begin<B>(conn: &Arc<Conn>, request: &Request<B>) -> Visit {
        let client = || conn.via.client(request.headers(), &conn.edge.policy);
        let agent = || request.headers().get(USER_AGENT).map_or(&[][..], HeaderValue::as_bytes);
        let (method, path) = (request.method(), request.uri().path().as_bytes());
        Visit::of(conn, method.clone(), |id| Line::new(client(), id, method.as_str().as_bytes(), path, agent()))
    }

    /// The same by a head as it was read.
    pub(crate) fn begin_raw(conn: &Arc<Conn>, head: &RequestHead<'_, '_>) -> Visit {
        let client = || conn.via.client_of(head.forwarded_for().rev(), &conn.edge.policy);
        let agent = || head.value_of("user-agent").unwrap_or_default();
        let method = Method::from_bytes(head.method).unwrap_or_default();
        Visit::of(conn, method, |id| Line::new(client(), id, head.method, head.target.path, agent()))
    }

    fn of(conn: &Arc<Conn>, method: Method, line: impl FnOnce(RequestId) -> Line) -> Visit {
        let id = RequestId::next();
        let is_logged = conn.edge.access.as_ref().is_some_and(|log| log.takes_next());
        Visit {
            conn: Arc::clone(conn),
            begun: Instant::now(),
            method,
            id,
            to: To::Nowhere,
            traffic: None,
            status: None,
            upload: None,
            received: 0,
            sent: 0,
            line: is_logged.then(|| Box::new(line(id))),
        }
    }

    /// When its head was there.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    /// Whether it was sent to the control plane.
    pub(crate) fn went_to_control(&self) -> bool {
        self.to == To::Control
    }

    /// It is for this pod, whether or not there is one.
    pub(crate) fn is_for(&mut self, pod: PodKey) {
        if let Some(line) = &mut self.line {
            line.pod = Some(pod);
        }
    }

    /// It is sent to the control plane.
    pub(crate) fn goes_to_control(&mut self) {
        self.to = To::Control;
    }

    /// It is sent to a pod that is here.
    pub(crate) fn goes_to_pod(&mut self, route: &Route) {
        self.to = To::Pod;
        self.traffic = Some(Arc::clone(route.traffic()));
    }

    /// It has this body.
    pub(crate) fn uploads(&mut self, upload: Arc<Progress>) {
        self.upload = Some(upload);
    }

    /// The head of its answer is there.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.conn.edge.metrics.answered(self.to, &self.method, status, self.begun.elapsed());
    }

    /// So many bytes came of its body, or through its tunnel.
    pub(crate) fn received(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(bytes);
        self.conn.edge.metrics.received.inc_by(bytes);
    }

    /// So many bytes of its answer, or through its tunnel, went to the client.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.sent = self.sent.saturating_add(bytes);
        self.conn.edge.metrics.sent.inc_by(bytes);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let edge = &self.conn.edge;
        if self.status.is_none() {
            edge.metrics.left(self.to, &self.method);
        }
        let received = self.received.saturating_add(self.upload.as_ref().map_or(0, |upload| upload.bytes()));
        if let Some(traffic) = &self.traffic {
            traffic.count(self.status, received, self.sent);
        }
        if let (Some(log), Some(line)) = (&edge.access, self.line.take()) {
            log.add(Entry {
                line,
                is_control: self.to == To::Control,
                status: self.status.map_or(LEFT, |status| status.as_u16()),
                received,
                sent: self.sent,
                took: self.begun.elapsed(),
            });
        }
    }
}
