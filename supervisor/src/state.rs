//! State that must be consistent: money, pods, the operator's commands.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::Supervisor;

/// A lock around state that can't be trusted once a panic has interrupted a change of it. Then the process ends, and until then nothing
/// more is written to the database ([`Supervisor::is_sealed`]), so that the next start reads the last consistent state.
pub struct StateLock<T> {
    name: &'static str,
    supervisor: Supervisor,
    state: Mutex<T>,
}

impl<T: fmt::Debug> fmt::Debug for StateLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateLock").field("name", &self.name).field("state", &self.state).finish_non_exhaustive()
    }
}

impl<T> StateLock<T> {
    /// Wraps state; `name` identifies it in the log.
    pub fn new(name: &'static str, supervisor: &Supervisor, state: T) -> Self {
        Self { name, supervisor: supervisor.clone(), state: Mutex::new(state) }
    }

    /// Locks the state. Must not be held across an await.
    pub fn lock(&self) -> StateGuard<'_, T> {
        // Half changed state is still returned: waiting threads must not block for ever, and their changes are not stored.
        StateGuard { whole_before: !thread::panicking(), state: self.state.lock().unwrap_or_else(PoisonError::into_inner), lock: self }
    }
}

/// Locked state.
pub struct StateGuard<'a, T> {
    lock: &'a StateLock<T>,
    whole_before: bool,
    state: MutexGuard<'a, T>,
}

impl<T: fmt::Debug> fmt::Debug for StateGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}

impl<T> Deref for StateGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for StateGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

impl<T> Drop for StateGuard<'_, T> {
    fn drop(&mut self) {
        // The mutex is released after this.
        if self.whole_before && thread::panicking() {
            self.lock.supervisor.half_changed(self.lock.name);
        }
    }
}
