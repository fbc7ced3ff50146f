//! Changes the operator makes while the host runs: price, bans, drain. The pod manager
//! ([`PodManager`](crate::pods::PodManager)) holds this state and makes each change durable.
//!
//! | module | what is in it |
//! |---|---|
//! | `state` | price, bans, drain, in memory (pure) |
//! | `ban` | what a ban covers (pure) |
//! | `tables` | the same state in the database |

mod ban;
mod state;
mod tables;

pub use ban::{BadImage, Ban};
pub use state::{BANS_MAX, OperatorRows, OperatorState};
pub(crate) use tables::{OperatorChange, load};
