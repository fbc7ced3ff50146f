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
//! | `addresses` | what of a pod at a bridge follows from its address |
//! | `sources` | what may come in by a port of a bridge |
//! | `neighbours` | hardware addresses, of pods and of the bridge |
//! | `check` | whether the kernel does what the policy says |
//! | `resolvers` | whom pods ask for names |

mod addresses;
mod bandwidth;
mod bridge;
mod check;
mod encode;
mod error;
mod guard;
mod kernel;
mod neighbours;
mod policy;
mod ports;
mod resolvers;
mod sources;
mod subnet;
mod table;

use std::io;

use crate::RuntimeError;

pub use addresses::Pool;
pub(crate) use bandwidth::cap;
pub use check::{Finding, Grade, check, links, stopped};
pub use error::PolicyError;
pub use guard::Guard;
pub(crate) use guard::Seated;
pub use policy::{Fate, Links, NetworkRules, Policy, Row, Way, What};
pub use ports::{BlockedPorts, Direction, Ports, Protocol, ingress_denied};
pub use subnet::Subnet;
pub use table::Table;

/// Removes a policy, whoever has installed it; fine if nobody has. Takes root. Blocks.
pub fn remove(policy: &Policy) -> io::Result<()> {
    guard::remove(policy)
}

/// Whether pods could be given addresses where the policy is: at a bridge, whether it is there and has one of its own.
pub fn is_usable(policy: &Policy) -> bool {
    match &policy.links {
        Links::Bridge(name) => bridge::pool(name).is_ok(),
        Links::Prefix(_) => true,
    }
}

/// The policy as files that `nft -f` takes, with all that follows from the bridge's network, if there is one.
pub fn nft(policy: &Policy) -> String {
    match &policy.links {
        Links::Bridge(name) => match bridge::pool(name) {
            Ok(pool) => {
                let sources = sources::Sources { name: policy.table.clone(), pool };
                format!("{}\n{sources}", Table::from(&policy.at(pool.subnet)))
            }
            Err(_) => Table::from(policy).to_string(),
        },
        Links::Prefix(_) => Table::from(policy).to_string(),
    }
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
