//! Why the runtime can't be opened.

use std::path::PathBuf;

use crate::{
    RuntimeError,
    network::{PolicyError, Subnet},
};

/// The runtime can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This process isn't root's.
    #[error("running containers takes root")]
    NotRoot,
    /// This process is root's, without what makes root able to.
    #[error("running containers takes CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    LacksCapabilities,
    /// Pods of another root have, or may get, addresses of the network.
    #[error("{taken} belongs to the codiusd in {}, or to pods it left running", .root.display())]
    SubnetInUse {
        /// What was asked for.
        subnet: Subnet,
        /// What the other one has of it.
        taken: Subnet,
        /// The other one's root.
        root: PathBuf,
    },
    /// A container made to see isn't as confined as pods must be.
    #[error("the self-check's container isn't as pods must be ({step}): {cause}")]
    SelfCheck {
        /// What was being done.
        step: String,
        /// What was found, and what would be right.
        cause: String,
    },
    /// Pods could send what they like.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Anything else.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}
