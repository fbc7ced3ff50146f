//! Work that is done once per key, however many ask for it at the same time: the others wait, and find it done.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::Semaphore;

/// One permit per key that somebody works on or waits for.
#[derive(Debug)]
pub(super) struct Turns<K>(Mutex<HashMap<K, Weak<Semaphore>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// The permit of a key.
    pub(super) fn of(&self, key: &K) -> Arc<Semaphore> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let known = turns.get(key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::new(Semaphore::new(1));
            turns.insert(key.clone(), Arc::downgrade(&turn));
            turn
        })
    }
}
