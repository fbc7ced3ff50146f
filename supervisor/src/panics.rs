//! Panics: logged like other events, and counted.

use std::{
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use futures::FutureExt;

/// Number of panics of this process.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics of this process so far. Only a panic hook receives all of them, so this counts from [`report_panics`] on.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// From now on panics are logged, with their location, instead of printed to standard error.
pub fn report_panics() {
    panic::set_hook(Box::new(report));
}

fn report(info: &PanicHookInfo<'_>) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload();
    let what =
        payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(location, thread = thread::current().name(), what, "panic: a bug in codiusd, please report it");
}

/// A panic, which has been logged, interrupted the work for one client or item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

impl std::fmt::Display for Panicked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted by a bug in codiusd")
    }
}

impl std::error::Error for Panicked {}

/// Runs the work for one client or item. A panic in it becomes an error.
pub async fn isolated<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_panic| Panicked)
}
