//! What a connection waits for besides bytes, at next to no cost per request: stop signals that are only asked after when they call,
//! and deadlines that move with every request on a timer that doesn't.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, Sleep, sleep_until};

/// A moment in milliseconds, a few of them coarse: a tenth of the price of an [`Instant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn now() -> Moment {
        // No kernel that this runs on is without the clock.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from);
        Moment(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn from_millis(millis: u64) -> Moment {
        Moment(millis)
    }

    pub(crate) fn as_millis(self) -> u64 {
        self.0
    }

    pub(crate) fn after(self, wait: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A timer for a deadline that mostly moves away before it comes: it stays where it was set, and is set anew only when it fires early.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    timer: Option<(Pin<Box<Sleep>>, Moment)>,
}

impl LazyTimer {
    /// Ready when `deadline` has come.
    pub(crate) fn poll(&mut self, deadline: Moment, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Moment::now();
            if now >= deadline {
                return Poll::Ready(());
            }
            // The coarse clock may be a few milliseconds behind the timer's.
            let wake_at = || Instant::now() + deadline.since(now).max(Duration::from_millis(1));
            let (timer, set_for) = self.timer.get_or_insert_with(|| (Box::pin(sleep_until(wake_at())), deadline));
            if *set_for > deadline || timer.is_elapsed() {
                timer.as_mut().reset(wake_at());
                *set_for = deadline;
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// A future that is polled only when it has been woken: whoever waits for many things at once asks each of them at every wake.
#[derive(Debug)]
pub(crate) struct WhenWoken<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    waiting: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.waiting.wake();
    }
}

impl<F: Future> WhenWoken<F> {
    pub(crate) fn new(future: F) -> WhenWoken<F> {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), waiting: AtomicWaker::new() });
        WhenWoken { future: Box::pin(future), waker: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl<F: Future> Future for WhenWoken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Registered before it is looked: a bell that rings in between is not missed.
        this.bell.waiting.register(cx.waker());
        if !this.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::rc::Rc;

    use tokio::sync::oneshot;
    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_has_not_been_woken_is_not_polled() {
        let (call, called) = oneshot::channel::<()>();
        let polls = Rc::new(Cell::new(0));
        let mut called = Box::pin(called);
        let counted = {
            let polls = Rc::clone(&polls);
            poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                called.as_mut().poll(cx)
            })
        };
        let mut woken = std::pin::pin!(WhenWoken::new(counted));
        for _ in 0..5 {
            tokio::select! {
                biased;
                _ = &mut woken => panic!("nobody has called"),
                () = yield_now() => {}
            }
        }
        assert_eq!(polls.get(), 1);
        call.send(()).unwrap();
        timeout(PATIENCE, woken).await.expect("the call is heard").unwrap();
        assert_eq!(polls.get(), 2);
    }

    #[tokio::test]
    async fn a_deadline_may_move_either_way() {
        let mut timer = LazyTimer::default();
        let begun = Moment::now();
        let mut ask = async |deadline: Moment| poll_fn(|cx| timer.poll(deadline, cx)).await;
        let far = begun.after(PATIENCE * 100);
        assert!(futures::poll!(std::pin::pin!(ask(far))).is_pending());
        let near = Moment::now().after(Duration::from_millis(30));
        timeout(PATIENCE, ask(near)).await.expect("the nearer deadline comes");
        assert!(Moment::now() >= near);
        let later = Moment::now().after(Duration::from_millis(30));
        // Asked again at once, by what is woken besides it.
        let waiting = async { tokio::join!(ask(later), yield_now()).0 };
        timeout(PATIENCE, waiting).await.expect("and so does the later one");
        assert!(Moment::now() >= later);
    }
}
