//! Panics: logged as everything else is, and counted.

use std::{
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use futures::FutureExt;

/// Of this process.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics of this process so far. A hook is the only one to see all of them, so this counts from [`report_panics`] on.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// From now on panics are lines of the log, with where they were, instead of loose text on standard error.
pub fn report_panics() {
    panic::set_hook(Box::new(report));
}

fn report(info: &PanicHookInfo<'_>) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let what = info.payload_as_str().unwrap_or("no message");
    tracing::error!(location, thread = thread::current().name(), what, "panic: a bug in codiusd, please report it");
}

/// What one client or one item needed was interrupted by a panic, which the log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

impl std::fmt::Display for Panicked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted by a bug in codiusd")
    }
}

impl std::error::Error for Panicked {}

/// Does what concerns one client or item. A panic in it is an error of that one.
pub async fn isolated<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_panic| Panicked)
}
