//! What a pod is at each stage, and what an order may do to it. Pure.
//!
//! ```text
//!            begin                  started                   expired
//!  (paid) --------> Starting ------------------> Running ----------------> Stopping --> gone
//!     ^                |                           |  ^ \                     ^
//!     |  start failed, |                    exited |  |  +-- extended         |
//!     |  credit kept   |                           v  | uploaded again        |
//!     +----------------+--- (time left) -------> Exited ----------------------+
//!                                                        not uploaded again
//! ```

use std::{net::SocketAddr, sync::Arc};

use codiusd_runtime::{Machine, RunningPod};
use jiff::{SignedDuration, Timestamp};

use crate::workload::PodOrder;

/// How long the remaining time of an exited pod is kept for another upload of its manifest.
pub(super) const EXITED_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// The time bought for a running pod. Restarts, of the pod or of the host, don't change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When it expires.
    pub expires_at: Timestamp,
    /// Seconds bought since the pod was last started by an upload, including the time that was left then.
    pub bought_seconds: u32,
}

impl Term {
    /// The term of a pod started at `from`.
    pub(super) fn new(from: Timestamp, seconds: u32) -> Self {
        Self { expires_at: later(from, seconds), bought_seconds: seconds }
    }

    /// The term extended by `seconds`.
    pub(super) fn extended(self, seconds: u32) -> Self {
        Self { expires_at: later(self.expires_at, seconds), bought_seconds: self.bought_seconds.saturating_add(seconds) }
    }
}

/// A pod as stored in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pod {
    /// Paid for, not confirmed to run yet.
    Starting {
        /// The payment being consumed.
        segment: String,
        /// How long it will run, in seconds.
        seconds: u32,
        /// The part of `seconds` left from an earlier run: not lost if the start fails.
        kept_seconds: u32,
    },
    /// Running.
    Running {
        /// Its bought time and expiry.
        term: Term,
    },
    /// Its containers have exited.
    Exited {
        /// Its remaining time, in seconds.
        seconds: u32,
        /// Until when the remaining time is kept.
        forget_at: Timestamp,
    },
}

/// A pod with its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// The uploaded order.
    pub order: PodOrder,
    /// Its stored stage.
    pub pod: Pod,
}

/// A pod's stage in memory.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Starting {
        segment: String,
        seconds: u32,
        kept_seconds: u32,
    },
    Running {
        run: RunningPod,
        term: Term,
    },
    Exited {
        seconds: u32,
        forget_at: Timestamp,
    },
    /// All its containers have exited and are being removed; `Exited` in the database.
    Clearing,
    /// Lost or degraded, being restarted; still `Running` in the database.
    Restarting,
    /// Expired; still `Running` in the database, where the next start finds it expired.
    Stopping,
    /// From before the start; the runtime hasn't reported its state yet.
    Unknown,
}

/// A pod's entry in the table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) order: Arc<PodOrder>,
    pub(super) stage: Stage,
}

impl Entry {
    /// Capacity the pod holds beyond what the machine itself counts as used, such as the disk of a pod that has started.
    pub(super) fn holds(&self) -> Option<Machine> {
        let machine = self.order.spec.machine;
        match self.stage {
            Stage::Exited { .. } => None,
            Stage::Starting { .. } | Stage::Restarting | Stage::Unknown => Some(machine),
            Stage::Clearing | Stage::Running { .. } | Stage::Stopping => Some(Machine { disk_bytes: 0, ..machine }),
        }
    }
}

/// What a paid upload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The pod runs: it runs longer.
    Extend,
    /// There is no such pod, or it has exited with this much time left.
    Start { kept_seconds: u32 },
    /// Another request is changing it.
    Wait,
}

/// What a paid upload of a manifest does to its pod, if there is one.
pub(super) fn decide(entry: Option<&Entry>) -> Decision {
    match entry.map(|entry| &entry.stage) {
        None => Decision::Start { kept_seconds: 0 },
        Some(Stage::Exited { seconds, .. }) => Decision::Start { kept_seconds: *seconds },
        Some(Stage::Running { .. }) => Decision::Extend,
        Some(Stage::Clearing | Stage::Restarting | Stage::Starting { .. } | Stage::Stopping | Stage::Unknown) => Decision::Wait,
    }
}

/// When a pod that was started at `from` (or runs until `from`) expires after `seconds` more.
pub(super) fn later(from: Timestamp, seconds: u32) -> Timestamp {
    from.checked_add(SignedDuration::from_secs(i64::from(seconds))).unwrap_or(Timestamp::MAX)
}

/// Remaining time of an exited pod, rounded up to whole seconds.
pub(super) fn left(expires_at: Timestamp, now: Timestamp) -> u32 {
    let left = now.duration_until(expires_at);
    let seconds = left.as_secs().saturating_add(i64::from(left.subsec_nanos() > 0));
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

/// The address of a running pod's page.
pub(super) fn upstream(order: &PodOrder, run: &RunningPod) -> Option<SocketAddr> {
    order.port.map(|port| SocketAddr::new(run.address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_rounded_up_and_never_negative() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        for (expires, now, expected) in [(10_000, 0, 10), (10_001, 0, 11), (10_000, 9_999, 1), (10_000, 10_000, 0), (10_000, 20_000, 0)] {
            assert_eq!(left(at(expires), at(now)), expected, "{expires} - {now}");
        }
    }
}
