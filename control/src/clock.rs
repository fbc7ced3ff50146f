//! Time as an input: what the office thinks the time is.

use std::{fmt::Debug, sync::Arc};

use jiff::Timestamp;

/// Tells the time. The office never asks the system directly, so a test can hold or move its clock.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time now, UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock, shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
