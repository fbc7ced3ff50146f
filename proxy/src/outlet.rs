//! Tells when all that was handed to hyper for a client has left for it.
//!
//! An answer whose body breaks off is cut short, and hyper does that at once: what it still holds of the answer, even its head, is
//! lost. A client that has got nothing of an answer sends its request again (RFC 9112 section 9.3.1), though the pod has done what it
//! asked for. So the error of a body is held back until what came before it has left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::task::AtomicWaker;

/// The way out of one client connection.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    /// Turns that were asked for.
    asked: AtomicU64,
    /// Those of them that were served: what was handed over before one was asked for has left.
    served: AtomicU64,
    /// Bytes were written that aren't flushed.
    unflushed: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    /// The connection, if it isn't what asks.
    connection: AtomicWaker,
}

/// One wait for what was handed over before it.
#[derive(Debug)]
pub(crate) struct Turn(u64);

impl Outlet {
    /// Asks for what was handed over until now.
    pub(crate) fn ask(&self) -> Turn {
        let turn = Turn(self.asked.fetch_add(1, Ordering::AcqRel).saturating_add(1));
        self.connection.wake();
        turn
    }

    /// Ready when it has left.
    pub(crate) fn poll_left(&self, turn: &Turn, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock, so that who serves it in between sees the waker.
        if self.served.load(Ordering::Acquire) >= turn.0 {
            return Poll::Ready(());
        }
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The turns asked for so far: whoever is about to write out all there is may [serve](Outlet::serve) these.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// All that was handed over before these turns were asked for has left.
    pub(crate) fn serve(&self, asked: u64) {
        if self.served.load(Ordering::Relaxed) >= asked {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.served.store(asked, Ordering::Release);
        let woken = std::mem::take(&mut *waiting);
        drop(waiting);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Wakes this task, which writes to the client, when a turn is asked for.
    pub(crate) fn is_driven_by(&self, connection: &Waker) {
        self.connection.register(connection);
    }

    /// Bytes were given to the client's socket, or that was tried.
    pub(crate) fn wrote(&self) {
        self.unflushed.store(true, Ordering::Relaxed);
    }

    /// The socket has all bytes.
    pub(crate) fn flushed(&self) {
        self.unflushed.store(false, Ordering::Relaxed);
    }

    /// Whether it has.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.unflushed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_turn_is_over_when_what_came_before_it_has_left() {
        let (outlet, calls) = (Outlet::default(), Arc::<Count>::default());
        let waker = Waker::from(Arc::clone(&calls));
        let mut cx = Context::from_waker(&waker);
        let connection = Arc::<Count>::default();
        outlet.is_driven_by(&Waker::from(Arc::clone(&connection)));

        let before = outlet.asked();
        let turn = outlet.ask();
        assert_eq!(connection.0.load(Ordering::SeqCst), 1, "whoever writes is told");
        assert!(outlet.poll_left(&turn, &mut cx).is_pending());
        assert!(outlet.poll_left(&turn, &mut cx).is_pending());
        outlet.serve(before);
        assert!(outlet.poll_left(&turn, &mut cx).is_pending(), "that began to write before");
        outlet.serve(outlet.asked());
        assert_eq!(calls.0.load(Ordering::SeqCst), 1);
        assert!(outlet.poll_left(&turn, &mut cx).is_ready());
        assert!(outlet.poll_left(&outlet.ask(), &mut cx).is_pending());
    }
}
