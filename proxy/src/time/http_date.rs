//! The time as HTTP says it (RFC 9110 section 5.6.7).

use std::cell::Cell;
use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// `Sun, 06 Nov 1994 08:49:37 GMT`
const FORMAT: &str = "%a, %d %b %Y %H:%M:%S GMT";
const LENGTH: usize = 29;

/// A date as text.
pub(crate) type HttpDate = [u8; LENGTH];

/// Now. It is written once a second by each thread.
pub(crate) fn now() -> HttpDate {
    thread_local! {
        static LAST: Cell<(u64, HttpDate)> = const { Cell::new((u64::MAX, [b' '; LENGTH])) };
    }
    // No kernel that this runs on is without the clock.
    let seconds = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(Duration::ZERO, Duration::from).as_secs();
    let (last, date) = LAST.get();
    if last == seconds {
        return date;
    }
    let date = written(seconds);
    LAST.set((seconds, date));
    date
}

fn written(seconds: u64) -> HttpDate {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_default();
    let text = time.strftime(FORMAT).to_string();
    // Years have four digits for long enough.
    text.as_bytes().try_into().unwrap_or([b' '; LENGTH])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_specification_shows_them() {
        assert_eq!(&written(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(now().len(), LENGTH);
        assert!(now().ends_with(b" GMT"));
    }
}
