//! What has been unpacked, and unpacking what hasn't.
//!
//! `layers/<chain id>` is a finished layer, `images/<digest>.json` says which layers an image has: an image that was
//! unpacked once needs neither registry nor layout again. Anything named `*.tmp` is unfinished and removed at start.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{fs::File, io::AsyncWriteExt, sync::Semaphore, task, time};

use super::{
    Digest, Image, ImageConfig, ImageLimits, ImageRef, ImageSettings,
    manifest::{Config, Descriptor, Document, architecture, chain_ids, for_this_machine},
    source::{Source, disk, refused, unavailable},
    unpack::{self, Budget, UnpackError},
};
use super::{
    layers::{self, LayerUse},
    room::{Promise, Room},
};
use crate::RuntimeError;

/// The images of this host; cheap to clone.
#[derive(Clone, Debug)]
pub struct ImageStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    source: Source,
    limits: ImageLimits,
    room: Arc<Room>,
    pulls: Semaphore,
    /// One place for each image that is being pulled: who comes second waits, and finds it done.
    turns: Mutex<HashMap<Digest, Weak<Semaphore>>>,
}

/// What is remembered of an unpacked image.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) layers: Vec<String>,
    settings: ImageSettings,
}

impl ImageStore {
    /// Opens (or makes) the directory of images. Blocks.
    pub fn open(config: ImageConfig) -> Result<Self, RuntimeError> {
        let prepare = || -> io::Result<(Source, Room)> {
            for directory in ["", "images", "layers", "blobs"] {
                // Containers' set-up runs as an unprivileged user of this machine: it must be able to pass through.
                fs::DirBuilder::new().recursive(true).mode(0o711).create(config.root.join(directory))?;
            }
            for directory in ["layers", "blobs", "images"] {
                remove_unfinished(&config.root.join(directory))?;
            }
            Ok((Source::new(&config)?, Room::open(config.root.clone(), config.limits.disk_bytes_max)?))
        };
        let (source, room) = prepare().map_err(|error| disk("open the image store", error))?;
        let (limits, pulls) = (config.limits, Semaphore::new(config.limits.pulls_max));
        Ok(Self(Arc::new(Inner { root: config.root, source, limits, room: Arc::new(room), pulls, turns: Mutex::default() })))
    }

    /// Whether a reference could be run, without downloading anything.
    pub async fn check(&self, image: &str) -> Result<(), RuntimeError> {
        let image = ImageRef::parse(image)?;
        self.0.source.allows(&image)?;
        match self.0.recorded(&image).await {
            Some(_) => Ok(()),
            None => self.0.source.check(&image).await,
        }
    }

    /// The image, downloaded and unpacked if it isn't yet.
    pub async fn ensure(&self, image: &str) -> Result<Image, RuntimeError> {
        let image = ImageRef::parse(image)?;
        self.0.source.allows(&image)?;
        if let Some(ready) = self.0.recorded(&image).await {
            return Ok(ready);
        }
        let turn = self.0.turn(&image.digest);
        let closed = |_| disk("wait for an image", io::Error::other("closed"));
        let _mine = turn.acquire().await.map_err(closed)?;
        if let Some(ready) = self.0.recorded(&image).await {
            return Ok(ready);
        }
        let _place = self.0.pulls.acquire().await.map_err(closed)?;
        let limit = Duration::from_secs(self.0.limits.seconds_max);
        time::timeout(limit, self.0.pull(&image, Instant::now() + limit))
            .await
            .map_err(|elapsed| unavailable(&image, "it took too long", elapsed))?
    }
}

