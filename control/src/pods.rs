//! Pods: from a paid order to a routed pod, to its end.
//!
//! | room | what is in it |
//! |---|---|
//! | `state` | what a pod is at each stage, and what an order may do to it (pure) |
//! | `table` | the pods, and what each holds of the machine |
//! | `crashes` | who takes its machine or the daemon down (pure) |
//! | `lost` | what is done about that |
//! | `shares` | what pods hold of the machine, and whether one more fits |
//! | `reconcile` | what to do at start about the store's pods and the runtime's (pure) |
//! | `keeper` | the table of pods, and what may be asked of it |
//! | `start` | a paid order and its pod, step by step |
//! | `watch` | expiry; when to look after pods |
//! | `notice` | exits, losses, pods that need a new start, pods nobody knows |
//! | `listen` | a pod that has just been started and doesn't answer yet |
//! | `operator` | what the operator sees of pods, and does to them |
//! | `metrics` | what happened without anybody asking |
//! | `recover` | carrying out the reconciliation |
//! | `kit` | a keeper for tests, and what it says to visitors |

mod crashes;
mod keeper;
#[cfg(test)]
mod kit;
mod listen;
mod lost;
mod metrics;
mod notice;
mod operator;
mod reconcile;
mod recover;
mod shares;
mod start;
mod state;
mod table;
mod watch;

pub use crashes::Marks;
pub use keeper::{Gone, Keeper, KeeperConfig, PodView, Receipt, Refusal, Routes};
pub use metrics::PodMetrics;
pub use operator::{BanError, Doing, PodFacts, RunFacts};
pub use shares::{Capacity, DiskShare, Resource, Room, Shares};
pub use state::{Order, Pod, PodRecord, Term};
