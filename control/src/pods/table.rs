//! The table of pods. Every change is reported to the capacity ledger, so the two can't differ.

use std::{collections::HashMap, ops::Deref, sync::Arc};

use codiusd_runtime::PodId;

use super::state::{Entry, Stage};
use crate::capacity::CapacityLedger;

/// Pods by their names; read like a map.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<PodId, Entry>,
    capacity: Arc<CapacityLedger>,
}

impl Table {
    pub(super) fn new(capacity: Arc<CapacityLedger>) -> Self {
        Self { entries: HashMap::new(), capacity }
    }

    pub(super) fn insert(&mut self, id: PodId, entry: Entry) {
        self.capacity.set(&id, entry.holds());
        self.entries.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: &PodId) {
        self.entries.remove(id);
        self.capacity.set(id, None);
        self.capacity.cleared(id);
    }

    /// Sets the pod's stage. Does nothing if there is no such pod.
    pub(super) fn set_stage(&mut self, id: &PodId, stage: Stage) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.stage = stage;
            self.capacity.set(id, entry.holds());
        }
    }
}

impl Deref for Table {
    type Target = HashMap<PodId, Entry>;

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}
