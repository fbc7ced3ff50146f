//! How much of the machine pods may hold, how much they hold, and whether one more fits.
//!
//! | module | what is in it |
//! |---|---|
//! | `resources` | amounts of memory, processors, disk and addresses (pure) |
//! | `ledger` | who holds what: pods in the table, and payments with a capacity hold |

mod ledger;
mod resources;

pub use ledger::CapacityLedger;
pub use resources::{Capacity, CapacityUsage, DiskShare, Resource, Resources};
