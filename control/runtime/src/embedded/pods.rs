//! The pods a runtime holds, in memory: which pod has which name and slot.
//!
//! ```text
//! (absent) --reserve--> Starting --hold--> Held --release--> (absent)
//!                          `-------release-------------------^
//! ```
//!
//! Each pod has a lock that is held while the pod is being started or stopped, so that a stop waits for the start before it, and a second
//! stop for the first.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::Mutex;

use super::adopt::Held;
use crate::PodId;

/// Serialises changes to a pod.
pub(crate) type PodLock = Arc<Mutex<()>>;

/// Why a name can't be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// A pod has it.
    Taken,
    /// Every slot is in use, or too many starts wait.
    Full,
}

#[derive(Debug)]
struct Entry {
    slot: u32,
    lock: PodLock,
    held: Option<Held>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Pods {
    entries: BTreeMap<PodId, Entry>,
    slots: u32,
    /// The slot tried next: a slot just released is reused last.
    next: u32,
}

impl Pods {
    /// A table of `slots` slots that contains the adopted pods.
    pub(crate) fn new(slots: u32, adopted: Vec<Held>) -> Self {
        let next = adopted.iter().map(|pod| pod.record.slot + 1).max().unwrap_or(0);
        let entry = |pod: Held| (pod.record.id.clone(), Entry { slot: pod.record.slot, lock: PodLock::default(), held: Some(pod) });
        Self { entries: adopted.into_iter().map(entry).collect(), slots, next }
    }

    /// Reserves the name and a free slot for a start.
    pub(crate) fn reserve(&mut self, id: &PodId, starting_max: usize) -> Result<(u32, PodLock), Denied> {
        if self.entries.contains_key(id) {
            return Err(Denied::Taken);
        }
        if self.entries.values().filter(|entry| entry.held.is_none()).count() >= starting_max {
            return Err(Denied::Full);
        }
        let used = |slot: &u32| self.entries.values().any(|entry| entry.slot == *slot);
        let slot = (self.next..self.slots).chain(0..self.next.min(self.slots)).find(|slot| !used(slot)).ok_or(Denied::Full)?;
        self.next = slot + 1;
        let lock = PodLock::default();
        self.entries.insert(id.clone(), Entry { slot, lock: Arc::clone(&lock), held: None });
        Ok((slot, lock))
    }

    /// Records that the start has succeeded.
    pub(crate) fn hold(&mut self, pod: Held) {
        if let Some(entry) = self.entries.get_mut(&pod.record.id) {
            entry.held = Some(pod);
        }
    }

    /// Releases name and slot after a failed start or a stop.
    pub(crate) fn release(&mut self, id: &PodId) {
        self.entries.remove(id);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn lock_of(&self, id: &PodId) -> Option<PodLock> {
        self.entries.get(id).map(|entry| Arc::clone(&entry.lock))
    }

    /// The pod, if it is the one `lock` belongs to.
    pub(crate) fn held_under(&self, id: &PodId, lock: &PodLock) -> Option<Held> {
        self.entries.get(id).filter(|entry| Arc::ptr_eq(&entry.lock, lock)).and_then(|entry| entry.held.clone())
    }

    pub(crate) fn held(&self, id: &PodId) -> Option<Held> {
        self.entries.get(id).and_then(|entry| entry.held.clone())
    }

    pub(crate) fn all_held(&self) -> Vec<Held> {
        self.entries.values().filter_map(|entry| entry.held.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(last: char) -> PodId {
        format!("{}{last}", "a".repeat(PodId::LENGTH - 1)).parse().unwrap()
    }

    #[test]
    fn slots_are_unique_rest_after_use_and_run_out() {
        let mut pods = Pods::new(3, Vec::new());
        assert_eq!(pods.reserve(&id('a'), 9).unwrap().0, 0);
        assert_eq!(pods.reserve(&id('a'), 9).unwrap_err(), Denied::Taken);
        pods.release(&id('a'));
        let slots: Vec<u32> = ['b', 'c', 'd'].iter().map(|last| pods.reserve(&id(*last), 9).unwrap().0).collect();
        assert_eq!(slots, [1, 2, 0]);
        assert_eq!(pods.reserve(&id('e'), 9).unwrap_err(), Denied::Full);
        pods.release(&id('c'));
        assert_eq!(pods.reserve(&id('e'), 9).unwrap().0, 2);
    }

    #[test]
    fn starts_in_progress_are_bounded() {
        let mut pods = Pods::new(9, Vec::new());
        pods.reserve(&id('a'), 1).unwrap();
        assert_eq!(pods.reserve(&id('b'), 1).unwrap_err(), Denied::Full);
    }
}
