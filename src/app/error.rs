//! Why a host can't be started, with the remedy.

use std::{io, path::PathBuf};

use codiusd_control::{
    db::{DatabaseFailed, OpenError},
    money::SumsDisagree,
};
use codiusd_ilp::service;
use codiusd_net::Ipv4Cidr;
use codiusd_proxy::CertificateError;
use codiusd_runtime::{RuntimeError, embedded, network::PolicyError};

/// The host can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory or file of `CODIUS_ROOT`.
    #[error("root (CODIUS_ROOT) {path}: can't {operation}")]
    Root {
        /// The file.
        path: PathBuf,
        /// The operation that failed.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another codiusd is running there.
    #[error("root (CODIUS_ROOT) {0} is in use by another codiusd; stop it, or choose another directory")]
    Locked(PathBuf),
    /// Another codiusd uses this hyperd.
    #[error("the hyperd at {0} is used by another codiusd; each needs a hyperd of its own (hyperd.socket, CODIUS_HYPER_SOCKET)")]
    HyperdInUse(PathBuf),
    /// The store.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The store's sums.
    #[error(transparent)]
    Sums(#[from] SumsDisagree),
    /// Containers, without root.
    #[error("codiusd needs root to run containers: run it with sudo (or set runtime.type = \"noop\")")]
    NotRoot,
    /// Containers, as root without the capabilities they need.
    #[error("codiusd needs CAP_SYS_ADMIN and CAP_NET_ADMIN to run containers: run it with both (or set runtime.type = \"noop\")")]
    LacksCapabilities,
    /// The network of pods, which another host uses too.
    #[error("pods.subnet (CODIUS_POD_SUBNET) = \"{subnet}\" is in use by another codiusd; choose another network")]
    SubnetInUse {
        /// The value of the setting.
        subnet: Ipv4Cidr,
        /// The host that uses it.
        #[source]
        source: embedded::OpenError,
    },
    /// Containers aren't confined enough to run strangers' code.
    #[error("pods are not safe to run on this machine: the containment self-check failed")]
    SelfCheck(#[source] embedded::OpenError),
    /// The operator chose virtual machines, and they can't be run.
    #[error("pods are not run: pods.isolation (CODIUS_POD_ISOLATION) = \"vm\" isn't possible on this machine; see `codiusd doctor`")]
    NoVirtualMachines(#[source] embedded::OpenError),
    /// The runtime.
    #[error("the runtime can't be started")]
    Runtime(#[source] RuntimeError),
    /// A certificate.
    #[error("tls.certificates (CODIUS_TLS_CERTS): {0}")]
    Certificate(#[from] CertificateError),
    /// The edge.
    #[error("the edge can't listen (edge.bind_ip, edge.port, tls.listen)")]
    Edge(#[source] codiusd_proxy::StartError),
    /// Interledger.
    #[error("Interledger can't be started (uplink.listen, CODIUS_ILP_LISTEN)")]
    Ilp(#[source] service::StartError),
    /// The pods of an earlier process.
    #[error("stored pods can't be recovered")]
    Recover(#[source] DatabaseFailed),
    /// The network policy isn't in force, so pods could send anything.
    #[error("pods are not run without a network policy; see `codiusd network check`")]
    Policy(#[from] PolicyError),
    /// The HTTP client that queries other hosts.
    #[error("the HTTP client for peers can't be built")]
    Peers(#[source] reqwest::Error),
    /// The admin listener.
    #[error("the admin listener can't listen (admin.port, CODIUS_ADMIN_PORT)")]
    Admin(#[source] io::Error),
    /// A metric that is registered twice.
    #[error("metrics can't be registered")]
    Metrics(#[from] prometheus::Error),
    /// The size `small`, which every host sells, can't be started here.
    #[error("pod_size (CODIUS_MACHINES) has a size that no pod can start with, {size}: {against}; change the size of small")]
    Small {
        /// The size, as it is written in the settings.
        size: String,
        /// Why not.
        against: String,
    },
    /// The machine's memory.
    #[error("can't read how much memory this machine has")]
    Memory(#[source] io::Error),
}

impl From<embedded::OpenError> for StartError {
    fn from(error: embedded::OpenError) -> Self {
        match error {
            embedded::OpenError::NotRoot => Self::NotRoot,
            embedded::OpenError::LacksCapabilities => Self::LacksCapabilities,
            embedded::OpenError::SubnetInUse { subnet, .. } => Self::SubnetInUse { subnet, source: error },
            embedded::OpenError::SelfCheck { .. } => Self::SelfCheck(error),
            embedded::OpenError::NoVirtualMachines { .. } => Self::NoVirtualMachines(error),
            embedded::OpenError::Policy(error) => Self::Policy(error),
            embedded::OpenError::Runtime(error) => Self::Runtime(error),
        }
    }
}
