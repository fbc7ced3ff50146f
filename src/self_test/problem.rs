//! The problems that visitors of a host can meet, with a remedy for each.

use std::{fmt, io, net::SocketAddr};

use codiusd_control::pods::Refusal;

use codiusd_control::capacity::Resource;
use reqwest::StatusCode;
use rustls::CertificateError;
use tokio_tungstenite::tungstenite;

use crate::client::{HostError, PayerError, PriceError};

/// What is wrong with a certificate.
#[derive(Debug)]
pub(crate) enum CertificateFault {
    /// It has expired.
    Expired,
    /// It isn't valid yet.
    NotYet,
    /// Its authority isn't trusted.
    UnknownIssuer,
    /// It is for other names.
    WrongName,
    /// Anything else.
    Other(CertificateError),
}

impl From<CertificateError> for CertificateFault {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYet,
            // An authority with the same name as a trusted one, but another key, causes BadSignature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("has expired"),
            Self::NotYet => f.write_str("isn't valid yet"),
            Self::UnknownIssuer => f.write_str("is of an authority this machine doesn't trust"),
            Self::WrongName => f.write_str("isn't for that name"),
            Self::Other(error) => write!(f, "can't be trusted: {error}"),
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{name} doesn't resolve ({source})")]
    Name { name: String, source: io::Error },
    #[error("{name} doesn't resolve ({source}), as any name below {host} should")]
    Wildcard { host: String, name: String, source: io::Error },
    #[error("{address} refuses connections")]
    Refuses { address: SocketAddr },
    #[error("{address} doesn't answer")]
    Silent { address: SocketAddr },
    #[error("{address} can't be reached ({source})")]
    Unreachable { address: SocketAddr, source: io::Error },
    #[error("the certificate for {name} {fault}")]
    Certificate { name: String, fault: CertificateFault },
    #[error("TLS with {name} fails ({source})")]
    Handshake { name: String, source: io::Error },
    #[error("trusted CA certificates of this machine can't be read ({0})")]
    Roots(rustls::Error),
    #[error("another program answers at {0}")]
    Elsewhere(String),
    #[error(transparent)]
    Host(HostError),
    #[error(transparent)]
    Refused(HostError),
    #[error("there is no Interledger connection")]
    NoAccount,
    #[error("the host is draining")]
    Draining,
    #[error("the image is banned here")]
    Banned,
    #[error("no capacity: pods hold all of it ({0})")]
    Full(Resource),
    #[error("the runtime can't start pods ({0})")]
    Runtime(Refusal),
    #[error("the noop runtime runs nothing")]
    Noop,
    #[error("no account to pay from ({0})")]
    NoPayer(Box<PayerError>),
    #[error(transparent)]
    Price(PriceError),
    #[error("payment failed ({0})")]
    Payment(Box<PayerError>),
    #[error("the host received {received} of {required} units and still asks for money")]
    StillDue { required: String, received: String },
    #[error("paid, but the pod does not start: {0}")]
    Start(HostError),
    #[error("the pod's page answers {0}")]
    Page(StatusCode),
    #[error("the pod's page has another content")]
    OtherPage,
    #[error("no WebSocket to the pod ({0})")]
    WebSocket(Box<tungstenite::Error>),
    #[error("the pod's WebSocket does not echo")]
    NoEcho,
    #[error("the pod's log lacks the request")]
    NotLogged,
    #[error("the pod can't be stopped ({0})")]
    Stop(Refusal),
    #[error("no result within {0} seconds")]
    Slow(u64),
}

