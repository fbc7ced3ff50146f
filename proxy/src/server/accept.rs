//! One accepted connection: whose it is, whether there is room for it, and what it speaks.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as Socket;
use pingora::server::ShutdownWatch;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::context::conn::{Conn, Peer};
use crate::context::shared::Shared;
use crate::downstream::http1;
use crate::downstream::http2;
use crate::downstream::proxied;
use crate::downstream::tls;
use crate::policy::gate::Place;
use crate::telemetry::metrics::Full;

/// What pingora calls for each accepted connection.
pub(crate) struct App {
    /// pingora holds the app as long as it accepts, and for each connection from the accept on: so the drain can't miss one.
    _tracked: TaskTrackerToken,
    shared: Arc<Shared>,
    /// What TLS is spoken with; none: it isn't.
    acceptor: Option<TlsAcceptor>,
    /// Connections begin with a PROXY protocol header.
    proxied: bool,
}

impl App {
    pub(crate) fn new(shared: Arc<Shared>, acceptor: Option<TlsAcceptor>, proxied: bool) -> App {
        App { _tracked: shared.tasks.token(), shared, acceptor, proxied }
    }

    /// Whose the connection is, with a place for it; none if there is no place, or nobody can tell.
    async fn admit(&self, stream: Stream) -> Option<(Box<Socket>, Peer, Place)> {
        let Shared { gate, policy, limits, metrics, .. } = &*self.shared;
        let turn_away = |full| metrics.turned_away(full);
        let digest = stream.get_socket_digest()?;
        let peer = digest.peer_addr().and_then(|peer| peer.as_inet())?.ip().to_canonical();
        // All are that unless pingora itself spoke TLS on them.
        let socket: Box<Socket> = stream.into_any().downcast().ok()?;
        if self.proxied && !policy.trusts(peer) {
            turn_away(Full::ForStrangers);
            return None;
        }
        let place = gate.place().map_err(turn_away).ok()?;
        let (socket, client) = if self.proxied { self.introduced(socket, peer).await? } else { (socket, peer) };
        let place = gate.place_of(place, client, policy, limits).map_err(turn_away).ok()?;
        Some((socket, Peer { address: client, socket: Some(digest) }, place))
    }

    /// The connection without its PROXY protocol header, and whom that names.
    async fn introduced(&self, mut socket: Box<Socket>, proxy: IpAddr) -> Option<(Box<Socket>, IpAddr)> {
        let Shared { limits, metrics, cut, .. } = &*self.shared;
        let named = tokio::select! {
            named = proxied::client(&mut socket, limits.header_deadline) => named,
            () = cut.cancelled() => return None,
        };
        match named {
            Ok(client) => Some((socket, client.map_or(proxy, |client| client.to_canonical()))),
            Err(error) => {
                metrics.cut.proxy_header.inc();
                tracing::debug!(error = &error as &dyn std::error::Error, %proxy, "connection closed");
                None
            }
        }
    }
}

#[async_trait]
impl ServerApp for App {
    /// Hands the connection to a task of its own: pingora's has room for everything it can do, and would hold it as long as the
    /// connection is open.
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let shared = Arc::clone(&self.shared);
        let (socket, client, place) = self.admit(stream).await?;
        let (tasks, shutdown) = (shared.tasks.clone(), shutdown.clone());
        match self.acceptor.clone() {
            None => tasks.spawn(http1::serve::serve(Arc::new(Conn::new(shared, client, None, place)), socket, shutdown)),
            Some(acceptor) => tasks.spawn(serve_tls(shared, acceptor, socket, client, place, shutdown)),
        };
        None
    }
}

async fn serve_tls(shared: Arc<Shared>, acceptor: TlsAcceptor, socket: Box<Socket>, client: Peer, place: Place, shutdown: ShutdownWatch) {
    // Boxed, because a handshake needs much room for a short time.
    let handshake = Box::pin(tls::accept(&acceptor, socket, shared.limits.handshake, &shared.metrics.handshakes));
    let secured = tokio::select! {
        secured = handshake => secured,
        () = shared.cut.cancelled() => None,
    };
    let Some(secured) = secured else { return };
    let conn = Arc::new(Conn::new(shared, client, Some(secured.facts), place));
    if secured.is_h2 {
        Box::pin(http2::serve::serve(conn, secured.stream, shutdown)).await;
    } else {
        // Boxed once: a session is large, and is lent and taken back.
        Box::pin(http1::serve::serve(conn, Box::new(secured.stream), shutdown)).await;
    }
}
