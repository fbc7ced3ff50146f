//! Fault injection for tests: on SIGUSR2 the host reads and removes the file `fault` in its `run` directory, which has `end NAME` or
//! `panic NAME` of a supervised task. Only development builds have this.

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

    /// Injects the requested faults, until dropped.
    pub(super) async fn inject(mut self, supervisor: Supervisor) {
        while self.asked.recv().await.is_some() {
            if let Err(error) = self.inject_one(&supervisor).await {
                tracing::error!(%error, file = %self.file.display(), "fault not injected");
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
        tracing::warn!(name, ?fault, runs = supervisor.inject(name, fault), "fault injected");
        fs::remove_file(&self.file).await
    }
}
