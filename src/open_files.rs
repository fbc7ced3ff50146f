//! Raises the open file limit to its maximum, and limits connections to what fits.

use codiusd_proxy::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files reserved for the store, images, Interledger, logs and pipes.
const RESERVE: u64 = 1024;
/// One pipe, which takes two files, per this many allowed files.
const PIPES_SHARE: u64 = 64;

/// Raises the soft limit to the hard one, and lowers `limits` to what fits: an edge that uses up all files would leave none for the
/// store. Logs a warning if fewer connections fit than are configured.
pub(crate) fn fit(limits: &mut Limits) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "open file limit not raised (RLIMIT_NOFILE)");
    }
    let Some(allowed) = getrlimit(Resource::Nofile).current else { return };
    let asked = limits.connections;
    limits.pipes = limits.pipes.min(usize::try_from(allowed / PIPES_SHARE).unwrap_or(usize::MAX));
    (limits.connections, limits.idle_upstream) = shares(asked, limits.idle_upstream, allowed);
    if limits.connections < asked {
        tracing::warn!(
            asked,
            possible = limits.connections,
            files = allowed,
            "connection limit lowered below limits.connections (CODIUS_EDGE_CONNECTIONS): the process may not open enough files (LimitNOFILE, ulimit -n)"
        );
    }
}

/// The client connections and idle connections to pods that fit into `allowed` files. A client's connection takes one file, and one
/// more for the connection to its pod.
fn shares(connections: usize, idle: usize, allowed: u64) -> (usize, usize) {
    let idle = u64::try_from(idle).unwrap_or(u64::MAX).min(allowed / 8);
    let reserve = RESERVE.min(allowed / 4);
    let fit = (allowed.saturating_sub(idle).saturating_sub(reserve) / 2).max(1);
    let as_count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    (connections.min(as_count(fit)), as_count(idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_files_there_are() {
        assert_eq!(shares(100_000, 4_096, 1_048_576), (100_000, 4_096));
        assert_eq!(shares(100_000, 4_096, 65_536), (30_208, 4_096));
        assert_eq!(shares(100_000, 4_096, 1_024), (320, 128));
        assert_eq!(shares(10, 0, 1_024), (10, 0));
        for allowed in 0..5_000 {
            let (connections, idle) = shares(100_000, 4_096, allowed);
            assert!(connections >= 1);
            assert!(allowed < 4 || u64::try_from(2 * connections + idle).unwrap() <= allowed, "{allowed}");
        }
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let mut limits = Limits::default();
        fit(&mut limits);
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
    }
}
