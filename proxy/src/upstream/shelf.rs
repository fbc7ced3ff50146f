//! Idle connections of one upstream, kept for its next request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::policy::limits::Limits;
use crate::time::timers::Moment;

/// What a connection on the shelf is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Usable,
    /// Its upstream has ended it, or says something that nobody has asked for.
    Closed,
    /// It belongs to another runtime.
    Elsewhere,
}

#[derive(Debug)]
struct Idle<T> {
    connection: T,
    since: Moment,
    _place: OwnedSemaphorePermit,
}

/// Idle connections, the most recently used one last.
#[derive(Debug)]
pub(crate) struct Shelf<T>(Mutex<Vec<Idle<T>>>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Shelf<T> {
    fn all(&self) -> MutexGuard<'_, Vec<Idle<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most recently used connection that is usable; closed ones on the way to it are forgotten.
    pub(crate) fn take(&self, fit: impl Fn(&mut T) -> Fit) -> Option<T> {
        let mut all = self.all();
        let mut index = all.len();
        while index > 0 {
            index -= 1;
            let Some(fit) = all.get_mut(index).map(|idle| fit(&mut idle.connection)) else { continue };
            if fit == Fit::Elsewhere {
                continue;
            }
            let idle = all.remove(index);
            if fit == Fit::Usable {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Keeps a connection; closes it when there is no room, or its route is withdrawn.
    pub(crate) fn put(&self, connection: T, room: &Arc<Semaphore>, limits: &Limits, withdrawn: &CancellationToken) {
        if withdrawn.is_cancelled() {
            return;
        }
        let Ok(place) = Arc::clone(room).try_acquire_owned() else { return };
        let mut all = self.all();
        if all.len() < limits.idle_per_upstream {
            all.push(Idle { connection, since: Moment::now(), _place: place });
        }
        // Who withdraws cancels first and empties second, so whichever of the two comes later sees the other.
        if withdrawn.is_cancelled() {
            all.clear();
        }
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.all());
        drop(all);
    }

    /// Closes what has been idle for `age` at `now`.
    pub(crate) fn reap(&self, now: Moment, age: Duration) {
        self.all().retain(|idle| now.since(idle.since) < age);
    }
}
