//! What can be wrong with a host as its visitors see it, and what to do about each.

use std::{fmt, io, net::SocketAddr};

use codiusd_control::pods::{Refusal, Resource};
use reqwest::StatusCode;
use rustls::CertificateError;
use tokio_tungstenite::tungstenite;

use crate::client::{HostError, PriceError, PurseError};

/// What is wrong with a certificate.
#[derive(Debug)]
pub(crate) enum CertificateFault {
    /// Its time is over.
    Expired,
    /// Its time hasn't come.
    NotYet,
    /// Nobody we know vouches for it.
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
            // The second is what an authority looks like that is called as one of ours, and has another key.
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

/// Why a step wasn't passed.
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
    #[error("this machine's trusted authorities can't be read ({0})")]
    Roots(rustls::Error),
    #[error("what answers at {0} isn't this codiusd")]
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
    #[error("no room: the pods hold all they may of it ({0})")]
    Full(Resource),
    #[error("the runtime can't start pods ({0})")]
    Runtime(Refusal),
    #[error("the noop runtime runs nothing")]
    Noop,
    #[error("there is no account to pay from ({0})")]
    NoPayer(Box<PurseError>),
    #[error(transparent)]
    Price(PriceError),
    #[error("the payment doesn't get through ({0})")]
    Payment(Box<PurseError>),
    #[error("{received} of {required} units were received for what was sent, and the host still asks for money")]
    StillDue { required: String, received: String },
    #[error("it was paid, and the pod doesn't start: {0}")]
    Start(HostError),
    #[error("the pod's page answers {0}")]
    Page(StatusCode),
    #[error("the pod's page is another one")]
    OtherPage,
    #[error("no WebSocket to the pod ({0})")]
    WebSocket(Box<tungstenite::Error>),
    #[error("the pod's WebSocket says something else, or nothing")]
    NoEcho,
    #[error("the pod's log doesn't tell of our request")]
    NotLogged,
    #[error("the pod can't be stopped ({0})")]
    Stop(Refusal),
    #[error("nothing came of it within {0} seconds")]
    Slow(u64),
}

impl Problem {
    /// One word for programs.
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

    /// What to do about it.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::Name { name, .. } => {
                format!("add a DNS record (A, and AAAA if there is IPv6) for {name} that leads to this machine; if there is one, look at the name servers in /etc/resolv.conf, or set public_uri right")
            }
            Self::Wildcard { host, .. } => {
                format!("add the DNS record *.{host} (A, and AAAA if there is IPv6) beside the one for {host}: each pod has a name of its own below it")
            }
            Self::Refuses { address } => format!(
                "nothing listens at port {}: set bind_ip, port and tls_listen so that something does, or let the proxy or router in front pass it on",
                address.port()
            ),
            Self::Silent { address } => format!(
                "open port {} in the firewall, here and at the provider; behind a router, forward it, also for those inside (or name the host in /etc/hosts)",
                address.port()
            ),
            Self::Unreachable { .. } => "look at the address of the DNS record, and at this machine's routes (ip route get ADDRESS)".to_owned(),
            Self::Certificate { name, fault } => certificate_remedy(name, fault),
            Self::Handshake { .. } => {
                "what listens there must speak TLS: set tls_listen and tls_certs, or the proxy in front right; or public_uri to http://".to_owned()
            }
            Self::Roots(_) => "install the package ca-certificates".to_owned(),
            Self::Elsewhere(_) => "the DNS record, or the proxy in front, leads to another machine or another codiusd: let it lead here".to_owned(),
            Self::Host(_) => "if there is a proxy in front, let it pass on everything as it comes, for the host's name and all below".to_owned(),
            Self::Refused(_) => "do what the message says, or look into this host's log for the request".to_owned(),
            Self::NoAccount => "start the connector (moneyd), or set ilp_credentials right; codiusd's log says why it can't connect".to_owned(),
            Self::Draining => "codiusd undrain, when uploads are to be taken again".to_owned(),
            Self::Banned => "codiusd bans shows what is banned; codiusd unban takes it back".to_owned(),
            Self::Full(_) => "nothing, if pods run that were paid for: the test is repeated. Otherwise max_memory_fraction, cpu_overcommit or max_disk_fraction, and what else fills the machine".to_owned(),
            Self::Runtime(_) => "codiusd doctor, as root, checks what pods need of this machine; for hyperd, see that it runs".to_owned(),
            Self::Noop => "set runtime to embedded or hyperd, or self_test to off if this is a lab".to_owned(),
            Self::NoPayer(_) => "set self_test_credentials to a second account at your connector (an account can't pay itself), or self_test to off".to_owned(),
            Self::Price(_) => "set self_test_credentials to an account in the host's own currency".to_owned(),
            Self::Payment(_) => "look at the connector: the account that pays needs money or credit, and a way to this host's".to_owned(),
            Self::StillDue { .. } => "look at the uplink: money that is sent doesn't arrive here as it was sent; the connector's rates and limits".to_owned(),
            Self::Start(_) => "look into codiusd's log for why the runtime couldn't (disk full, kernel features, hyperd); codiusd doctor as root".to_owned(),
            Self::Page(_) => "look into codiusd's log: whether the pod runs, and whether a firewall of this machine keeps the front door from the pods' network (pod_subnet)".to_owned(),
            Self::OtherPage => "something in front answers for pods: let it pass on everything as it comes".to_owned(),
            Self::WebSocket(_) | Self::NoEcho => {
                "if there is a proxy in front, let it pass on Upgrade and Connection (WebSockets), and not time out; edge_tunnels_per_pod must not be 0".to_owned()
            }
            Self::NotLogged => "look at the disk that root is on (pods' logs are there), and at codiusd's log; a proxy in front must not buffer answers".to_owned(),
            Self::Stop(_) => "it ends by itself within a minute; codiusd's log says why it couldn't be stopped".to_owned(),
            Self::Slow(_) => "look at the load of this machine, and at codiusd's log".to_owned(),
        }
    }
}

fn certificate_remedy(name: &str, fault: &CertificateFault) -> String {
    match fault {
        CertificateFault::Expired => "renew the certificate (tls_certs); codiusd takes up the new files by itself. If it is new, this machine's clock is wrong".to_owned(),
        CertificateFault::NotYet => "set this machine's clock right, or wait".to_owned(),
        CertificateFault::UnknownIssuer => {
            "get a certificate from an authority that browsers know, and give tls_certs the whole chain; one of codiusd certs dev is trusted with SSL_CERT_FILE=.../ca.pem".to_owned()
        }
        CertificateFault::WrongName => format!(
            "get a certificate that is for {name}: it takes the host's name and a wildcard for all below it (*.HOST); the first of tls_certs is shown for names that none is for"
        ),
        CertificateFault::Other(_) => "get another certificate (tls_certs)".to_owned(),
    }
}
