//! Why the runtime can't be opened.

use std::{io, path::PathBuf};

use codiusd_net::Ipv4Cidr;

use crate::{RuntimeError, network::PolicyError};

/// The error with its causes, on one line.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (**cause).source()).map(ToString::to_string);
    causes.fold(error.to_string(), |line, cause| if line.ends_with(&cause) { line } else { format!("{line}: {cause}") })
}

/// The runtime can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This process doesn't run as root.
    #[error("running containers takes root")]
    NotRoot,
    /// This process runs as root but lacks the capabilities.
    #[error("running containers takes CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    LacksCapabilities,
    /// Pods of another root have, or may get, addresses of the network.
    #[error("{taken} belongs to the codiusd in {}, or to pods it left running", .root.display())]
    SubnetInUse {
        /// The requested network.
        subnet: Ipv4Cidr,
        /// The overlapping network of the other root.
        taken: Ipv4Cidr,
        /// The other root.
        root: PathBuf,
    },
    /// Virtual machines can't be run on this machine.
    #[error("virtual machines can't be run here: {what}")]
    NoVirtualMachines {
        /// What is missing, and the remedy.
        what: String,
        /// The full cause.
        #[source]
        source: io::Error,
    },
    /// The self-check's container isn't as confined as pods must be.
    #[error("the self-check's container isn't as pods must be ({step}): {cause}")]
    SelfCheck {
        /// The step that failed.
        step: String,
        /// What was found, and what is expected.
        cause: String,
    },
    /// The network policy can't be enforced.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Anything else.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}
