//! The disk space of images, and reclaiming it: the least recently used images are removed first.
//!
//! A pull reserves space before it begins and can't exceed its reservation, so that all pulls together stay below the limit, whatever the
//! images contain. Layers in use ([`super::layers`]) are never removed. An image's record is removed before its layers, and a layer is
//! renamed before its content is removed: an interruption leaves only an image that is absent, and leftovers that are removed at the next
//! start.

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

use super::{layers, store::Record};

/// Space always kept free on the host's disk, in bytes: the store and the log must keep working.
const KEPT_FREE_BYTES: u64 = 512 << 20;

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
    /// Used by existing layers.
    layers: u64,
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

    /// Records that a new layer uses part of it.
    pub(super) fn use_up(&self, bytes: u64) {
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(bytes)));
        let mut taken = self.room.taken();
        taken.promised -= bytes.min(before.unwrap_or_default());
        taken.layers += bytes;
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
    /// Measures existing layers. Blocks.
    pub(super) fn open(root: PathBuf, limit: u64) -> io::Result<Self> {
        let mut layers = 0;
        for entry in fs::read_dir(root.join("layers"))? {
            layers += layers::size(&entry?.path())?;
        }
        Ok(Self { root, limit, taken: Mutex::new(Taken { layers, promised: 0 }), making: Mutex::default() })
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
        let below_limit = self.limit.saturating_sub(taken.layers).saturating_sub(taken.promised);
        Ok(below_limit.min(free.saturating_sub(KEPT_FREE_BYTES).saturating_sub(taken.promised)))
    }

    /// Removes something unused: leftovers of failed pulls, or else the least recently used image; returns whether there was any.
    fn remove_one(&self) -> io::Result<bool> {
        let mut images = self.images()?;
        images.sort_by_key(|image| image.used);
        let mut needed: BTreeMap<&str, usize> = BTreeMap::new();
        images.iter().flat_map(|image| &image.layers).for_each(|layer| *needed.entry(layer).or_default() += 1);
        for entry in fs::read_dir(self.root.join("layers"))? {
            let name = entry?.file_name();
            let nobodys = name.to_str().is_some_and(|name| !name.ends_with(".tmp") && !needed.contains_key(name));
            if nobodys && self.remove_layers(&[self.root.join("layers").join(name)])? {
                return Ok(true);
            }
        }
        for image in &images {
            let own = image.layers.iter().filter(|layer| needed.get(layer.as_str()) == Some(&1));
            let own: Vec<PathBuf> = own.map(|layer| self.root.join("layers").join(layer)).collect();
            if self.remove_image(image, &own)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes an image, unless one of the layers that only it has is in use.
    fn remove_image(&self, image: &Remembered, own: &[PathBuf]) -> io::Result<bool> {
        let mut locked = Vec::with_capacity(own.len());
        for layer in own.iter().filter(|layer| layer.exists()) {
            let Some(lock) = layers::unused(layer)? else { return Ok(false) };
            locked.push((layer, lock));
        }
        tracing::info!(image = %image.record.file_stem().unwrap_or_default().display(), layers = locked.len(), "image removed to free disk space");
        fs::remove_file(&image.record)?;
        for (layer, _alone) in locked {
            self.remove_locked(layer)?;
        }
        Ok(true)
    }

    fn remove_layers(&self, unwanted: &[PathBuf]) -> io::Result<bool> {
        let mut removed = false;
        for layer in unwanted {
            if let Some(_alone) = layers::unused(layer)? {
                self.remove_locked(layer)?;
                removed = true;
            }
        }
        Ok(removed)
    }

    fn remove_locked(&self, layer: &Path) -> io::Result<()> {
        let bytes = layers::size(layer)?;
        let going = layer.with_extension(format!("{:08x}.tmp", rand::random::<u32>()));
        fs::rename(layer, &going)?;
        fs::remove_dir_all(&going)?;
        let mut taken = self.taken();
        taken.layers = taken.layers.saturating_sub(bytes);
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
            let layers = record.map(|record| record.layers.into_iter().collect()).unwrap_or_default();
            found.push(Remembered { record: path, used, layers });
        }
        Ok(found)
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An unpacked image.
struct Remembered {
    record: PathBuf,
    used: SystemTime,
    layers: BTreeSet<String>,
}
