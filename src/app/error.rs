//! Why a host can't be started, with what to do about it.

use std::{io, path::PathBuf};

use codiusd_control::{
    pay::SumsDisagree,
    store::{OpenError, StoreFailed},
};
use codiusd_ilp::service;
use codiusd_proxy::CertificateError;
use codiusd_runtime::{
    RuntimeError,
    embedded::{self, Subnet},
    network::PolicyError,
};

/// The host can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory or file of `CODIUS_ROOT`.
    #[error("CODIUS_ROOT {path}: can't {operation}")]
    Root {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another codiusd is running there.
    #[error("CODIUS_ROOT {0} is in use by another codiusd; stop it, or choose another directory")]
    Locked(PathBuf),
    /// Another codiusd has its pods there.
    #[error("the hyperd at {0} is used by another codiusd; each needs a hyperd of its own (CODIUS_HYPER_SOCKET)")]
    HyperdInUse(PathBuf),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store's sums.
    #[error(transparent)]
    Sums(#[from] SumsDisagree),
    /// Containers, without root.
    #[error("codiusd needs root to run containers: run it with sudo (or CODIUS_RUNTIME=noop)")]
    NotRoot,
    /// Containers, as a root that may not do what root may.
    #[error("codiusd needs CAP_SYS_ADMIN and CAP_NET_ADMIN to run containers: run it with both (or CODIUS_RUNTIME=noop)")]
    LacksCapabilities,
    /// Pods' addresses, which would be another host's too.
    #[error("CODIUS_POD_SUBNET = \"{subnet}\" is in use by another codiusd; choose another network")]
    SubnetInUse {
        /// As it is set.
        subnet: Subnet,
        /// Who has it.
        #[source]
        source: embedded::OpenError,
    },
    /// Containers that aren't as confined as strangers' must be.
    #[error("pods aren't safe to run on this machine: the start-up self-check failed")]
    SelfCheck(#[source] embedded::OpenError),
    /// The runtime.
    #[error("the pods' runtime can't be started")]
    Runtime(#[source] RuntimeError),
    /// A certificate.
    #[error("CODIUS_TLS_CERTS: {0}")]
    Certificate(#[from] CertificateError),
    /// The front door.
    #[error("the front door can't be opened (CODIUS_BIND_IP, CODIUS_PORT, CODIUS_TLS_LISTEN)")]
    Edge(#[source] codiusd_proxy::StartError),
    /// Interledger.
    #[error("Interledger can't be started (CODIUS_ILP_LISTEN)")]
    Ilp(#[source] service::StartError),
    /// The pods of an earlier process.
    #[error("the pods from before can't be taken over")]
    Recover(#[source] StoreFailed),
    /// Pods could send what they like.
    #[error("pods are not run without a network policy; see `codiusd network check`")]
    Policy(#[from] PolicyError),
    /// What other hosts are asked with.
    #[error("other hosts can't be asked")]
    Peers(#[source] reqwest::Error),
    /// The admin listener.
    #[error("the admin listener can't be opened (CODIUS_ADMIN_PORT)")]
    Admin(#[source] io::Error),
    /// A metric that is registered twice.
    #[error("metrics can't be registered")]
    Metrics(#[from] prometheus::Error),
    /// The size that every host has can't be started here.
    #[error("CODIUS_MACHINES has a size that no pod can be started with, {size}: {against}; give small another size")]
    Small {
        /// As it would be written.
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
            embedded::OpenError::Policy(error) => Self::Policy(error),
            embedded::OpenError::Runtime(error) => Self::Runtime(error),
        }
    }
}
