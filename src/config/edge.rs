//! Settings of the edge: TLS, proxies in front, the access log, threads.

use std::{net::SocketAddr, sync::Arc, thread};

use codiusd_net::Cidr;
use codiusd_proxy::{AccessFormat, AccessLog, CertificateError, CertificateFiles, Certificates};

use super::{ConfigError, THREADS_MAX, parse, parse_bool, parse_path, parse_seconds, source::Settings};

/// TLS at the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsChoice {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// The certificates.
    pub certificates: Vec<CertificateFiles>,
    /// Whether plain HTTP redirects to https.
    pub redirect: bool,
    /// `max-age` of Strict-Transport-Security, in seconds.
    pub hsts_seconds: u32,
}

impl TlsChoice {
    /// Reads the certificates.
    pub fn load(&self) -> Result<Arc<Certificates>, CertificateError> {
        Certificates::load(self.certificates.clone()).map(Arc::new)
    }
}

pub(super) fn tls(settings: &Settings) -> Result<Option<TlsChoice>, ConfigError> {
    let listen = settings.list("tls.listen", "addresses such as 0.0.0.0:443,[::]:443", parse)?;
    let files = "chain and key as absolute paths (in the environment CERT.pem:KEY.pem, separated by commas)";
    let certificates = settings.list("tls.certificates", files, parse_certificate)?;
    let redirect = settings.get("tls.redirect_http", "true or false", parse_bool)?;
    let hsts_seconds = settings.get("tls.hsts", "a duration such as 0s or 365d, up to 4294967295s", parse_seconds)?;
    if listen.is_empty() && (redirect || !certificates.is_empty()) {
        return Err(settings.missing("tls.listen", "certificates and redirects to https need an address such as 0.0.0.0:443"));
    }
    if certificates.is_empty() && !listen.is_empty() {
        return Err(settings.missing(
            "tls.certificates",
            "TLS needs a certificate: set chain and key to its files (codiusd certs dev makes one to try with)",
        ));
    }
    Ok((!listen.is_empty()).then_some(TlsChoice { listen, certificates, redirect, hsts_seconds }))
}

/// Needs trusted proxies: if anybody could send the header, a client could claim a new address for every connection.
pub(super) fn proxy_protocol(
    settings: &Settings,
    listen: SocketAddr,
    tls: Option<&TlsChoice>,
    trusted: &[Cidr],
) -> Result<Vec<SocketAddr>, ConfigError> {
    let listens = |address: &SocketAddr| *address == listen || tls.is_some_and(|tls| tls.listen.contains(address));
    let right = "addresses the edge listens on: edge.bind_ip with edge.port, or one of tls.listen";
    let addresses = settings.list("edge.proxy_protocol", right, |text| parse(text).filter(listens))?;
    if !addresses.is_empty() && trusted.is_empty() {
        return Err(settings.missing("edge.trusted_proxies", "edge.proxy_protocol needs the networks of the proxies that may speak it"));
    }
    Ok(addresses)
}

pub(super) fn access_log(settings: &Settings) -> Result<Option<AccessLog>, ConfigError> {
    let format = settings.get("access_log.format", "text or json", |text| match text {
        "json" => Some(AccessFormat::Json),
        "text" => Some(AccessFormat::Text),
        _ => None,
    })?;
    let sample = settings.get("access_log.sample", "a number from 1 to 4294967295", parse)?;
    let place = settings.optional("access_log.file", "an absolute path, or stdout", |text| match text {
        "stdout" => Some(None),
        path => parse_path(path).map(Some),
    })?;
    Ok(place.map(|file| AccessLog { file, format, sample }))
}

/// 0 is half of the machine's processors: the rest is for pods.
pub(super) fn parse_threads(text: &str) -> Option<usize> {
    match parse(text).filter(|threads| *threads <= THREADS_MAX)? {
        0 => Some(thread::available_parallelism().map_or(2, |all| all.get().div_ceil(2).clamp(2, THREADS_MAX))),
        threads => Some(threads),
    }
}

fn parse_certificate(text: &str) -> Option<CertificateFiles> {
    let (chain, key) = text.split_once(':')?;
    Some(CertificateFiles { chain: parse_path(chain)?, key: parse_path(key)? })
}
