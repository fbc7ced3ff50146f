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
//! | module | contents |
//! |---|---|
//! | `policy` | the policy as rows: pure data |
//! | `ports` | ports, as rows match them |
//! | `table` | the policy as chains and rules |
//! | `encode`, `kernel` | the kernel's messages: installing the table, reading it back |
//! | `enforcer` | installs the policy and keeps it in force |
//! | `bandwidth` | the bandwidth limit of a pod's link |
//! | `bridge` | isolates pods on a bridge from each other |
//! | `addresses` | what is derived from the address of a pod at a bridge |
//! | `sources` | which frames a port of a bridge may receive |
//! | `neighbours` | hardware addresses, of pods and of the bridge |
//! | `check` | verifies that the kernel enforces the policy |
//! | `resolvers` | the pods' name servers |

mod addresses;
mod bandwidth;
mod bridge;
mod check;
mod encode;
mod enforcer;
mod error;
mod kernel;
mod neighbours;
mod policy;
mod ports;
mod resolvers;
mod sources;
mod table;

use std::io;

use crate::RuntimeError;

pub use addresses::Pool;
pub(crate) use bandwidth::cap;
pub use check::{Finding, Grade, check, links, stopped};
pub use enforcer::Enforcer;
pub(crate) use enforcer::Seated;
pub use error::PolicyError;
pub use policy::{Fate, Links, NetworkRules, Policy, Row, Way, What};
pub use ports::{BlockedPorts, Direction, ingress_denied};
pub use table::Table;

/// Removes a policy, no matter which process installed it; succeeds if there is none. Requires root. Blocks.
pub fn remove(policy: &Policy) -> io::Result<()> {
    enforcer::remove(policy)
}

/// Whether pods could get addresses under the policy: for a bridge, whether it exists and has an address of its own.
pub fn is_usable(policy: &Policy) -> bool {
    match &policy.links {
        Links::Bridge(name) => bridge::pool(name).is_ok(),
        Links::Prefix(_) => true,
    }
}

/// The policy as files for `nft -f`, with everything derived from the bridge's network, if there is one.
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

/// The error while other programs undo the policy: no pod is started then.
pub(crate) fn unguarded() -> RuntimeError {
    let cause = io::Error::other("another program changes it (codiusd network check)");
    RuntimeError::Unavailable { operation: "keeping the network policy in force".to_owned(), source: Some(Box::new(cause)) }
}

/// A counter of the times a policy had to be restored, to be registered by the caller.
pub fn restored_counter() -> prometheus::IntCounter {
    let help = "Times the pods' network policy had to be put back because another program had changed it";
    prometheus::IntCounter::new("codius_network_policy_restored_total", help).unwrap_or_else(|_| unreachable!("the name is a good one"))
}
