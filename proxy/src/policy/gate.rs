//! Counts connections and requests, and asks `admit` whether one more may pass.
//!
//! Clients are counted in sketches of fixed size (pingora-limits): who sends from a million addresses costs the edge no memory. A
//! sketch may count a client too high when others fall into all of its cells, and never too low. Its two halves are the current and
//! the last second; pingora's own `Rate` does the same, but its clock can panic when threads turn the second at once.

use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pingora_limits::estimator::Estimator;
use pingora_limits::inflight::{Guard, Inflight};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy::admit;
use crate::policy::limits::Limits;
use crate::policy::trust::Policy;
use crate::telemetry::metrics::Full;

/// Cells of a sketch: this many for each of [`HASHES`] hashes.
const CELLS: usize = 4096;
const HASHES: usize = 4;

/// What is counted at the door.
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    connected: Inflight,
    clients: Sketch,
    pods: Sketch,
    begun: Instant,
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    _client: Option<Guard>,
}

impl Gate {
    pub(crate) fn new(limits: &Limits) -> Gate {
        Gate {
            places: Arc::new(Semaphore::new(limits.connections)),
            connected: Inflight::new(),
            clients: Sketch::new(),
            pods: Sketch::new(),
            begun: Instant::now(),
        }
    }

    /// A place for one more connection, whosever it is.
    pub(crate) fn place(&self) -> Result<Place, Full> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Full::Everywhere)?;
        Ok(Place { _place: place, _client: None })
    }

    /// The same place, now that it is known to be for `client`.
    pub(crate) fn place_of(&self, place: Place, client: IpAddr, policy: &Policy, limits: &Limits) -> Result<Place, Full> {
        if !policy.counts(client) || policy.trusts(client) {
            return Ok(place);
        }
        let (guard, open) = self.connected.incr(admit::counted_as(client), 1);
        if usize::try_from(open).unwrap_or(0) > limits.connections_per_client {
            return Err(Full::ForClient);
        }
        Ok(Place { _client: Some(guard), ..place })
    }

    /// Whether `client` may send one more request at `now`.
    pub(crate) fn admits_from(&self, client: IpAddr, now: Instant, policy: &Policy, limits: &Limits) -> bool {
        !policy.counts(client) || self.clients.admits(admit::counted_as(client), self.second(now), limits.requests_per_client)
    }

    /// Whether the pod of this number may be sent one more request at `now`.
    pub(crate) fn admits_to(&self, pod: usize, now: Instant, limits: &Limits) -> bool {
        self.pods.admits(pod, self.second(now), limits.requests_per_pod)
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_secs()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("places", &self.places.available_permits()).finish_non_exhaustive()
    }
}

/// Events by key, of this second and the last.
struct Sketch {
    even: Estimator,
    odd: Estimator,
    second: AtomicU64,
}

impl Sketch {
    fn new() -> Sketch {
        Sketch { even: Estimator::new(HASHES, CELLS), odd: Estimator::new(HASHES, CELLS), second: AtomicU64::new(0) }
    }

    fn of(&self, second: u64) -> &Estimator {
        if second.is_multiple_of(2) { &self.even } else { &self.odd }
    }

    /// Counts one more event; refused ones count, too.
    fn admits<K: Hash + Copy>(&self, key: K, second: u64, per_second: u64) -> bool {
        let last = self.second.load(Ordering::Relaxed);
        if second > last && self.second.compare_exchange(last, second, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.of(second).reset();
            if second - last > 1 {
                self.of(second + 1).reset();
            }
        }
        let current = u64::try_from(self.of(second).incr(key, 1)).unwrap_or(0);
        let previous = u64::try_from(self.of(second + 1).get(key)).unwrap_or(0);
        admit::within_rate(previous, current, per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(sketch: &Sketch, key: u32, second: u64, asked: usize) -> usize {
        (0..asked).filter(|_| sketch.admits(key, second, 10)).count()
    }

    #[test]
    fn seconds_follow_each_other() {
        let sketch = Sketch::new();
        assert_eq!(passed(&sketch, 1, 0, 100), 20, "a burst");
        assert_eq!(passed(&sketch, 2, 0, 5), 5, "another client");
        assert_eq!(passed(&sketch, 1, 1, 100), 10, "after a busy second");
        assert_eq!(passed(&sketch, 1, 2, 10), 10);
        assert_eq!(passed(&sketch, 1, 3, 100), 10);
        assert_eq!(passed(&sketch, 1, 5, 100), 20, "after a quiet second");
        assert_eq!(passed(&sketch, 1, 1_000, 100), 20);
    }

    #[test]
    fn a_thread_that_is_late_does_no_harm() {
        let sketch = Sketch::new();
        assert_eq!(passed(&sketch, 1, 8, 10), 10);
        assert_eq!(passed(&sketch, 1, 7, 1), 1);
        assert_eq!(passed(&sketch, 1, 8, 10), 9, "the late one was counted into the last second");
    }
}
