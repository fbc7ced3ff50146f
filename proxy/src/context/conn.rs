//! One client connection: who has opened it, by what, and what all its requests share.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use pingora_core::protocols::l4::ext::get_tcp_info;

use crate::context::shared::Shared;
use crate::policy::gate::Place;
use crate::policy::via::Via;
use crate::telemetry::access::Entry;
use crate::telemetry::metrics::Counted;

/// Who has opened a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Its number, for as long as its stream is open.
    pub(crate) socket: RawFd,
}

/// What its handshake has told of a connection.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The name the client asked for, if it named one.
    pub(crate) name: Option<Box<str>>,
}

/// What the requests of one client connection share.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) edge: Arc<Shared>,
    /// Whom it is with.
    pub(crate) via: Via,
    /// What its handshake has told; none: it is plain.
    tls: Option<Facts>,
    socket: RawFd,
    _place: Place,
    _counted: Counted,
}

impl Conn {
    pub(crate) fn new(edge: Arc<Shared>, peer: Peer, tls: Option<Facts>, place: Place) -> Conn {
        let counted = Counted::new(&edge.metrics.connections);
        let via = Via::new(peer.address, tls.is_some(), &edge.policy);
        Conn { edge, via, tls, socket: peer.socket, _place: place, _counted: counted }
    }

    /// Bytes sent whose arrival the client's kernel has acknowledged. Only while its stream is open.
    pub(crate) fn acknowledged(&self) -> u64 {
        get_tcp_info(self.socket).map_or(0, |info| info.tcpi_bytes_acked)
    }

    /// What came over it, in so much time, is no request, and the connection is closed for that.
    pub(crate) fn refused(&self, status: StatusCode, took: Duration) {
        let cut = &self.edge.metrics.cut;
        if status == StatusCode::BAD_REQUEST {
            cut.malformed.inc()
        } else {
            cut.header_too_large.inc()
        }
        if let Some(log) = self.edge.access.as_ref().filter(|log| log.takes_next()) {
            log.add(Entry::refused(self.via.peer, status, took));
        }
    }

    /// Whether the client speaks TLS with us.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The name it has asked for in its handshake, if it did.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.tls.as_ref()?.name.as_deref()
    }

    /// What is said to browsers over https.
    pub(crate) fn hsts(&self) -> Option<HeaderValue> {
        self.edge.hsts.clone().filter(|_| self.is_secure())
    }
}
