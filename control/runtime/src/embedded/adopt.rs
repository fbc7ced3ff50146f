//! Pods on this host as recorded in their files: adopting those of an earlier process, stopping them, releasing what they held.
//!
//! All of it blocks; the runtime calls it on blocking threads.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use nix::libc;

use super::{
    cgroup, lock,
    shim_protocol::{POD_FILE, PodRecord, STATUS_FILE, Status, read_json},
    veth,
};
use crate::RunningPod;

/// How long a shim may take beyond its containers' grace period before it is killed.
const SHIM_MARGIN: Duration = Duration::from_secs(5);
/// How long a killed shim may take to exit.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// A pod that was started, running or not.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) dir: PathBuf,
    pub(crate) record: PodRecord,
    pub(crate) started_at_ms: u64,
}

impl Held {
    pub(crate) fn running(&self) -> RunningPod {
        RunningPod {
            address: IpAddr::V4(self.record.address),
            incarnation: self.record.incarnation,
            started_at: UNIX_EPOCH + Duration::from_millis(self.started_at_ms),
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> io::Result<bool> {
        lock::is_held(&self.dir)
    }

    /// Releases the host resources of a dead pod, except its files; repeatable. Its mounts and namespaces ended with its processes.
    pub(crate) fn give_back(&self) -> io::Result<()> {
        cgroup::destroy(&self.record.cgroup)?;
        veth::detach(&self.record.link, &self.record.cgroup)
    }

    /// Stops the pod, gracefully first, and removes everything of it.
    pub(crate) fn stop(&self, grace: Duration) -> io::Result<()> {
        if let Some(shim) = lock::shim_of(&self.dir)? {
            shim.signal(libc::SIGTERM)?;
            if !shim.wait(grace + SHIM_MARGIN)? {
                kill(&shim)?;
            }
        }
        self.give_back()?;
        remove(&self.dir)
    }
}

/// Every pod an earlier process left in `pods`; unfinished starts are undone. Their control groups are below `groups`.
pub(crate) fn adopt(pods: &Path, groups: &Path) -> io::Result<Vec<Held>> {
    let mut held = Vec::new();
    for entry in fs::read_dir(pods)? {
        let dir = entry?.path();
        match read(&dir)? {
            Some(pod) => {
                if !pod.is_alive()? {
                    pod.give_back()?;
                }
                held.push(pod);
            }
            None => undo(&dir, groups)?,
        }
    }
    // An interrupted stop can have left a previous pod of the same id.
    held.sort_by_key(|pod| pod.started_at_ms);
    let (newest, older): (Vec<Held>, Vec<Held>) = split_newest(held);
    older.iter().try_for_each(|pod| pod.stop(Duration::ZERO))?;
    Ok(newest)
}

fn split_newest(oldest_first: Vec<Held>) -> (Vec<Held>, Vec<Held>) {
    let ids: Vec<_> = oldest_first.iter().map(|pod| pod.record.id.clone()).collect();
    let (newest, older): (Vec<_>, Vec<_>) =
        oldest_first.into_iter().enumerate().partition(|(index, pod)| !ids[index + 1..].contains(&pod.record.id));
    let only_pods = |numbered: Vec<(usize, Held)>| numbered.into_iter().map(|(_, pod)| pod).collect();
    (only_pods(newest), only_pods(older))
}

/// The pod in `dir`, if its start completed.
fn read(dir: &Path) -> io::Result<Option<Held>> {
    let record: Option<PodRecord> = read_json(&dir.join(POD_FILE))?;
    let status: Option<Status> = read_json(&dir.join(STATUS_FILE))?;
    Ok(record.zip(status).map(|(record, status)| Held { dir: dir.to_owned(), record, started_at_ms: status.started_at_ms }))
}

/// Undoes a start that failed or never completed; repeatable. The pod's control group is below `groups`.
pub(crate) fn undo(dir: &Path, groups: &Path) -> io::Result<()> {
    if let Some(shim) = lock::shim_of(dir)? {
        kill(&shim)?;
    }
    if let Some(name) = dir.file_name() {
        cgroup::destroy(&groups.join(name))?;
    }
    if let Some(record) = read_json::<PodRecord>(&dir.join(POD_FILE))? {
        veth::detach(&record.link, &record.cgroup)?;
    }
    remove(dir)
}

fn kill(shim: &lock::Shim) -> io::Result<()> {
    shim.signal(libc::SIGKILL)?;
    if shim.wait(KILL_WAIT)? { Ok(()) } else { Err(io::Error::new(io::ErrorKind::TimedOut, "a pod's supervisor survives SIGKILL")) }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
