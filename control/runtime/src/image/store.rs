//! The store of unpacked images.
//!
//! `layers/<chain id>` is a finished layer, `images/<digest>.json` lists an image's layers: an image that was unpacked once needs neither
//! registry nor layout again. `merged/<chain id of the topmost layer>.erofs` is all of an image's layers in one file. `*.tmp` is unfinished
//! and removed at start.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{fs::File, io::AsyncWriteExt, sync::Semaphore, task, time};

use super::{
    Digest, Image, ImageConfig, ImageLimits, ImageRef, ImageSettings,
    describe::{Described, DescribedLayer, describe},
    inspect::{self, Inspections, Outcome},
    manifest::chain_ids,
    merged::{MKFS, MergedImage, Merger},
    platform::Machine,
    source::{Source, disk, refused, unavailable},
    turns::Turns,
    unfinished::{self, Unfinished},
    unpack::{self, Budget, LayerError, UnpackError},
};
use super::{
    disk_budget::{DiskBudget, Request, Reservation},
    layers::{self, LayerUse},
};
use crate::RuntimeError;

/// Upper estimate of the ratio of an image's unpacked size to that of its layers' blobs.
const USUAL_RATIO: u64 = 4;

/// The images of this host; cheap to clone.
#[derive(Clone, Debug)]
pub struct ImageStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    source: Source,
    limits: ImageLimits,
    room: Arc<DiskBudget>,
    pulls: Semaphore,
    inspections: Inspections,
    /// Images being pulled: a second pull waits, and finds the image unpacked.
    turns: Turns<Digest>,
    merger: Merger,
}

/// Version of the records. 1: volumes are among the settings; records without a version are older.
const RECORD_VERSION: u32 = 1;

/// The record of an unpacked image.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(default)]
    version: u32,
    pub(super) layers: Vec<String>,
    settings: ImageSettings,
}

/// An image with a record.
struct Recorded {
    image: Image,
    /// An older release recorded less than is used today: the registry is queried again, and the old record is used while it is
    /// unreachable.
    is_older: bool,
}

impl ImageStore {
    /// Opens (or creates) the directory of images. Blocks.
    pub fn open(config: ImageConfig) -> Result<Self, RuntimeError> {
        Self::open_with(config, MKFS.iter().map(PathBuf::from).collect())
    }

    /// The same; `mkfs` are the places where `mkfs.erofs` may be.
    pub(super) fn open_with(config: ImageConfig, mkfs: Vec<PathBuf>) -> Result<Self, RuntimeError> {
        let prepare = || -> io::Result<(Source, DiskBudget)> {
            for directory in ["", "images", "layers", "blobs", "merged", "jail"] {
                // The set-up of containers runs as an unprivileged user of this machine, which must be able to traverse the directory.
                fs::DirBuilder::new().recursive(true).mode(0o711).create(config.root.join(directory))?;
            }
            for directory in ["layers", "blobs", "images", "merged"] {
                unfinished::remove_all(&config.root.join(directory))?;
            }
            Ok((Source::new(&config)?, DiskBudget::open(config.root.clone(), config.limits.disk_bytes_max)?))
        };
        let (source, room) = prepare().map_err(|error| disk("open the image store", error))?;
        let (limits, pulls) = (config.limits, Semaphore::new(config.limits.pulls_max));
        let (room, inspections) = (Arc::new(room), Inspections::new());
        let merger = Merger::new(config.root.clone(), limits, room.clone(), mkfs);
        Ok(Self(Arc::new(Inner { root: config.root, source, limits, room, pulls, inspections, turns: Turns::default(), merger })))
    }

    /// An image's settings, without downloading its layers; none if its registry doesn't answer in time. Fails if the image can't be run
    /// here, as far as is known.
    pub async fn inspect(&self, image: &str) -> Result<Option<ImageSettings>, RuntimeError> {
        let image = ImageRef::parse(image)?;
        self.0.source.allows(&image)?;
        let older = match self.0.recorded(&image).await {
            Some(Recorded { image: ready, is_older: false }) => return Ok(Some(ready.settings)),
            older => older.map(|older| Some(older.image.settings)),
        };
        let described = match self.0.inspections.known(&image) {
            Some(known) => known.told(&image),
            None if image.is_local() => describe(&self.0.source, &image, Machine::this()).await.map(Some),
            None => self.0.ask(&image).await,
        };
        or_older(described.map(|described| described.map(|described| described.settings)), older)
    }