impl Problem {
    /// The kind of the problem in one word, for programs.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Name { .. } => "name_unresolved",
            Self::Wildcard { .. } => "wildcard_unresolved",
            Self::Refuses { .. } => "connection_refused",
            Self::Silent { .. } => "connection_timeout",
            Self::Unreachable { .. } => "unreachable",
            Self::Certificate { fault, .. } => match fault {
                CertificateFault::Expired => "certificate_expired",
                CertificateFault::NotYet => "certificate_not_yet_valid",
                CertificateFault::UnknownIssuer => "certificate_untrusted",
                CertificateFault::WrongName => "certificate_wrong_name",
                CertificateFault::Other(_) => "certificate_bad",
            },
            Self::Handshake { .. } => "tls_failed",
            Self::Roots(_) => "no_authorities",
            Self::Elsewhere(_) => "another_host",
            Self::Host(_) => "host_unreadable",
            Self::Refused(_) => "refused",
            Self::NoAccount => "no_uplink",
            Self::Draining => "draining",
            Self::Banned => "banned",
            Self::Full(_) => "full",
            Self::Runtime(_) => "runtime_away",
            Self::Noop => "noop",
            Self::NoPayer(_) => "no_payer",
            Self::Price(_) => "price",
            Self::Payment(_) => "payment_failed",
            Self::StillDue { .. } => "still_due",
            Self::Start(_) => "pod_not_started",
            Self::Page(_) => "page_status",
            Self::OtherPage => "page_other",
            Self::WebSocket(_) => "websocket_failed",
            Self::NoEcho => "websocket_silent",
            Self::NotLogged => "log_missing",
            Self::Stop(_) => "not_stopped",
            Self::Slow(_) => "timeout",
        }
    }

    /// How to fix it.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::Name { name, .. } => {
                format!("add a DNS record (A, and AAAA if there is IPv6) for {name} that points to this machine; if it exists, check the name servers in /etc/resolv.conf, or correct public_uri")
            }
            Self::Wildcard { host, .. } => {
                format!("add the DNS record *.{host} (A, and AAAA if there is IPv6) beside the one for {host}: each pod has a name below it")
            }
            Self::Refuses { address } => format!(
                "nothing listens at port {}: set edge.bind_ip, edge.port and tls.listen, or forward the port at the proxy or router in front",
                address.port()
            ),
            Self::Silent { address } => format!(
                "open port {} in the firewall, here and at the provider; behind a router, forward it, with hairpin NAT (or name the host in /etc/hosts)",
                address.port()
            ),
            Self::Unreachable { .. } => "check the address in the DNS record and the routes of this machine (ip route get ADDRESS)".to_owned(),
            Self::Certificate { name, fault } => certificate_remedy(name, fault),
            Self::Handshake { .. } => {
                "the listener must speak TLS: set tls.listen and tls.certificates, or correct the proxy in front; or set public_uri to http://".to_owned()
            }
            Self::Roots(_) => "install the package ca-certificates".to_owned(),
            Self::Elsewhere(_) => "the DNS record or the proxy in front points to another machine or another codiusd: point it here".to_owned(),
            Self::Host(_) => "a proxy in front must pass requests unchanged, for the host's name and every name below it".to_owned(),
            Self::Refused(_) => "follow the message, or search the host's log for the request".to_owned(),
            Self::NoAccount => "start the connector (moneyd), or correct uplink.url; the log has the reason why the connection fails".to_owned(),
            Self::Draining => "codiusd admin undrain, to accept uploads again".to_owned(),
            Self::Banned => "codiusd admin bans prints the bans; codiusd admin unban removes one".to_owned(),
            Self::Full(_) => "nothing, if paid pods run: the test is repeated. Otherwise raise capacity.memory_fraction, capacity.cpu_overcommit or capacity.disk_fraction, or free the machine".to_owned(),
            Self::Runtime(_) => "codiusd doctor, as root, checks what pods need; for hyperd, check that it runs".to_owned(),
            Self::Noop => "set runtime.type to embedded or hyperd, or self_test.enabled = false if this is a lab".to_owned(),
            Self::NoPayer(_) => "set self_test.url to a second account at your connector (an account can't pay itself), or self_test.enabled = false".to_owned(),
            Self::Price(_) => "set self_test.url to an account in the host's asset".to_owned(),
            Self::Payment(_) => "check the connector: the paying account needs money or credit, and a route to this host's account".to_owned(),
            Self::StillDue { .. } => "check the exchange rates and limits of the connector: less arrives here than was sent".to_owned(),
            Self::Start(_) => "the log has the reason (disk full, kernel features, hyperd); run codiusd doctor as root".to_owned(),
            Self::Page(_) => "check in the log whether the pod runs, and whether a firewall of this machine blocks the edge from the pods' network (pods.subnet)".to_owned(),
            Self::OtherPage => "a proxy in front answers for pods: it must pass requests unchanged".to_owned(),
            Self::WebSocket(_) | Self::NoEcho => {
                "a proxy in front must pass Upgrade and Connection (WebSockets) and not time out; limits.tunnels_per_pod must not be 0".to_owned()
            }
            Self::NotLogged => "check the disk of root, where the pods' logs are, and the log of codiusd; a proxy in front must not buffer responses".to_owned(),
            Self::Stop(_) => "the pod expires within a minute; the log has the reason why the stop failed".to_owned(),
            Self::Slow(_) => "check the load of this machine, and the log of codiusd".to_owned(),
        }
    }
}

fn certificate_remedy(name: &str, fault: &CertificateFault) -> String {
    match fault {
        CertificateFault::Expired => "renew the certificate (tls.certificates); codiusd reloads changed files. If it is new, the clock of this machine is wrong".to_owned(),
        CertificateFault::NotYet => "correct the clock of this machine, or wait".to_owned(),
        CertificateFault::UnknownIssuer => {
            "get a certificate from a public CA and put its whole chain into tls.certificates; for one of codiusd certs dev set SSL_CERT_FILE=.../ca.pem".to_owned()
        }
        CertificateFault::WrongName => format!(
            "get a certificate that covers {name}: the host's name and a wildcard below it (*.HOST); the first of tls.certificates is the default"
        ),
        CertificateFault::Other(_) => "get another certificate (tls.certificates)".to_owned(),
    }
}
