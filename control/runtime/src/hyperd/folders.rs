//! Log folders of pods. hyperd creates one for each pod, and removes none.
//!
//! Removes only folders with the name of a Codius pod that hyperd doesn't know, and only files in them: everything else stays.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task;

use super::{Inner, error::HyperdError};
use crate::PodId;

/// Removes a pod's folder. The caller holds its turn, and the pod doesn't exist any more.
pub(super) async fn remove(logs: &Path, id: &PodId) {
    let folder = logs.join(id.as_str());
    let removed = task::spawn_blocking(move || remove_files(&folder)).await;
    if let Err(error) = removed.map_err(io::Error::other).flatten() {
        tracing::warn!(pod = %id, %error, "hyperd's log folder of the pod not removed");
    }
}

/// Removes the folders of pods that hyperd doesn't know: it was killed, or deleted them while codiusd was down.
pub(super) async fn sweep(inner: Arc<Inner>) {
    let logs = inner.logs.clone();
    // A missing directory counts as empty.
    let found = task::spawn_blocking(move || pods_in(&logs)).await.map_err(io::Error::other).flatten().unwrap_or_default();
    for id in found {
        let turn = inner.turns.of(&id);
        // The holder of the turn removes it, or needs it.
        let Ok(_mine) = turn.try_lock() else { continue };
        if matches!(inner.info(&id).await, Err(HyperdError::NoSuchPod)) {
            remove(&inner.logs, &id).await;
        }
    }
}

fn pods_in(logs: &Path) -> io::Result<Vec<PodId>> {
    let names = fs::read_dir(logs)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

fn remove_files(folder: &PathBuf) -> io::Result<()> {
    match fs::symlink_metadata(folder) {
        Ok(data) if data.is_dir() => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_files_of_a_real_folder_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("Pods");
        let id = |letter: &str| letter.repeat(PodId::LENGTH);
        let elsewhere = dir.path().join("elsewhere");
        for folder in [elsewhere.clone(), logs.join(id("a")), logs.join(id("b")), logs.join("other"), logs.join(id("b")).join("below")] {
            fs::create_dir_all(folder).unwrap();
        }
        for file in
            [elsewhere.join("kept"), logs.join(id("a")).join("log"), logs.join(id("a")).join("log.1"), logs.join(id("b")).join("log")]
        {
            fs::write(file, "line").unwrap();
        }
        symlink(&elsewhere, logs.join(id("c"))).unwrap();
        let mut found = pods_in(&logs).unwrap();
        found.sort();
        assert_eq!(found.iter().map(PodId::as_str).collect::<Vec<_>>(), [id("a"), id("b"), id("c")]);

        let table = [(id("a"), true, false), (id("b"), false, true), (id("c"), true, true), (id("d"), true, false)];
        for (name, works, is_there) in table {
            let folder = logs.join(&name);
            assert_eq!((remove_files(&folder).is_ok(), folder.exists()), (works, is_there), "{name}");
        }
        assert!(elsewhere.join("kept").exists(), "links aren't followed");
        assert!(logs.join(id("b")).join("below").exists(), "what isn't a log stays");
    }
}
