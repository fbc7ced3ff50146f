//! Which wait a connection is in, and since when: what its deadlines are judged by.
//!
//! ```text
//!            request's first byte            headers complete
//!   Idle --------------------------> Head --------------------> Busy --+
//!     ^  keep_alive                    ^  header_deadline              |  answer sent
//!     +--------------------------------|-------------------------------+
//!                                      +- accept
//! ```

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::time::timers::Moment;

/// How often a connection that drains is looked at while it may still send a request: rarely needed, it needs no bell of its own.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Which wait a connection is in, and since when.
#[derive(Debug)]
pub(super) struct Clock {
    phase: AtomicU8,
    since_millis: AtomicU64,
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { phase: AtomicU8::new(HEAD), since_millis: AtomicU64::new(Moment::now().as_millis()) }
    }

    fn enter(&self, phase: u8) {
        self.since_millis.store(Moment::now().as_millis(), Ordering::Relaxed);
        self.phase.store(phase, Ordering::Relaxed);
    }

    pub(super) fn request_began(&self) {
        self.phase.store(BUSY, Ordering::Relaxed);
    }

    /// The answer to the last request is out, or given up.
    pub(super) fn request_ended(&self) {
        self.enter(IDLE);
    }

    pub(super) fn bytes_came(&self) {
        if self.phase.load(Ordering::Relaxed) == IDLE {
            self.enter(HEAD);
        }
    }

    pub(super) fn is_in_head(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == HEAD
    }

    /// Waits until no request's headers are on their way, at most `patience`: what has come already is noticed first.
    pub(super) async fn head_ended(&self, patience: Duration) {
        let over = Moment::now().after(patience);
        while matches!(self.phase.load(Ordering::Relaxed), IDLE | HEAD) {
            sleep(LOOK_AGAIN).await;
            if !self.is_in_head() || Moment::now() >= over {
                return;
            }
        }
    }

    /// How long what the connection is in has lasted.
    pub(super) fn waited(&self) -> Duration {
        Moment::now().since(self.since())
    }

    fn since(&self) -> Moment {
        Moment::from_millis(self.since_millis.load(Ordering::Relaxed))
    }

    /// When the wait that the connection is in has lasted too long.
    pub(super) fn deadline(&self, header: Duration, keep_alive: Duration) -> Option<Moment> {
        let allowed = match self.phase.load(Ordering::Relaxed) {
            IDLE => keep_alive,
            HEAD => header,
            _ => return None,
        };
        Some(self.since().after(allowed))
    }
}