    /// The image, downloaded and unpacked if necessary.
    pub async fn ensure(&self, image: &str) -> Result<Image, RuntimeError> {
        let image = ImageRef::parse(image)?;
        self.0.source.allows(&image)?;
        if let Some(Recorded { image: ready, is_older: false }) = self.0.recorded(&image).await {
            return Ok(ready);
        }
        let turn = self.0.turns.of(&image.digest);
        let closed = |_| disk("wait for an image", io::Error::other("closed"));
        let _mine = turn.acquire().await.map_err(closed)?;
        let older = match self.0.recorded(&image).await {
            Some(Recorded { image: ready, is_older: false }) => return Ok(ready),
            older => older.map(|older| older.image),
        };
        let _place = self.0.pulls.acquire().await.map_err(closed)?;
        let limit = Duration::from_secs(self.0.limits.seconds_max);
        let pulled = time::timeout(limit, self.0.pull(&image, Instant::now() + limit)).await;
        or_older(pulled.unwrap_or_else(|elapsed| Err(unavailable(&image, "it took too long", elapsed))), older)
    }

    /// The image in one file, written if necessary: what a virtual machine gets as its container's read-only disk.
    pub async fn merged(&self, image: &Image) -> Result<MergedImage, RuntimeError> {
        self.0.merger.merged(image).await
    }
}

/// The result of a query, or the older release's record if the query failed: such an image ran before, and still does.
fn or_older<T>(asked: Result<T, RuntimeError>, older: Option<T>) -> Result<T, RuntimeError> {
    match (asked, older) {
        (Err(error), Some(older)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an image of an older release cannot be pulled again; codiusd uses it as it is"
            );
            Ok(older)
        }
        (asked, _) => asked,
    }
}

