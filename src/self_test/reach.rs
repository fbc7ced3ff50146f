//! Reaches a name of the host as a visitor does: resolver, connection, handshake, each with an error of its own.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{net::TcpStream, time};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::MaybeTlsStream;
use url::Url;

use super::problem::Problem;
use crate::client::resolve;

/// How long each resolution, connection and handshake may take.
const WITHIN: Duration = Duration::from_secs(5);

/// An open connection.
pub(crate) type Stream = MaybeTlsStream<TcpStream>;

/// Where a host and its pods are reached.
pub(crate) struct Reach {
    host: String,
    port: u16,
    is_secure: bool,
}

impl Reach {
    /// The target of a public URI.
    pub(crate) fn of(uri: &Url) -> Self {
        let host = uri.host_str().unwrap_or_default().to_owned();
        Self { host, port: uri.port_or_known_default().unwrap_or(443), is_secure: uri.scheme() == "https" }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Resolves the host's name.
    pub(crate) async fn host_addresses(&self) -> Result<Vec<SocketAddr>, Problem> {
        self.addresses(&self.host).await.map_err(|source| Problem::Name { name: self.host.clone(), source })
    }

    /// Resolves a name below the host's.
    pub(crate) async fn pod_addresses(&self, label: &str) -> Result<Vec<SocketAddr>, Problem> {
        let name = self.below(label);
        self.addresses(&name).await.map_err(|source| Problem::Wildcard { host: self.host.clone(), name, source })
    }

    pub(crate) fn below(&self, label: &str) -> String {
        format!("{label}.{}", self.host)
    }

    async fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let found = time::timeout(WITHIN, resolve(name, self.port)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
    }

    /// Connects to the first of these addresses that accepts the connection.
    pub(crate) async fn connect(&self, addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), Problem> {
        let mut problem = None;
        for address in addresses.iter().copied() {
            let failed = match time::timeout(WITHIN, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((stream, address)),
                Err(_elapsed) => Problem::Silent { address },
                Ok(Err(source)) => match source.kind() {
                    io::ErrorKind::ConnectionRefused => Problem::Refuses { address },
                    io::ErrorKind::TimedOut => Problem::Silent { address },
                    _ => Problem::Unreachable { address, source },
                },
            };
            problem.get_or_insert(failed);
        }
        Err(problem.unwrap_or_else(|| Problem::Name { name: self.host.clone(), source: io::ErrorKind::NotFound.into() }))
    }

    /// Performs the TLS handshake for `name`, if the host uses TLS. Trusted authorities are reloaded, so that a new one takes effect.
    pub(crate) async fn secure(&self, name: &str, stream: TcpStream) -> Result<Stream, Problem> {
        if !self.is_secure {
            return Ok(MaybeTlsStream::Plain(stream));
        }
        let tls = connector().map_err(Problem::Roots)?;
        let failed = |source| Problem::Handshake { name: name.to_owned(), source };
        let server = ServerName::try_from(name.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
        let shaken = time::timeout(WITHIN, tls.connect(server, stream)).await.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?;
        shaken.map(MaybeTlsStream::Rustls).map_err(|error| match error.get_ref().and_then(|cause| cause.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(fault)) => Problem::Certificate { name: name.to_owned(), fault: fault.clone().into() },
            _ => failed(error),
        })
    }
}

fn connector() -> Result<TlsConnector, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let mut config = builder.with_safe_default_protocol_versions()?.with_platform_verifier()?.with_no_client_auth();
    // WebSockets need HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
