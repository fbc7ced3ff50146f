//! Pods: from a paid order to a routed pod, to its end.
//!
//! | module | what is in it |
//! |---|---|
//! | `state` | what a pod is at each stage, and what an order may do to it (pure) |
//! | `table` | the pods, and the capacity each holds |
//! | `tables` | the same in the database |
//! | `manager` | the entry point: what may be asked of the pods |
//! | `start` | starting a pod, step by step, and what each step makes durable |
//! | `expiry` | ends pods when their time is over |
//! | `watcher` | polls the runtime: exits, losses, pods that need a restart, orphans |
//! | `crash_policy` | decides which pod crashes its machine or the daemon (pure) |
//! | `crash_recovery` | applies that policy: crash histories, trials, restarts |
//! | `reconcile` | decides at start what to do about the pods in the database and the runtime (pure) |
//! | `recover` | carries the reconciliation out |
//! | `readiness_probe` | waits for the web server of a pod that has just started |
//! | `operator` | the operator's view of pods, and operations on them |
//! | `metrics` | counters |
//! | `test_support` | a manager for tests, and routes that record their state |

mod crash_policy;
mod crash_recovery;
mod expiry;
mod manager;
mod metrics;
mod operator;
mod readiness_probe;
mod reconcile;
mod recover;
mod start;
mod state;
mod table;
mod tables;
#[cfg(test)]
mod test_support;
mod watcher;

pub use crash_policy::CrashHistory;
pub use manager::{PodManager, PodManagerConfig, PodView, Refusal, Routes, WithdrawReason};
pub use metrics::PodMetrics;
pub use operator::{BanError, PodPhase, PodSummary, RunSummary};
pub use state::{Pod, PodRecord, Term};
#[cfg(test)]
pub(crate) use tables::PodChange;
pub(crate) use tables::{load_crash_histories, load_pods};
