//! The listening sockets that systemd passes on (`sd_listen_fds(3)`): they outlive the process, so that a restart refuses no connection.

use std::{env, io};

use codiusd_proxy::Inherited;
use listenfd::ListenFd;

/// More sockets than any edge has.
const COUNT_MAX: usize = 64;
/// File descriptor of the first socket.
const FIRST: usize = 3;

/// Why the sockets can't be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketsError {
    /// The count isn't a number, or is more than [`COUNT_MAX`].
    #[error("LISTEN_FDS = {0:?}: must be a number of sockets from 0 to {COUNT_MAX}")]
    Count(String),
    /// The file descriptor isn't a TCP socket.
    #[error("the inherited {label} can't be used as a listening socket")]
    Unusable { label: String, source: io::Error },
}

/// Takes over the sockets that are meant for this process. Children don't inherit them, nor the variables that announce them. Must be
/// called while there is only one thread.
pub(crate) fn inherited() -> Result<Vec<Inherited>, SocketsError> {
    let is_ours = env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
    let Some(announced) = env::var("LISTEN_FDS").ok().filter(|_| is_ours) else { return Ok(Vec::new()) };
    let count = announced.parse().ok().filter(|count| *count <= COUNT_MAX).ok_or(SocketsError::Count(announced))?;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = ListenFd::from_env();
    let take = |index: usize| {
        let label = format!("fd {}", FIRST + index);
        let name = names.next().unwrap_or_default().to_owned();
        match sockets.take_tcp_listener(index) {
            Ok(Some(socket)) => Ok(Inherited { label, name, socket }),
            Ok(None) => Err(SocketsError::Unusable { label, source: io::ErrorKind::NotFound.into() }),
            Err(source) => Err(SocketsError::Unusable { label, source }),
        }
    };
    (0..count).map(take).collect()
}
