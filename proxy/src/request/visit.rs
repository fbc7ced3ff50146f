//! One request, from its head to the last byte of its answer or tunnel: what is counted and logged of it. It is over when it is dropped,
//! however that comes about.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};

use crate::context::conn::Conn;
use crate::pod_key::PodKey;
use crate::telemetry::access::{Entry, LEFT, Line};
use crate::telemetry::metrics::To;
use crate::telemetry::request_id::RequestId;
use crate::telemetry::traffic::Traffic;
use crate::upstream::route::Route;
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
    received: u64,
    sent: u64,
    /// What will be logged; none: this one isn't.
    line: Option<Box<Line>>,
}

impl Visit {
    pub(crate) fn begin(conn: &Arc<Conn>, head: &RequestHead<'_>) -> Visit {
        let client = || conn.via.client(head.forwarded_for().rev(), &conn.edge.policy);
        let agent = || head.value_of("user-agent").unwrap_or_default();
        let id = RequestId::next();
        let is_logged = conn.edge.access.as_ref().is_some_and(|log| log.takes_next());
        Visit {
            conn: Arc::clone(conn),
            begun: Instant::now(),
            method: Method::from_bytes(head.method).unwrap_or_default(),
            id,
            to: To::Nowhere,
            traffic: None,
            status: None,
            received: 0,
            sent: 0,
            line: is_logged.then(|| Box::new(Line::new(client(), id, head.method, head.target.path, agent()))),
        }
    }

    /// When its head was there.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
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
        if let Some(traffic) = &self.traffic {
            traffic.count(self.status, self.received, self.sent);
        }
        if let (Some(log), Some(line)) = (&edge.access, self.line.take()) {
            log.add(Entry {
                line,
                is_control: self.to == To::Control,
                status: self.status.map_or(LEFT, |status| status.as_u16()),
                received: self.received,
                sent: self.sent,
                took: self.begun.elapsed(),
            });
        }
    }
}
