//! How much a pod may write to its logs.

use std::time::{Duration, Instant};

/// A pod may save up the log allowance of this many silent seconds.
const SAVED_SECONDS: i64 = 4;

/// A pod's log rate limit: a flood must cost neither the host's disk nor, in the shim, processor time.
pub(super) struct Allowance {
    per_second: i64,
    /// One read may overdraw it; then reading pauses until it is positive again.
    left: i64,
    at: Instant,
}

impl Allowance {
    /// Full.
    pub(super) fn new(per_second: u64) -> Self {
        let per_second = i64::try_from(per_second).unwrap_or(i64::MAX / SAVED_SECONDS).clamp(1, i64::MAX / SAVED_SECONDS);
        Self { per_second, left: per_second * SAVED_SECONDS, at: Instant::now() }
    }

    /// How long until the allowance is positive; none if it is.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        let earned = now.saturating_duration_since(self.at).as_micros() * u128::from(self.per_second.unsigned_abs()) / 1_000_000;
        if earned > 0 {
            let most = self.per_second * SAVED_SECONDS;
            self.left = i64::try_from(earned).map_or(most, |earned| self.left.saturating_add(earned)).min(most);
            self.at = now;
        }
        let missing = self.left.min(0).unsigned_abs();
        (missing > 0).then(|| Duration::from_micros(missing.saturating_mul(1_000_000) / self.per_second.unsigned_abs() + 1))
    }

    /// Counts what was written.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
