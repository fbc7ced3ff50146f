//! All layers of an image in one read-only file: the disk of a container in a virtual machine.
//!
//! ```text
//! layer directories -> read-only overlay -> mkfs.erofs in its jail -> merged/<id>.tmp -> rename
//! ```
//!
//! The file shows what an overlay of the layers shows to a container, with owners as they are in the image. It is named after the topmost
//! layer's chain id, which stands for all layers below it; images with the same layers share it. The same layers give the same bytes.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::{OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, Mode, RenameFlags};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task, time,
};

use super::{
    Image, ImageLimits,
    disk_budget::{DiskBudget, Request},
    jail::{self, Errand},
    layers::{self, ENTRY_BYTES, LayerUse},
    source::disk,
    turns::Turns,
    unfinished::Unfinished,
};
use crate::RuntimeError;

/// Where distributions put the program.
pub(super) const MKFS: [&str; 4] =
    ["/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.erofs", "/usr/local/bin/mkfs.erofs", "/usr/local/sbin/mkfs.erofs"];

/// Files written at once. Each may take as much memory as the jail allows (`jail/confine.rs`).
const AT_ONCE: usize = 2;
/// What a file of few entries takes beyond the size of its layers, and a large one in relation to them: block ends of directories.
const MARGIN_BYTES: u64 = 1 << 20;
const MARGIN_DIVISOR: u64 = 16;
const OPERATION: &str = "merging an image's layers";

/// An image in one file.
#[derive(Clone, Debug)]
pub struct MergedImage {
    /// The file: an erofs, readable by root alone.
    pub path: PathBuf,
    /// Keeps the file from being removed.
    pub used: LayerUse,
}

/// Writes merged images.
#[derive(Debug)]
pub(super) struct Merger {
    root: PathBuf,
    limits: ImageLimits,
    room: Arc<DiskBudget>,
    mkfs: Vec<PathBuf>,
    turns: Turns<PathBuf>,
    places: Arc<Semaphore>,
}

