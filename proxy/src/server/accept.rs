//! Accepted connections: whose each is, whether there is room for it, and what it speaks.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::server::ShutdownWatch;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::context::conn::{Conn, Peer};
use crate::context::shared::Shared;
use crate::downstream::http1;
use crate::downstream::http2;
use crate::downstream::proxied;
use crate::downstream::tls;
use crate::policy::gate::Place;
use crate::telemetry::metrics::Full;

/// How long nothing is accepted after a failure that isn't one connection's, such as no room for another socket: the next accept would fail
/// at once, too.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections of one kind of listener.
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    /// What TLS is spoken with; none: it isn't.
    tls: Option<TlsAcceptor>,
    /// Connections begin with a PROXY protocol header.
    proxied: bool,
}

impl Acceptor {
    pub(crate) fn new(shared: Arc<Shared>, tls: Option<TlsAcceptor>, proxied: bool) -> Acceptor {
        Acceptor { shared, tls, proxied }
    }

    /// Accepts until `stopping` turns true; each connection has a task of its own.
    pub(crate) async fn accept(self: &Arc<Self>, listener: TcpListener, mut stopping: ShutdownWatch) {
        let shutdown = stopping.clone();
        let mut stopped = std::pin::pin!(stopping.wait_for(|stop| *stop));
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut stopped => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.take(socket, peer.ip().to_canonical(), &shutdown),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    if !is_of_one_connection(&error) {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Serves a connection, if there is a place for it.
    fn take(self: &Arc<Self>, socket: TcpStream, peer: IpAddr, shutdown: &ShutdownWatch) {
        let Shared { gate, policy, metrics, tasks, .. } = &*self.shared;
        if self.proxied && !policy.trusts(peer) {
            return metrics.turned_away(Full::ForStrangers);
        }
        match gate.place() {
            Err(full) => metrics.turned_away(full),
            Ok(place) if self.proxied => {
                let (this, shutdown) = (Arc::clone(self), shutdown.clone());
                tasks.spawn(async move { this.introduce(socket, peer, place, shutdown).await });
            }
            Ok(place) => self.serve(socket, peer, place, shutdown.clone()),
        }
    }

    /// Serves it for the client its PROXY protocol header names.
    async fn introduce(&self, mut socket: TcpStream, proxy: IpAddr, place: Place, shutdown: ShutdownWatch) {
        let Shared { limits, metrics, cut, .. } = &*self.shared;
        let named = tokio::select! {
            named = proxied::client(&mut socket, limits.header_deadline) => named,
            () = cut.cancelled() => return,
        };
        match named {
            Ok(client) => self.serve(socket, client.map_or(proxy, |client| client.to_canonical()), place, shutdown),
            Err(error) => {
                metrics.cut.proxy_header.inc();
                tracing::debug!(error = &error as &dyn std::error::Error, %proxy, "connection closed");
            }
        }
    }

    fn serve(&self, socket: TcpStream, client: IpAddr, place: Place, shutdown: ShutdownWatch) {
        let Shared { gate, policy, limits, metrics, tasks, .. } = &*self.shared;
        let place = match gate.place_of(place, client, policy, limits) {
            Ok(place) => place,
            Err(full) => return metrics.turned_away(full),
        };
        let shared = Arc::clone(&self.shared);
        let peer = Peer { address: client, socket: socket.as_raw_fd() };
        match self.tls.clone() {
            None => tasks.spawn(http1::serve::serve(Arc::new(Conn::new(shared, peer, None, place)), socket, shutdown)),
            Some(tls) => tasks.spawn(serve_tls(shared, tls, socket, peer, place, shutdown)),
        };
    }
}

async fn serve_tls(shared: Arc<Shared>, tls: TlsAcceptor, socket: TcpStream, peer: Peer, place: Place, shutdown: ShutdownWatch) {
    // Boxed, because a handshake needs much room for a short time.
    let handshake = Box::pin(tls::accept(&tls, socket, shared.limits.handshake, &shared.metrics.handshakes));
    let secured = tokio::select! {
        secured = handshake => secured,
        () = shared.cut.cancelled() => None,
    };
    let Some(secured) = secured else { return };
    let conn = Arc::new(Conn::new(shared, peer, Some(secured.facts), place));
    if secured.is_h2 {
        Box::pin(http2::serve::serve(conn, secured.stream, shutdown)).await;
    } else {
        http1::serve::serve(conn, secured.stream, shutdown).await;
    }
}

/// Whether it was the client that has gone meanwhile.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}
