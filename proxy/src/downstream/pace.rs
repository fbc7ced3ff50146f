//! How fast a client takes what it is sent. Who takes a byte a minute holds memory here, an upstream connection, and a worker of the
//! pod; so while there is something for a client, it must take [`Limits::send_bytes_per_second`].
//!
//! Only time in which the client is waited for counts: a pod that has nothing to send is no fault of its client's. What it has taken
//! is what its kernel has acknowledged, or what has left for it: a socket says that it takes more only when a good part of its buffer
//! is free, and with a large buffer and a slow line that can take minutes. Fast times aren't saved up for slow ones.
//!
//! Tunnels only must not stand still ([`Limits::send_stall`]): they carry conversations whose pace is nobody's to set (a sleeping
//! browser tab is woken by the pod, not by us), and how many of them a pod may have is bounded.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::context::conn::Conn;
use crate::policy::limits::Limits;
use crate::telemetry::metrics::Cut;

/// How often what a client has taken is looked at, as a part of what may pass until it is cut.
const LOOKS: u32 = 4;

/// How long a client that is waited for may go on before it is looked at what it has taken.
pub(crate) fn look_every(limits: &Limits) -> Duration {
    limits.send_grace.min(limits.send_stall) / LOOKS
}

/// Why a client is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slow {
    /// It takes nothing.
    Stalled,
    /// It takes too little.
    TooSlow,
}

impl Slow {
    pub(crate) fn count(self, cut: &Cut) {
        match self {
            Slow::Stalled => cut.send_stall.inc(),
            Slow::TooSlow => cut.send_too_slow.inc(),
        }
    }
}

/// What one client owes. Pure.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Debt {
    /// How long it has been waited for beyond what the bytes it took are worth.
    behind: Duration,
    /// How long it has been waited for since it last took any.
    silent: Duration,
    taken: u64,
}

impl Debt {
    /// It was waited for.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.behind = self.behind.saturating_add(time);
        self.silent = self.silent.saturating_add(time);
    }

    /// So many bytes it has taken in all.
    pub(crate) fn took(&mut self, taken: u64, bytes_per_second: u64) {
        let bytes = taken.saturating_sub(self.taken);
        if bytes > 0 {
            let worth = bytes.saturating_mul(1_000_000).checked_div(bytes_per_second).map_or(Duration::MAX, Duration::from_micros);
            self.behind = self.behind.saturating_sub(worth);
            self.silent = Duration::ZERO;
            self.taken = taken;
        }
    }

    /// There is nothing for it to take.
    pub(crate) fn is_even(&mut self) {
        (self.behind, self.silent) = (Duration::ZERO, Duration::ZERO);
    }

    /// Whether that is too much.
    pub(crate) fn verdict(&self, limits: &Limits, is_tunnel: bool) -> Option<Slow> {
        if self.silent >= limits.send_stall {
            Some(Slow::Stalled)
        } else if self.behind >= limits.send_grace && !is_tunnel {
            Some(Slow::TooSlow)
        } else {
            None
        }
    }
}

/// Watches over the writes to one client.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    debt: Debt,
    is_tunnel: bool,
    /// While a write waits: since when that isn't counted yet, and when to look next.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    /// Of a tunnel.
    pub(crate) fn of_tunnel() -> Pace {
        Pace { is_tunnel: true, ..Pace::default() }
    }

    /// What `polled`, a write or flush to the client, comes to: a failure when the client has kept it waiting for too long.
    pub(crate) fn judge<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>, conn: &Conn) -> Poll<io::Result<T>> {
        let limits = &conn.edge.limits;
        if polled.is_ready() {
            if let Some((since, _)) = self.waiting.take() {
                self.debt.waited(since.elapsed());
            }
            return polled;
        }
        let every = look_every(limits);
        loop {
            let (since, look) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(every))));
            ready!(look.as_mut().poll(cx));
            let now = Instant::now();
            self.debt.waited(now.saturating_duration_since(*since));
            *since = now;
            look.as_mut().reset(now + every);
            self.debt.took(conn.acknowledged(), limits.send_bytes_per_second);
            if let Some(slow) = self.debt.verdict(limits, self.is_tunnel) {
                slow.count(&conn.edge.metrics.cut);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits { send_bytes_per_second: 100, send_grace: 10 * SECOND, send_stall: 6 * SECOND, ..Limits::default() }
    }

    /// Waits a second at a time, for a client that takes so many bytes in each; when it is cut, and why.
    fn cut_after(bytes: &[u64]) -> Option<(usize, Slow)> {
        let (mut debt, mut taken, limits) = (Debt::default(), 0, limits());
        bytes.iter().enumerate().find_map(|(second, bytes)| {
            taken += bytes;
            debt.waited(SECOND);
            debt.took(taken, limits.send_bytes_per_second);
            debt.verdict(&limits, false).map(|slow| (second + 1, slow))
        })
    }

    #[test]
    fn a_client_is_cut_when_it_is_too_far_behind() {
        assert_eq!(cut_after(&[0; 9]), Some((6, Slow::Stalled)));
        assert_eq!(cut_after(&[1; 99]), Some((11, Slow::TooSlow)));
        assert_eq!(cut_after(&[50; 99]), Some((20, Slow::TooSlow)));
        assert_eq!(cut_after(&[100; 999]), None);
        assert_eq!(cut_after(&[0, 0, 0, 0, 500].repeat(99)), None, "in pieces");
        let fast_then_slow = [&[1_000_000; 5][..], &[1; 99]].concat();
        assert_eq!(cut_after(&fast_then_slow), Some((16, Slow::TooSlow)), "what was fast isn't saved up");
    }

    #[test]
    fn a_tunnel_only_must_not_stand_still_and_nothing_to_take_is_no_debt() {
        let mut debt = Debt::default();
        debt.waited(20 * SECOND);
        debt.took(1, 100);
        assert_eq!(debt.verdict(&limits(), false), Some(Slow::TooSlow));
        assert_eq!(debt.verdict(&limits(), true), None);
        debt.is_even();
        assert_eq!(debt.verdict(&limits(), false), None);
        debt.waited(6 * SECOND);
        assert_eq!(debt.verdict(&limits(), true), Some(Slow::Stalled));
        debt.took(u64::MAX, 0);
        assert_eq!(debt, Debt { behind: Duration::ZERO, silent: Duration::ZERO, taken: u64::MAX });
    }
}
