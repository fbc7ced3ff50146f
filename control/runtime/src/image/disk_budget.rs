//! The disk space of images, and reclaiming it: the least recently used images are removed first.
//!
//! A pull reserves space before it begins and can't exceed its reservation, so that all pulls together stay below the limit, whatever the
//! images contain. The parts of an image are its layers, and the file of all of them merged. Parts in use ([`super::layers`]) are never
//! removed. An image's record is removed before its parts, and a part is renamed before its content is removed: an interruption leaves only
//! an image that is absent, and leftovers that are removed at the next start.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use super::{layers, store::Record, unfinished};

/// Space always kept free on the host's disk, in bytes: the store and the log must keep working.
const KEPT_FREE_BYTES: u64 = 512 << 20;

/// The directories of parts.
const PARTS: [&str; 2] = ["layers", "merged"];

/// The space for all images.
#[derive(Debug)]
pub(super) struct DiskBudget {
    root: PathBuf,
    limit: u64,
    taken: Mutex<Taken>,
    /// Serialises the removal of images: two pulls at once would remove twice as much.
    making: Mutex<()>,
}

#[derive(Debug)]
struct Taken {
    /// Used by existing parts.
    parts: u64,
    /// Reserved by pulls for what they may still write.
    promised: u64,
}

/// Disk space reserved by a pull; what it didn't use is released when this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    room: Arc<DiskBudget>,
    granted: u64,
    left: AtomicU64,
}

impl Reservation {
    /// The initial reservation, in bytes.
    pub(super) fn granted(&self) -> u64 {
        self.granted
    }

    /// Records that a new part of an image uses some of it.
    pub(super) fn use_up(&self, bytes: u64) {
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(bytes)));
        let mut taken = self.room.taken();
        taken.promised -= bytes.min(before.unwrap_or_default());
        taken.parts += bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.room.taken().promised -= self.left.load(Ordering::SeqCst);
    }
}

/// The space a pull requests, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// The minimum: less is of no use.
    pub(super) least: u64,
    /// Images are removed until this much is free, or only images in use are left.
    pub(super) wanted: u64,
    /// The maximum: more isn't needed.
    pub(super) most: u64,
}

impl DiskBudget {
    /// Measures existing parts. Blocks.
    pub(super) fn open(root: PathBuf, limit: u64) -> io::Result<Self> {
        let mut parts = 0;
        for directory in PARTS {
            for entry in fs::read_dir(root.join(directory))? {
                parts += layers::size(&entry?.path())?;
            }
        }
        Ok(Self { root, limit, taken: Mutex::new(Taken { parts, promised: 0 }), making: Mutex::default() })
    }

    /// Reserves space, removing images if necessary; none if that isn't enough. Blocks.
    pub(super) fn promise(self: &Arc<Self>, request: Request) -> io::Result<Option<Reservation>> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        while self.left()? < request.wanted && self.remove_one()? {}
        let granted = self.left()?.min(request.most);
        if granted < request.least {
            return Ok(None);
        }
        self.taken().promised += granted;
        Ok(Some(Reservation { room: self.clone(), granted, left: AtomicU64::new(granted) }))
    }

    /// Space that can be reserved without removing anything, in bytes.
    fn left(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let taken = self.taken();
        let below_limit = self.limit.saturating_sub(taken.parts).saturating_sub(taken.promised);
        Ok(below_limit.min(free.saturating_sub(KEPT_FREE_BYTES).saturating_sub(taken.promised)))
    }

    /// Removes something unused: leftovers of failed pulls, or else the least recently used image; returns whether there was any.
    fn remove_one(&self) -> io::Result<bool> {
        let mut images = self.images()?;
        images.sort_by_key(|image| image.used);
        let mut needed: BTreeMap<&Path, usize> = BTreeMap::new();
        images.iter().flat_map(|image| &image.parts).for_each(|part| *needed.entry(part).or_default() += 1);
        for directory in PARTS {
            for entry in fs::read_dir(self.root.join(directory))? {
                let path = entry?.path();
                let nobodys = path.extension().is_none_or(|extension| extension != "tmp") && !needed.contains_key(&*path);
                if nobodys && self.remove_part(&path)? {
                    return Ok(true);
                }
            }
        }
        for image in &images {
            let own: Vec<&Path> = image.parts.iter().map(PathBuf::as_path).filter(|part| needed.get(part) == Some(&1)).collect();
            if self.remove_image(image, &own)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes an image, unless one of the parts that only it has is in use.
    fn remove_image(&self, image: &Remembered, own: &[&Path]) -> io::Result<bool> {
        let mut locked = Vec::with_capacity(own.len());
        for part in own.iter().filter(|part| part.exists()) {
            let Some(lock) = layers::unused(part)? else { return Ok(false) };
            locked.push((part, lock));
        }
        tracing::info!(image = %image.record.file_stem().unwrap_or_default().display(), parts = locked.len(), "image removed to free disk space");
        fs::remove_file(&image.record)?;
        for (part, _alone) in locked {
            self.remove_locked(part)?;
        }
        Ok(true)
    }

    /// Removes a part that no image needs, unless it is in use.
    fn remove_part(&self, unwanted: &Path) -> io::Result<bool> {
        let Some(_alone) = layers::unused(unwanted)? else { return Ok(false) };
        self.remove_locked(unwanted)?;
        Ok(true)
    }

    fn remove_locked(&self, part: &Path) -> io::Result<()> {
        let bytes = layers::size(part)?;
        let going = part.with_extension(format!("{:08x}.tmp", rand::random::<u32>()));
        fs::rename(part, &going)?;
        unfinished::remove(&going)?;
        let mut taken = self.taken();
        taken.parts = taken.parts.saturating_sub(bytes);
        Ok(())
    }

    fn images(&self) -> io::Result<Vec<Remembered>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join("images"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let used = fs::metadata(&path)?.modified()?;
            let record = serde_json::from_slice::<Record>(&fs::read(&path)?);
            let parts = record.map(|record| self.parts(&record)).unwrap_or_default();
            found.push(Remembered { record: path, used, parts });
        }
        Ok(found)
    }

    /// The parts an image has, or may have.
    fn parts(&self, record: &Record) -> BTreeSet<PathBuf> {
        let layers = record.layers.iter().map(|layer| self.root.join("layers").join(layer));
        layers.chain([layers::merged_path(&self.root, record.layers.last().map(String::as_str))]).collect()
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An unpacked image.
struct Remembered {
    record: PathBuf,
    used: SystemTime,
    parts: BTreeSet<PathBuf>,
}