impl Merger {
    /// `mkfs` are the places where the program may be.
    pub(super) fn new(root: PathBuf, limits: ImageLimits, room: Arc<DiskBudget>, mkfs: Vec<PathBuf>) -> Self {
        Self { root, limits, room, mkfs, turns: Turns::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The image's file, written if necessary; `image` keeps the layers meanwhile.
    pub(super) async fn merged(&self, image: &Image) -> Result<MergedImage, RuntimeError> {
        let top = image.layers.last().and_then(|layer| layer.file_name()).and_then(OsStr::to_str);
        let path = layers::merged_path(&self.root, top);
        if let Some(found) = find(&path)? {
            return Ok(found);
        }
        let deadline = Instant::now() + Duration::from_secs(self.limits.seconds_max);
        let turn = permit(self.turns.of(&path), deadline, "waiting for another start that merges the image").await?;
        if let Some(found) = find(&path)? {
            return Ok(found);
        }
        let place = permit(self.places.clone(), deadline, "waiting until other images are merged").await?;
        let mkfs = self.mkfs.iter().find(|program| program.exists()).cloned().ok_or_else(no_mkfs)?;
        let job = Job { image: image.clone(), mkfs, mount_point: self.root.join("jail"), path, room: self.room.clone(), deadline };
        // It continues when the caller is cancelled; so do the permits.
        let made = task::spawn_blocking(move || {
            let _permits = (turn, place);
            job.make()
        });
        made.await.unwrap_or_else(|panicked| Err(disk(OPERATION, io::Error::other(panicked))))
    }
}

async fn permit(from: Arc<Semaphore>, deadline: Instant, operation: &str) -> Result<OwnedSemaphorePermit, RuntimeError> {
    let waited = time::timeout_at(deadline.into(), from.acquire_owned()).await;
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    waited.map_err(|_| late()).and_then(|permit| permit.map_err(io::Error::other)).map_err(|error| disk(operation, error))
}

fn find(path: &Path) -> Result<Option<MergedImage>, RuntimeError> {
    let used = LayerUse::take(path).map_err(|error| disk("looking for a merged image", error))?;
    Ok(used.map(|used| MergedImage { path: path.to_owned(), used }))
}

/// The program that writes merged images.
pub(crate) fn find_mkfs() -> io::Result<PathBuf> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no mkfs.erofs; install erofs-utils");
    MKFS.iter().map(PathBuf::from).find(|program| program.exists()).ok_or_else(missing)
}

fn no_mkfs() -> RuntimeError {
    RuntimeError::Unavailable { operation: "it has no mkfs.erofs (package erofs-utils)".to_owned(), source: None }
}

/// One file to be written.
struct Job {
    image: Image,
    mkfs: PathBuf,
    mount_point: PathBuf,
    path: PathBuf,
    room: Arc<DiskBudget>,
    deadline: Instant,
}

impl Job {
    /// Blocks.
    fn make(&self) -> Result<MergedImage, RuntimeError> {
        let began = Instant::now();
        let bytes_max = self.bytes_max().map_err(|error| disk("measuring an image", error))?;
        let request = Request { least: bytes_max, wanted: bytes_max, most: bytes_max };
        let promised = self.room.promise(request).map_err(|error| disk("make room for a merged image", error))?;
        let promise = promised.ok_or_else(|| {
            tracing::warn!(
                bytes = bytes_max,
                "no room for a merged image: the images that are here are in use (images.disk, CODIUS_IMAGE_DISK), or the disk is full"
            );
            disk("make room for a merged image", io::ErrorKind::StorageFull.into())
        })?;
        let (used, bytes) = self.write(bytes_max).map_err(|error| disk(OPERATION, error))?;
        promise.use_up(bytes);
        tracing::info!(took_ms = began.elapsed().as_millis(), bytes, "image merged");
        Ok(MergedImage { path: self.path.clone(), used })
    }

    /// The most the file can take. A layer's size counts a block for each of its entries, which covers the entry's inode and the end of
    /// its content.
    fn bytes_max(&self) -> io::Result<u64> {
        let layers =
            self.image.layers.iter().try_fold(0, |sum: u64, layer| Ok::<_, io::Error>(sum.saturating_add(layers::size(layer)?)))?;
        Ok(layers.saturating_add(layers / MARGIN_DIVISOR).saturating_add(MARGIN_BYTES))
    }

    fn write(&self, bytes_max: u64) -> io::Result<(LayerUse, u64)> {
        let unfinished = Unfinished::of(&self.path);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished.0)?;
        fchown(&file, Some(jail::UID), Some(jail::UID))?;
        jail::run(&Errand {
            mount_point: &self.mount_point,
            layers: &self.image.layers,
            program: &self.mkfs,
            output: &unfinished.0,
            bytes_max,
            deadline: self.deadline,
        })?;
        fchown(&file, Some(0), Some(0))?;
        rustix::fs::fchmod(&file, Mode::RUSR)?;
        // After a power loss the file is whole, or not there: nobody would notice half of it.
        file.sync_all()?;
        let bytes = file.metadata()?.len().next_multiple_of(ENTRY_BYTES) + ENTRY_BYTES;
        layers::note_size(&unfinished.0, bytes)?;
        let gone = || io::Error::other("it was removed meanwhile");
        let used = LayerUse::take(&unfinished.0)?.ok_or_else(gone)?;
        // A file of that name is about to be removed. Replaced, it would be this one that is.
        rustix::fs::renameat_with(CWD, &unfinished.0, CWD, &self.path, RenameFlags::NOREPLACE)?;
        // Otherwise the name may be gone after a power loss, and the budget with it.
        if let Some(directory) = self.path.parent() {
            fs::File::open(directory)?.sync_all()?;
        }
        Ok((used, bytes))
    }
}
