//! What pods may send to whom.
//!
//! ```text
//! NetworkRules --> Policy (rows) --> Table --> the kernel         one transaction; other programs' tables are never touched
//! (settings)         |                 |          |
//!                    |                 |          `-- read back, compared with a fresh one: check, guard
//!                    |                 `-- nft's syntax: show --nft
//!                    `-- words: show
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | `policy` | the description: rows, pure |
//! | `ports`, `subnet` | what rows speak of |
//! | `table` | the description as chains and rules |
//! | `encode`, `kernel` | the kernel's messages: put there, read back |
//! | `guard` | in force, and kept so |
//! | `bandwidth` | what a pod's wire carries |
//! | `bridge` | pods on a bridge are kept apart |
//! | `check` | whether the kernel does what the policy says |
//! | `resolvers` | whom pods ask for names |

mod bandwidth;
mod bridge;
mod check;
mod encode;
mod error;
mod guard;
mod kernel;
mod policy;
mod ports;
mod resolvers;
mod subnet;
mod table;

use std::io;

use crate::RuntimeError;

pub(crate) use bandwidth::cap;
pub use check::{Finding, Grade, check, links, stopped};
pub use error::PolicyError;
pub use guard::Guard;
pub use policy::{Fate, Links, NetworkRules, Policy, Row, Way, What};
pub use ports::{BlockedPorts, Direction, Ports, Protocol, ingress_denied};
pub use subnet::Subnet;
pub use table::Table;

/// Removes a policy, whoever has installed it; fine if nobody has. Takes root. Blocks.
pub fn remove(policy: &Policy) -> io::Result<()> {
    kernel::remove(&policy.table)
}

/// No pod is started while others undo the policy.
pub(crate) fn unguarded() -> RuntimeError {
    let cause = io::Error::other("another program changes it (codiusd network check)");
    RuntimeError::Unavailable { operation: "keeping the network policy in force".to_owned(), source: Some(Box::new(cause)) }
}

/// A counter of the times a policy had to be put back, to be registered by who has a registry.
pub fn restored_counter() -> prometheus::IntCounter {
    let help = "Times the pods' network policy had to be put back because another program had changed it";
    prometheus::IntCounter::new("codius_network_policy_restored_total", help).unwrap_or_else(|_| unreachable!("the name is a good one"))
}
