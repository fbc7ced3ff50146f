//! Waiting for what the kernel or the host does, with a limit.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// Interval between checks for what the kernel doesn't announce.
const INTERVAL: Duration = Duration::from_millis(2);

/// Checks until there is something.
pub(crate) fn until<T>(what: &str, limit: Duration, mut check: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = check()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(late(what, limit));
        }
        thread::sleep(INTERVAL);
    }
}

/// Waits for one of these events.
pub(crate) fn ready(what: &str, fd: BorrowedFd<'_>, events: PollFlags, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::new(fd.as_fd(), events)], timeout(Some(left))) {
            Ok(0) => return Err(late(what, limit)),
            Err(Errno::EINTR) => {}
            done => return done.map(drop).map_err(io::Error::from),
        }
    }
}

/// For `poll`: rounded up, so that the time is over when it returns.
pub(crate) fn timeout(left: Option<Duration>) -> PollTimeout {
    left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX))
}

fn late(what: &str, limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what}: not within {} s", limit.as_secs_f32()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_is_named() {
        let error = until("disk", Duration::ZERO, || Ok(None::<()>)).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::TimedOut, "disk: not within 0 s".to_owned()));
        let mut checks = 0;
        let found = until("disk", Duration::from_secs(60), || {
            checks += 1;
            Ok((checks > 2).then_some(checks))
        });
        assert_eq!(found.unwrap(), 3);
        let (reader, _writer) = io::pipe().unwrap();
        let error = ready("the report", reader.as_fd(), PollFlags::POLLIN, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
