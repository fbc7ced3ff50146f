//! Clocks and timers.

pub(crate) mod http_date;
pub(crate) mod timers;
