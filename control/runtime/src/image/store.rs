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
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{fs::File, io::AsyncWriteExt, sync::Semaphore, task, time};

use super::{
    Digest, Image, ImageConfig, ImageLimits, ImageRef, ImageSettings,
    manifest::{Config, Descriptor, Document, architecture, chain_ids, for_this_machine},
    source::{Source, disk, refused, unavailable},
    unpack::{self, Budget, UnpackError},
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
    pulls: Semaphore,
    /// One place for each image that is being pulled: who comes second waits, and finds it done.
    turns: Mutex<HashMap<Digest, Weak<Semaphore>>>,
}

/// What is remembered of an unpacked image.
#[derive(Serialize, Deserialize)]
struct Record {
    layers: Vec<String>,
    settings: ImageSettings,
}

impl ImageStore {
    /// Opens (or makes) the directory of images. Blocks.
    pub fn open(config: ImageConfig) -> Result<Self, RuntimeError> {
        let prepare = || -> io::Result<()> {
            for directory in ["", "images", "layers", "blobs"] {
                // Containers' set-up runs as an unprivileged user of this machine: it must be able to pass through.
                fs::DirBuilder::new().recursive(true).mode(0o711).create(config.root.join(directory))?;
            }
            for directory in ["layers", "blobs", "images"] {
                remove_unfinished(&config.root.join(directory))?;
            }
            Ok(())
        };
        prepare().map_err(|error| disk("open the image store", error))?;
        let (source, limits) = (Source::new(&config), config.limits);
        let pulls = Semaphore::new(limits.pulls_max);
        Ok(Self(Arc::new(Inner { root: config.root, source, limits, pulls, turns: Mutex::default() })))
    }

    /// Whether a reference could be run, without downloading anything.
    pub async fn check(&self, image: &str) -> Result<(), RuntimeError> {
        let image = ImageRef::parse(image)?;
        match self.0.recorded(&image).await {
            Some(_) => Ok(()),
            None => self.0.source.check(&image).await,
        }
    }

    /// The image, downloaded and unpacked if it isn't yet.
    pub async fn ensure(&self, image: &str) -> Result<Image, RuntimeError> {
        let image = ImageRef::parse(image)?;
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

    /// An image that was unpacked before, if all its layers are still there.
    async fn recorded(&self, image: &ImageRef) -> Option<Image> {
        let bytes = tokio::fs::read(self.record_path(&image.digest)).await.ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let mut layers = Vec::with_capacity(record.layers.len());
        for chain_id in &record.layers {
            let path = self.layer_path(chain_id);
            tokio::fs::metadata(&path).await.ok().filter(std::fs::Metadata::is_dir)?;
            layers.push(path);
        }
        Some(Image { layers, settings: record.settings })
    }

    async fn pull(&self, image: &ImageRef, deadline: Instant) -> Result<Image, RuntimeError> {
        tracing::info!(image = image.as_str(), "pulling");
        let (config, blobs) = self.describe(image).await?;
        let diff_ids: Option<Vec<Digest>> = config.rootfs.diff_ids.iter().map(|id| Digest::parse(id)).collect();
        let diff_ids =
            diff_ids.filter(|ids| ids.len() == blobs.len()).ok_or_else(|| refused(image, "its config doesn't fit its layers"))?;
        let chain: Vec<String> = chain_ids(&diff_ids).iter().map(Digest::hex).collect();
        let mut layers: Vec<PathBuf> = Vec::with_capacity(chain.len());
        let mut budget = Budget::new(&self.limits, deadline);
        for ((blob, diff_id), chain_id) in blobs.iter().zip(diff_ids).zip(&chain) {
            let path = self.layer_path(chain_id);
            if !tokio::fs::try_exists(&path).await.map_err(|error| disk("look for a layer", error))? {
                budget = self.pull_layer(image, blob, diff_id, &path, layers.clone(), budget).await?;
            }
            layers.push(path);
        }
        let settings = config.config.unwrap_or_default();
        let record = Record { layers: chain, settings: settings.clone() };
        let bytes = serde_json::to_vec(&record).map_err(|error| disk("write down an image", io::Error::other(error)))?;
        let path = self.record_path(&image.digest);
        let unfinished = path.with_extension("tmp");
        let mut file = tokio::fs::OpenOptions::new();
        let mut file = file
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .await
            .map_err(|error| disk("write down an image", error))?;
        let written = async {
            file.write_all(&bytes).await?;
            file.flush().await
        };
        written.await.map_err(|error| disk("write down an image", error))?;
        tokio::fs::rename(&unfinished, &path).await.map_err(|error| disk("write down an image", error))?;
        Ok(Image { layers, settings })
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

    /// Downloads and unpacks one layer; answers what is left of the image's budget.
    async fn pull_layer(
        &self,
        image: &ImageRef,
        blob: &Digest,
        diff_id: Digest,
        path: &Path,
        below: Vec<PathBuf>,
        budget: Budget,
    ) -> Result<Budget, RuntimeError> {
        let download = Unfinished(self.root.join("blobs").join(format!("{}-{:08x}.tmp", blob.hex(), rand::random::<u32>())));
        let mut file = File::create(&download.0).await.map_err(|error| disk("write a layer", error))?;
        self.source.layer(image, blob, &mut file).await?;
        drop(file);
        let path = path.to_owned();
        let unpacked = task::spawn_blocking(move || {
            let directory = Unfinished(path.with_extension(format!("{:08x}.tmp", rand::random::<u32>())));
            unpack::layer(&download.0, &directory.0, &below, diff_id, &budget)?;
            // Another image with the same layers may have been faster: both have the same content.
            if !path.exists() {
                fs::rename(&directory.0, &path)?;
            }
            Ok(budget)
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

fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
        }
    }
    Ok(())
}
