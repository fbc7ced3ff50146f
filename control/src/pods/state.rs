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

use std::{fmt, net::SocketAddr, sync::Arc};

use codiusd_runtime::{Machine, PodSpec, RunningPod};
use jiff::{SignedDuration, Timestamp};

/// How long what an exited pod had left to run is kept for another upload of its manifest.
pub(super) const EXITED_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// What was uploaded, ready to be run.
#[derive(Clone, PartialEq, Eq)]
pub struct Order {
    /// What to run; holds private values.
    pub spec: PodSpec,
    /// The size it was sold as: what running longer costs follows from it.
    pub machine: String,
    /// The manifest as uploaded: JSON without private values.
    pub manifest: Arc<str>,
    /// Where it listens for HTTP; none: it has no page.
    pub port: Option<u16>,
    /// Whether its log may be read by anyone.
    pub debug: bool,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("id", &self.spec.id).field("port", &self.port).field("debug", &self.debug).finish_non_exhaustive()
    }
}

/// The time a running pod was bought. New starts, of the pod or of the host, don't change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When it is over.
    pub expires_at: Timestamp,
    /// What was bought in all since the pod was last uploaded anew, in seconds; with what it had left then.
    pub bought_seconds: u32,
}

impl Term {
    /// Of a pod that was started at `from`.
    pub(super) fn new(from: Timestamp, seconds: u32) -> Self {
        Self { expires_at: later(from, seconds), bought_seconds: seconds }
    }

    /// With `seconds` more.
    pub(super) fn extended(self, seconds: u32) -> Self {
        Self { expires_at: later(self.expires_at, seconds), bought_seconds: self.bought_seconds.saturating_add(seconds) }
    }
}

/// A pod as it is kept in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pod {
    /// Paid for, not known to run yet.
    Starting {
        /// The payment being consumed.
        segment: String,
        /// What it will run, in seconds.
        seconds: u32,
        /// How much of that is left from an earlier run: not lost if the start fails.
        kept_seconds: u32,
    },
    /// Runs.
    Running {
        /// For how long, and until when.
        term: Term,
    },
    /// Its containers have exited.
    Exited {
        /// What it had left to run, in seconds.
        seconds: u32,
        /// Until when that is kept.
        forget_at: Timestamp,
    },
}

/// A pod with its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// What was uploaded.
    pub order: Order,
    /// What has become of it.
    pub pod: Pod,
}

/// A pod as it is kept in memory.
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
    /// All its containers have exited and are being removed; `Exited` in the store.
    Clearing,
    /// Lost or worn, being started again; still `Running` in the store.
    Reviving,
    /// Its time is over; still `Running` in the store, where it is found to have expired.
    Stopping,
    /// From before the start, and the runtime hasn't said yet what has become of it.
    Unknown,
}

/// A pod's place in the table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) order: Arc<Order>,
    pub(super) stage: Stage,
}

impl Entry {
    /// What the pod holds, beyond what the machine itself counts as taken: the disk of one that was started is.
    pub(super) fn holds(&self) -> Option<Machine> {
        let machine = self.order.spec.machine;
        match self.stage {
            Stage::Exited { .. } => None,
            Stage::Starting { .. } | Stage::Reviving | Stage::Unknown => Some(machine),
            Stage::Clearing | Stage::Running { .. } | Stage::Stopping => Some(Machine { disk_bytes: 0, ..machine }),
        }
    }
}

/// What a paid upload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The pod runs: it runs longer.
    Extend,
    /// There is no such pod, or it has exited with this much left.
    Start { kept_seconds: u32 },
    /// Another request is changing it.
    Wait,
}

/// What a paid upload of a manifest does to what is there of it.
pub(super) fn decide(entry: Option<&Entry>) -> Decision {
    match entry.map(|entry| &entry.stage) {
        None => Decision::Start { kept_seconds: 0 },
        Some(Stage::Exited { seconds, .. }) => Decision::Start { kept_seconds: *seconds },
        Some(Stage::Running { .. }) => Decision::Extend,
        Some(Stage::Clearing | Stage::Reviving | Stage::Starting { .. } | Stage::Stopping | Stage::Unknown) => Decision::Wait,
    }
}

/// When a pod that was started at `from` (or runs until `from`) expires after `seconds` more.
pub(super) fn later(from: Timestamp, seconds: u32) -> Timestamp {
    from.checked_add(SignedDuration::from_secs(i64::from(seconds))).unwrap_or(Timestamp::MAX)
}

/// What an exited pod had left to run, rounded up to whole seconds.
pub(super) fn left(expires_at: Timestamp, now: Timestamp) -> u32 {
    let left = now.duration_until(expires_at);
    let seconds = left.as_secs().saturating_add(i64::from(left.subsec_nanos() > 0));
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

/// Where a running pod's page is.
pub(super) fn upstream(order: &Order, run: &RunningPod) -> Option<SocketAddr> {
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
