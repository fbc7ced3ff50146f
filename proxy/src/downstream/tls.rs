//! TLS: what its listeners need, and the handshake.
//!
//! ```text
//!  certificates   files -> keys by server name, read again when they change
//!  expiry         how long they last
//! ```
//!
//! Sessions are resumed from tickets the client keeps, sealed with keys of this process that change by themselves: how many other
//! clients came in between makes no difference, and nothing is held per session.

mod certificates;
pub(crate) mod expiry;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::context::conn::Facts;
use crate::telemetry::handshakes::{Failure, Handshakes};

pub use certificates::{CertificateError, CertificateFiles, Certificates, KeyKind};

/// In the order of our preference.
const PROTOCOLS: [&[u8]; 2] = [H2, b"http/1.1"];
const H2: &[u8] = b"h2";

/// What an edge that speaks TLS needs to know.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Where to listen, besides the listener for plain HTTP; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// What it proves its name with.
    pub certificates: Arc<Certificates>,
    /// Whether requests over plain HTTP are sent here, but for those of ACME challenges.
    pub redirect: bool,
    /// The port visitors reach these listeners at, for redirects; none: that of the first.
    pub public_port: Option<u16>,
    /// For how long browsers are told to use nothing but https; 0: they aren't.
    pub hsts_seconds: u32,
}

/// A connection after its handshake.
#[derive(Debug)]
pub(crate) struct Secured {
    /// Boxed once: a session is large, and is handed on.
    pub(crate) stream: Box<TlsStream<TcpStream>>,
    /// The client chose HTTP/2.
    pub(crate) is_h2: bool,
    pub(crate) facts: Facts,
}

/// Does handshakes with these certificates.
pub(crate) fn acceptor(certificates: Arc<Certificates>) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.ticketer = ring::Ticketer::new()?;
    // A second one has to be sealed and sent, too, and is of use only to clients that open two connections at once.
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The handshake, if it succeeds in time.
pub(crate) async fn accept(acceptor: &TlsAcceptor, stream: TcpStream, within: Duration, counters: &Handshakes) -> Option<Secured> {
    let stream = match timeout(within, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            counters.failed(Failure::of(&error));
            return None;
        }
        Err(_elapsed) => {
            tracing::debug!("TLS handshake took too long");
            counters.failed(Failure::Deadline);
            return None;
        }
    };
    let session = stream.get_ref().1;
    counters.done(session.protocol_version(), session.handshake_kind());
    let is_h2 = session.alpn_protocol() == Some(H2);
    let facts = Facts { name: session.server_name().map(Box::from) };
    Some(Secured { stream: Box::new(stream), is_h2, facts })
}