impl Inner {
    fn record_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("images").join(digest.hex()).with_extension("json")
    }

    fn layer_path(&self, chain_id: &str) -> PathBuf {
        self.root.join("layers").join(chain_id)
    }

    /// An image that was unpacked before, if all its layers still exist; marks them as used.
    async fn recorded(&self, image: &ImageRef) -> Option<Recorded> {
        let (record, layers) = (self.record_path(&image.digest), self.root.join("layers"));
        task::spawn_blocking(move || recorded(&record, &layers)).await.ok()?
    }

    /// Queries a registry for an image on behalf of an unpaid upload.
    async fn ask(&self, image: &ImageRef) -> Result<Option<Described>, RuntimeError> {
        let Some(_place) = self.inspections.place(!self.source.is_own(image)) else { return Ok(None) };
        let asked = time::timeout(inspect::WITHIN, describe(&self.source, image, Machine::this())).await;
        let outcome = asked.map_or(Outcome::Silence, Outcome::of);
        self.inspections.remember(image, &outcome);
        outcome.told(image)
    }

    async fn pull(&self, image: &ImageRef, deadline: Instant) -> Result<Image, RuntimeError> {
        tracing::info!(image = image.as_str(), "image pull started");
        let known = match self.inspections.known(image) {
            Some(Outcome::Described(described)) => Some(described),
            _ => None,
        };
        let described = match known {
            Some(described) => described,
            None => describe(&self.source, image, Machine::this()).await?,
        };
        let Described { settings, layers } = described;
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        let chain: Vec<String> = chain_ids(&diff_ids).iter().map(Digest::hex).collect();
        let wanted: Vec<Wanted> = layers.into_iter().zip(&chain).map(|(layer, id)| Wanted { layer, path: self.layer_path(id) }).collect();
        // The unpacked size is unknown: reserves a usual size first, then as much as there can be.
        let mut uses = Vec::with_capacity(wanted.len());
        let (likely, most) = self.estimate(&wanted);
        let first = Request { least: likely, wanted: likely, most };
        if !self.pull_layers(image, &wanted, first, deadline, &mut uses).await?
            && !self.pull_layers(image, &wanted, Request { wanted: most, ..first }, deadline, &mut uses).await?
        {
            return Err(no_room(image));
        }
        let written = self.write_down(image, &Record { version: RECORD_VERSION, layers: chain, settings: settings.clone() }).await;
        written.map_err(|error| disk("write down an image", error))?;
        Ok(Image { layers: wanted.into_iter().map(|layer| layer.path).collect(), settings, uses })
    }

    /// The space an image takes, usually and at most, including one layer's download.
    fn estimate(&self, layers: &[Wanted]) -> (u64, u64) {
        let all = layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.layer.blob.bytes_max));
        let largest = layers.iter().map(|layer| layer.layer.blob.bytes_max).max().unwrap_or_default();
        let unpacked = self.limits.unpacked_bytes_max;
        (all.saturating_mul(USUAL_RATIO).min(unpacked).saturating_add(largest), unpacked.saturating_add(largest))
    }

    /// Pulls the missing layers; returns false if their actual size exceeded the reservation.
    async fn pull_layers(
        &self,
        image: &ImageRef,
        layers: &[Wanted],
        request: Request,
        deadline: Instant,
        uses: &mut Vec<LayerUse>,
    ) -> Result<bool, RuntimeError> {
        let room = self.room.clone();
        let promised = task::spawn_blocking(move || room.promise(request)).await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let promise = Arc::new(promised.map_err(|error| disk("make room for an image", error))?.ok_or_else(|| no_room(image))?);
        let largest = layers.iter().map(|layer| layer.layer.blob.bytes_max).max().unwrap_or_default();
        let bytes = promise.granted().saturating_sub(largest);
        let mut budget = Budget::new(&self.limits, bytes, deadline);
        for (index, layer) in layers.iter().enumerate().skip(uses.len()) {
            if let Some(used) = LayerUse::take(&layer.path).map_err(|error| disk("look for a layer", error))? {
                uses.push(used);
                continue;
            }
            let below = layers[..index].iter().map(|layer| layer.path.clone()).collect();
            match self.pull_layer(image, layer, below, budget, promise.clone()).await? {
                Ok((left, used)) => {
                    budget = left;
                    uses.push(used);
                }
                Err(LayerError { error: UnpackError::Size, .. }) if bytes < self.limits.unpacked_bytes_max => return Ok(false),
                Err(LayerError { error: UnpackError::Io(error), .. }) => return Err(disk("unpack a layer", error)),
                Err(other) => return Err(refused(image, &format!("its layer {}: {other}", layer.layer.blob.digest))),
            }
        }
        Ok(true)
    }

    async fn write_down(&self, image: &ImageRef, record: &Record) -> io::Result<()> {
        let path = self.record_path(&image.digest);
        let unfinished = path.with_extension("tmp");
        let mut file = tokio::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished).await?;
        file.write_all(&serde_json::to_vec(record)?).await?;
        file.flush().await?;
        tokio::fs::rename(&unfinished, &path).await
    }

    /// Downloads and unpacks one layer; returns the rest of the image's budget. Inner error: what is wrong with the layer.
    async fn pull_layer(
        &self,
        image: &ImageRef,
        layer: &Wanted,
        below: Vec<PathBuf>,
        budget: Budget,
        promise: Arc<Reservation>,
    ) -> Result<Result<(Budget, LayerUse), LayerError>, RuntimeError> {
        let download =
            Unfinished(self.root.join("blobs").join(format!("{}-{:08x}.tmp", layer.layer.blob.digest.hex(), rand::random::<u32>())));
        let mut file = File::create(&download.0).await.map_err(|error| disk("write a layer", error))?;
        self.source.layer(image, &layer.layer.blob, &mut file).await?;
        drop(file);
        let (path, diff_id) = (layer.path.clone(), layer.layer.diff_id);
        // It continues when the caller is cancelled; so does the reservation of its space.
        let unpacked = task::spawn_blocking(move || {
            let directory = Unfinished::of(&path);
            let before = budget.bytes_left();
            unpack::layer(&download.0, &directory.0, &below, diff_id, &budget)?;
            let bytes = before - budget.bytes_left();
            layers::note_size(&directory.0, bytes)?;
            let gone = || io::Error::other("it was removed meanwhile");
            let used = LayerUse::take(&directory.0)?.ok_or_else(gone)?;
            // Another image with the same layer may have been faster: both have the same content.
            match fs::rename(&directory.0, &path) {
                Ok(()) => {
                    promise.use_up(bytes);
                    Ok((budget, used))
                }
                Err(_) if path.exists() => Ok((budget, LayerUse::take(&path)?.ok_or_else(gone)?)),
                Err(error) => Err(error.into()),
            }
        });
        unpacked.await.map_err(|error| disk("unpack a layer", io::Error::other(error)))
    }
}

/// A layer that is needed.
struct Wanted {
    layer: DescribedLayer,
    path: PathBuf,
}

fn no_room(image: &ImageRef) -> RuntimeError {
    tracing::warn!(
        image = image.as_str(),
        "no room for another image: those that are here are in use (images.disk, CODIUS_IMAGE_DISK), or the disk is full"
    );
    disk("make room for an image", io::ErrorKind::StorageFull.into())
}

fn recorded(record: &Path, layers: &Path) -> Option<Recorded> {
    let file = fs::OpenOptions::new().read(true).write(true).open(record).ok()?;
    let Record { version, layers: chain, settings } = serde_json::from_reader(io::BufReader::new(&file)).ok()?;
    let layers: Vec<PathBuf> = chain.iter().map(|chain_id| layers.join(chain_id)).collect();
    let uses = layers.iter().map(|layer| LayerUse::take(layer).ok()?).collect::<Option<Vec<_>>>()?;
    // Time of last use: the least recently used image is removed first.
    file.set_modified(SystemTime::now()).ok();
    Some(Recorded { image: Image { layers, settings, uses }, is_older: version < RECORD_VERSION })
}
