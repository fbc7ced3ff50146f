//! An edge with TLS, an authority that vouches for its certificates, and clients that believe only that one.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use codiusd_proxy::{CertificateFiles, Certificates, EdgeConfig, Limits, RouteTable, TlsConfig};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::kit::{EdgeFixture, mirror, within};

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// Issues certificates into a directory of its own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "tests");
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Authority { issuer: Issuer::new(params, key), roots: Arc::new(roots), dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Writes a certificate for `names`, and its key, to `stem`.pem and `stem`-key.pem.
    pub(crate) fn issue(&self, stem: &str, names: &[&str]) -> CertificateFiles {
        self.issue_for(stem, names, &KeyPair::generate().unwrap(), |_| {})
    }

    /// As `issue`, for `key`, and with what `change` changes.
    pub(crate) fn issue_for(
        &self,
        stem: &str,
        names: &[&str],
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        let files = CertificateFiles { chain: self.path(&format!("{stem}.pem")), key: self.path(&format!("{stem}-key.pem")) };
        fs::write(&files.chain, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// What a client that believes this authority is configured with.
    pub(crate) fn client_with(&self, versions: &[&'static SupportedProtocolVersion], protocols: &[&str]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    pub(crate) fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        self.client_with(rustls::ALL_VERSIONS, protocols)
    }
}

/// A fixture whose edge has a TLS listener, too.
pub(crate) struct TlsFixture {
    pub(crate) fixture: EdgeFixture,
    pub(crate) authority: Authority,
    pub(crate) certificates: Arc<Certificates>,
}

impl TlsFixture {
    /// With one certificate, for `*.codius.localhost` and localhost.
    pub(crate) async fn new() -> TlsFixture {
        TlsFixture::with(Limits::default(), |_| {}).await
    }

    pub(crate) async fn with(limits: Limits, change: impl FnOnce(&mut TlsConfig)) -> TlsFixture {
        let authority = Authority::new();
        let files = vec![authority.issue("main", &["*.codius.localhost", "localhost", "127.0.0.1"])];
        TlsFixture::of(authority, files, limits, change).await
    }

    pub(crate) async fn of(
        authority: Authority,
        files: Vec<CertificateFiles>,
        limits: Limits,
        change: impl FnOnce(&mut TlsConfig),
    ) -> TlsFixture {
        TlsFixture::shaped(authority, files, |mut config| {
            config.tls.as_mut().map(change);
            EdgeConfig { limits, ..config }
        })
        .await
    }

    /// With these certificates, as `shape` changes the rest.
    pub(crate) async fn shaped(
        authority: Authority,
        files: Vec<CertificateFiles>,
        shape: impl FnOnce(EdgeConfig) -> EdgeConfig,
    ) -> TlsFixture {
        let certificates = Arc::new(Certificates::load(files).unwrap());
        let tls = TlsConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            certificates: Arc::clone(&certificates),
            redirect: false,
            public_port: None,
            hsts_seconds: 0,
        };
        let fixture = EdgeFixture::shaped(Arc::new(RouteTable::new()), |config| shape(EdgeConfig { tls: Some(tls), ..config }));
        fixture.control(|stream| mirror(stream, "control"));
        TlsFixture { fixture, authority, certificates }
    }

    /// As the fixture does, under a name with enough labels: clients believe no wildcard that is as wide as `*.localhost`.
    pub(crate) fn publish(&self, number: u8, address: SocketAddr) -> String {
        self.fixture.publish(number, address).replace(".localhost", ".codius.localhost")
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.fixture.edge.tls_addresses()[0]).await.unwrap()
    }

    /// A handshake for `name`.
    pub(crate) async fn handshake(&self, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        within("the handshake", TlsConnector::from(Arc::clone(config)).connect(name, self.tcp().await)).await
    }

    /// A connection that speaks HTTP/1.1.
    pub(crate) async fn h1(&self, name: &str) -> http1::SendRequest<Body> {
        let stream = self.handshake(&self.authority.client(&["http/1.1"]), name).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// A connection that speaks HTTP/2.
    pub(crate) async fn h2(&self, name: &str) -> http2::SendRequest<Body> {
        self.h2_with(name, http2::Builder::new(TokioExecutor::new())).await
    }

    /// The same, letting no more than `window` bytes come that nobody has taken.
    pub(crate) async fn h2_narrow(&self, name: &str, window: u32) -> http2::SendRequest<Body> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window).initial_connection_window_size(window);
        self.h2_with(name, builder).await
    }

    async fn h2_with(&self, name: &str, builder: http2::Builder<TokioExecutor>) -> http2::SendRequest<Body> {
        let stream = self.handshake(&self.authority.client(&["h2"]), name).await.unwrap();
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

/// The certificate a server has shown.
pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// The certificate in a file.
pub(crate) fn in_file(path: &Path) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// `GET path` of `host`, for either version: HTTP/2 needs the host in the target.
pub(crate) fn get(host: &str, path: &str) -> Request<Body> {
    Request::get(format!("https://{host}{path}")).body(empty()).unwrap()
}

/// As `get`, for HTTP/1.1: the host is in its field only.
pub(crate) fn get_h1(host: &str, path: &str) -> Request<Body> {
    Request::get(path).header("host", host).body(empty()).unwrap()
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let body = within("the body", response.into_body().collect()).await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}
