//! The price of a small pod as it is now: one value, for quotes and for what is shown.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use super::CostPerMonth;
use crate::factor::Factor;

/// What a small pod costs for a month, until the operator changes it; cheap to clone, and all clones change at once.
#[derive(Clone, Debug)]
pub struct Tariff(Arc<RwLock<CostPerMonth>>);

impl Tariff {
    /// A price that may change.
    pub fn new(cost: CostPerMonth) -> Self {
        Self(Arc::new(RwLock::new(cost)))
    }

    /// What it is now.
    pub fn now(&self) -> CostPerMonth {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pod costs now whose size is so many times as dear.
    pub fn times(&self, factor: Factor) -> CostPerMonth {
        self.now().times(factor)
    }

    pub(crate) fn set(&self, cost: CostPerMonth) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = cost;
    }
}

impl fmt::Display for Tariff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.now(), f)
    }
}
