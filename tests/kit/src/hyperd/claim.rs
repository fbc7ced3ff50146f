//! A double's claim to a network: a lock file of which each machine has a few, as for [`crate::host_slot`].

use std::fs::{self, File};

use nix::fcntl::{Flock, FlockArg};

use crate::wait::queue;

/// One of the networks, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    number: u8,
    _lock: Flock<File>,
}

impl Claim {
    /// Waits until one of so many is free.
    pub(super) async fn take(many: u8) -> Self {
        let dir = std::env::temp_dir().join("codiusd-kit");
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("create {}: {error}", dir.display()));
        queue(|| {
            (0..many).find_map(|number| {
                let file = File::create(dir.join(format!("hyperd-{number}"))).ok()?;
                let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
                Some(Self { number, _lock: lock })
            })
        })
        .await
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }
}
