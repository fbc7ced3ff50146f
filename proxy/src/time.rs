//! Clocks and timers.

pub(crate) mod clock;
pub(crate) mod http_date;
pub(crate) mod timers;