impl Inner {
    fn turn(&self, digest: &Digest) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let known = turns.get(digest).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::new(Semaphore::new(1));
            turns.insert(*digest, Arc::downgrade(&turn));
            turn
        })
    }

    fn record_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("images").join(digest.hex()).with_extension("json")
    }

    fn layer_path(&self, chain_id: &str) -> PathBuf {
        self.root.join("layers").join(chain_id)
    }

    /// An image that was unpacked before, if all its layers are still there; they are in use from now on.
    async fn recorded(&self, image: &ImageRef) -> Option<Image> {
        let (record, layers) = (self.record_path(&image.digest), self.root.join("layers"));
        task::spawn_blocking(move || recorded(&record, &layers)).await.ok()?
    }

    async fn pull(&self, image: &ImageRef, deadline: Instant) -> Result<Image, RuntimeError> {
        tracing::info!(image = image.as_str(), "pulling");
        let mut promise = self.promise(image).await?;
        let (config, blobs) = self.describe(image).await?;
        let diff_ids: Option<Vec<Digest>> = config.rootfs.diff_ids.iter().map(|id| Digest::parse(id)).collect();
        let diff_ids =
            diff_ids.filter(|ids| ids.len() == blobs.len()).ok_or_else(|| refused(image, "its config doesn't fit its layers"))?;
        let chain: Vec<String> = chain_ids(&diff_ids).iter().map(Digest::hex).collect();
        let (mut layers, mut uses) = (Vec::with_capacity(chain.len()), Vec::with_capacity(chain.len()));
        let mut budget = Budget::new(&self.limits, deadline);
        for ((blob, diff_id), chain_id) in blobs.iter().zip(diff_ids).zip(&chain) {
            let path = self.layer_path(chain_id);
            let known = LayerUse::take(&path).map_err(|error| disk("look for a layer", error))?;
            let used = match known {
                Some(used) => used,
                None => {
                    let before = budget.bytes_left();
                    let (left, made, used) = self.pull_layer(image, blob, diff_id, &path, layers.clone(), budget).await?;
                    if made {
                        promise.use_up(before - left.bytes_left());
                    }
                    budget = left;
                    used
                }
            };
            layers.push(path);
            uses.push(used);
        }
        let settings = config.config.unwrap_or_default();
        self.write_down(image, &Record { layers: chain, settings: settings.clone() })
            .await
            .map_err(|error| disk("write down an image", error))?;
        Ok(Image { layers, settings, uses })
    }

    /// Room for the most that an image can be, and for one of its layers on its way here.
    async fn promise(&self, image: &ImageRef) -> Result<Promise, RuntimeError> {
        let (room, bytes) = (self.room.clone(), self.limits.unpacked_bytes_max.saturating_add(self.limits.blob_bytes_max));
        let promised = task::spawn_blocking(move || room.promise(bytes)).await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let promised = promised.map_err(|error| disk("make room for an image", error))?;
        promised.ok_or_else(|| {
            tracing::warn!(
                image = image.as_str(),
                "no room for another image: all that are here are in use (CODIUS_IMAGE_DISK), or the disk is full"
            );
            disk("make room for an image", io::ErrorKind::StorageFull.into())
        })
    }

    async fn write_down(&self, image: &ImageRef, record: &Record) -> io::Result<()> {
        let path = self.record_path(&image.digest);
        let unfinished = path.with_extension("tmp");
        let mut file = tokio::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished).await?;
        file.write_all(&serde_json::to_vec(record)?).await?;
        file.flush().await?;
        tokio::fs::rename(&unfinished, &path).await
    }

    /// The image's config and the digests of its layers' blobs.
    async fn describe(&self, image: &ImageRef) -> Result<(Config, Vec<Digest>), RuntimeError> {
        let unreadable = || refused(image, "its manifest can't be read");
        let mut document = Document::parse(&self.source.manifest(image, &image.digest).await?).ok_or_else(unreadable)?;
        if let Document::Index(manifests) = document {
            let chosen = for_this_machine(&manifests).and_then(Descriptor::digest);
            let chosen = chosen.ok_or_else(|| refused(image, &format!("it has nothing for linux/{}", architecture())))?;
            document = Document::parse(&self.source.manifest(image, &chosen).await?).ok_or_else(unreadable)?;
        }
        let Document::Manifest { config, layers } = document else { return Err(refused(image, "it is an index of indexes")) };
        if layers.len() > self.limits.layers_max {
            return Err(refused(image, &format!("it has more than {} layers", self.limits.layers_max)));
        }
        let download = layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
        if download > self.limits.unpacked_bytes_max || layers.iter().any(|layer| layer.size > self.limits.blob_bytes_max) {
            return Err(refused(image, "it is too large"));
        }
        let blobs: Option<Vec<Digest>> = layers.iter().map(Descriptor::digest).collect();
        let (blobs, config) = blobs.zip(config.digest()).ok_or_else(unreadable)?;
        let config = self.source.json(image, &config).await?;
        let config: Config = serde_json::from_slice(&config).map_err(|_| refused(image, "its config can't be read"))?;
        if config.os != "linux" || config.architecture != architecture() {
            let problem = format!("it is for {}/{}, and this machine is linux/{}", config.os, config.architecture, architecture());
            return Err(refused(image, &problem));
        }
        Ok((config, blobs))
    }

    /// Downloads and unpacks one layer; answers what is left of the image's budget, and whether the layer is new.
    async fn pull_layer(
        &self,
        image: &ImageRef,
        blob: &Digest,
        diff_id: Digest,
        path: &Path,
        below: Vec<PathBuf>,
        budget: Budget,
    ) -> Result<(Budget, bool, LayerUse), RuntimeError> {
        let download = Unfinished(self.root.join("blobs").join(format!("{}-{:08x}.tmp", blob.hex(), rand::random::<u32>())));
        let mut file = File::create(&download.0).await.map_err(|error| disk("write a layer", error))?;
        self.source.layer(image, blob, &mut file).await?;
        drop(file);
        let path = path.to_owned();
        let unpacked = task::spawn_blocking(move || {
            let directory = Unfinished(path.with_extension(format!("{:08x}.tmp", rand::random::<u32>())));
            let before = budget.bytes_left();
            unpack::layer(&download.0, &directory.0, &below, diff_id, &budget)?;
            layers::note_size(&directory.0, before - budget.bytes_left())?;
            let gone = || io::Error::other("it was removed meanwhile");
            let used = LayerUse::take(&directory.0)?.ok_or_else(gone)?;
            // Another image with the same layers may have been faster: both have the same content.
            match fs::rename(&directory.0, &path) {
                Ok(()) => Ok((budget, true, used)),
                Err(_) if path.exists() => Ok((budget, false, LayerUse::take(&path)?.ok_or_else(gone)?)),
                Err(error) => Err(error.into()),
            }
        });
        let outcome = unpacked.await.map_err(|error| disk("unpack a layer", io::Error::other(error)))?;
        outcome.map_err(|error: UnpackError| match error {
            UnpackError::Io(error) => disk("unpack a layer", error),
            other => RuntimeError::ImageRefused { image: image.as_str().to_owned(), reason: other.to_string() },
        })
    }
}

/// A file or directory that goes when this does, unless it has been renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What can't be removed now is removed at the next start.
        let _ = fs::remove_file(&self.0).or_else(|_| fs::remove_dir_all(&self.0));
    }
}

fn recorded(record: &Path, layers: &Path) -> Option<Image> {
    let file = fs::OpenOptions::new().read(true).write(true).open(record).ok()?;
    let Record { layers: chain, settings } = serde_json::from_reader(io::BufReader::new(&file)).ok()?;
    let layers: Vec<PathBuf> = chain.iter().map(|chain_id| layers.join(chain_id)).collect();
    let uses = layers.iter().map(|layer| LayerUse::take(layer).ok()?).collect::<Option<Vec<_>>>()?;
    // When it was used last: who wasn't for longest makes room.
    file.set_modified(SystemTime::now()).ok();
    Some(Image { layers, settings, uses })
}

fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
        }
    }
    Ok(())
}
