//! The current price of a small pod: one value, for quotes and for display.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use super::CostPerMonth;
use crate::factor::Factor;

/// The monthly cost of a small pod, until the operator changes it; cheap to clone, and all clones change together.
#[derive(Clone, Debug)]
pub struct Tariff(Arc<RwLock<CostPerMonth>>);

impl Tariff {
    /// A price that may change.
    pub fn new(cost: CostPerMonth) -> Self {
        Self(Arc::new(RwLock::new(cost)))
    }

    /// The current cost.
    pub fn now(&self) -> CostPerMonth {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current cost of a pod whose size costs `factor` times as much.
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
