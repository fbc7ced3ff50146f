//! The room images take on this host's disk, and making some: the images that weren't used for longest go first.
//!
//! A pull is promised room before it begins and gets no further than that, so that all of them together stay below the limit,
//! whatever the images hold. Never removed is what is in use ([`super::layers`]). An image's record goes before its layers, a layer by
//! a rename before its content: whatever is interrupted is an image that isn't there, and leftovers that go at the next start.

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

/// What is always left of the host's disk, in bytes: the store and the log have to go on.
const KEPT_FREE_BYTES: u64 = 512 << 20;

/// All room for images.
#[derive(Debug)]
pub(super) struct Room {
    root: PathBuf,
    limit: u64,
    taken: Mutex<Taken>,
    /// One at a time makes room: two would remove twice as much.
    making: Mutex<()>,
}

#[derive(Debug)]
struct Taken {
    /// By layers that are there.
    layers: u64,
    /// By pulls, for what they may still write.
    promised: u64,
}

/// Room promised to a pull; what it didn't use is given back with this.
#[derive(Debug)]
pub(super) struct Promise {
    room: Arc<Room>,
    granted: u64,
    left: AtomicU64,
}

impl Promise {
    /// How much it was to begin with, in bytes.
    pub(super) fn granted(&self) -> u64 {
        self.granted
    }

    /// A layer has been made of some of it.
    pub(super) fn use_up(&self, bytes: u64) {
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(bytes)));
        let mut taken = self.room.taken();
        taken.promised -= bytes.min(before.unwrap_or_default());
        taken.layers += bytes;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.room.taken().promised -= self.left.load(Ordering::SeqCst);
    }
}

/// What a pull asks for, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// Less is of no use.
    pub(super) least: u64,
    /// Images are removed until there is this much, or none are left that nobody uses.
    pub(super) wanted: u64,
    /// More isn't needed.
    pub(super) most: u64,
}

impl Room {
    /// Looks at what is there. Blocks.
    pub(super) fn open(root: PathBuf, limit: u64) -> io::Result<Self> {
        let mut layers = 0;
        for entry in fs::read_dir(root.join("layers"))? {
            layers += layers::size(&entry?.path())?;
        }
        Ok(Self { root, limit, taken: Mutex::new(Taken { layers, promised: 0 }), making: Mutex::default() })
    }

    /// Promises room, removing images for it if it must; none if that isn't enough. Blocks.
    pub(super) fn promise(self: &Arc<Self>, request: Request) -> io::Result<Option<Promise>> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        while self.left()? < request.wanted && self.remove_one()? {}
        let granted = self.left()?.min(request.most);
        if granted < request.least {
            return Ok(None);
        }
        self.taken().promised += granted;
        Ok(Some(Promise { room: self.clone(), granted, left: AtomicU64::new(granted) }))
    }

    /// What may be promised without removing anything, in bytes.
    fn left(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let taken = self.taken();
        let below_limit = self.limit.saturating_sub(taken.layers).saturating_sub(taken.promised);
        Ok(below_limit.min(free.saturating_sub(KEPT_FREE_BYTES).saturating_sub(taken.promised)))
    }

    /// Removes what nobody needs: remains of failed pulls, or else the image that wasn't used for longest; answers whether
    /// there was any.
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
        tracing::info!(image = %image.record.file_stem().unwrap_or_default().display(), layers = locked.len(), "removing an image for room");
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

/// An image that was unpacked.
struct Remembered {
    record: PathBuf,
    used: SystemTime,
    layers: BTreeSet<String>,
}
