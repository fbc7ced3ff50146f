//! Faults on demand, for tests: SIGUSR2 has the file `fault` in the host's `run` directory read, which says `end NAME` or `panic NAME` of a
//! supervised task, and removed. Only builds for development have this.

use std::{
    io,
    path::{Path, PathBuf},
};

use codiusd_supervisor::{Fault, Supervisor};
use tokio::{
    fs,
    signal::unix::{Signal, SignalKind, signal},
};

pub(super) struct Faults {
    asked: Signal,
    file: PathBuf,
}

impl Faults {
    /// Listens for the signal from now on.
    pub(super) fn listen(root: &Path) -> io::Result<Self> {
        Ok(Self { asked: signal(SignalKind::user_defined2())?, file: root.join("run/fault") })
    }

    /// Injects what is asked for, until dropped.
    pub(super) async fn inject(mut self, supervisor: Supervisor) {
        while self.asked.recv().await.is_some() {
            if let Err(error) = self.inject_one(&supervisor).await {
                tracing::error!(%error, file = %self.file.display(), "no fault is injected");
            }
        }
    }

    async fn inject_one(&self, supervisor: &Supervisor) -> io::Result<()> {
        let text = fs::read_to_string(&self.file).await?;
        let (fault, name) = match text.trim().split_once(' ') {
            Some(("end", name)) => (Fault::End, name),
            Some(("panic", name)) => (Fault::Panic, name),
            _ => return Err(io::Error::other("neither `end NAME` nor `panic NAME`")),
        };
        tracing::warn!(name, ?fault, runs = supervisor.inject(name, fault), "a fault is injected");
        fs::remove_file(&self.file).await
    }
}
