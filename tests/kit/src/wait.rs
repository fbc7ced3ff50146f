//! Waits with a deadline that say what they waited for.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

/// Between two looks at something that can't announce itself (a file, a process, an answer over HTTP).
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is something to see.
///
/// # Panics
/// When `within` has passed.
pub async fn until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {within:?} for {what}");
        sleep(LOOK_EVERY).await;
    }
}

/// Waits for a turn among tests that share something of the machine: how long that takes depends on their number.
pub(crate) async fn queue<T>(mut take: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(taken) = take() {
            return taken;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The future's output.
///
/// # Panics
/// When it takes longer than `within`.
pub async fn in_time<T>(what: &str, within: Duration, future: impl Future<Output = T>) -> T {
    timeout(within, future).await.unwrap_or_else(|_| panic!("waited {within:?} for {what}"))
}

/// Looks until there is something to see, from where nothing can be awaited: clean-up. `None` when `within` has passed.
pub(crate) fn until_blocking<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
