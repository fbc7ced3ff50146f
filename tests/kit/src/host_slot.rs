//! A host's slot: the pod subnet it may use.
//!
//! Tests run in several threads and several processes, and a machine has one routing table. Each host takes one of a few
//! lock files for as long as it runs; this also bounds how many run at once.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    num::NonZeroUsize,
    thread,
};

use nix::fcntl::{Flock, FlockArg};

use crate::wait::queue;

/// Hosts that run at once, on the whole machine: one for each processor, and at least two.
fn slots() -> u8 {
    let processors = thread::available_parallelism().map_or(2, NonZeroUsize::get);
    u8::try_from(processors).unwrap_or(u8::MAX).clamp(2, 64)
}

/// One of the slots, until dropped.
#[derive(Debug)]
pub struct Slot {
    number: u8,
    _lock: Flock<File>,
}

impl Slot {
    /// Waits for a free one, however long others take: a queue has no deadline, each test in it does.
    pub async fn take() -> Self {
        let dir = std::env::temp_dir().join("codiusd-kit");
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("create {}: {error}", dir.display()));
        queue(|| {
            (0..slots()).find_map(|number| {
                let file = File::create(dir.join(format!("slot-{number}"))).ok()?;
                let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
                Some(Self { number, _lock: lock })
            })
        })
        .await
    }

    /// Where the pods of this slot's host get their addresses, in CIDR notation.
    pub fn pod_subnet(&self) -> String {
        format!("{}/24", self.pod_network())
    }

    /// The same without the length of its prefix.
    pub(crate) fn pod_network(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, 0)
    }
}
