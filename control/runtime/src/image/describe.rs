//! From a digest to the image to run: through indexes, nested indexes and their other entries, to one manifest and its config. All of these
//! are small, so they can be read before anything is paid.

use std::collections::{BTreeSet, HashSet};

use super::{
    Digest, ImageRef, ImageSettings,
    manifest::{Config, Descriptor, Document, Leads, Manifest},
    platform::Machine,
    source::{Blob, Source, refused},
};
use crate::RuntimeError;

/// Maximum nesting of indexes.
const DEPTH_MAX: usize = 4;
/// Maximum number of indexes, manifests and configs read for one image.
const DOCUMENTS_MAX: usize = 32;
/// Maximum number of platforms named when none of them is this machine's.
const NAMED_MAX: usize = 16;

/// An image, without the content of its layers.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub(super) settings: ImageSettings,
    /// Lowest first.
    pub(super) layers: Vec<DescribedLayer>,
}

/// A layer's blob, and its digest when unpacked.
#[derive(Clone, Copy, Debug)]
pub(super) struct DescribedLayer {
    pub(super) blob: Blob,
    pub(super) diff_id: Digest,
}

/// Resolves `image` for `machine`.
pub(super) async fn describe(source: &Source, image: &ImageRef, machine: Machine) -> Result<Described, RuntimeError> {
    let bytes_left = source.limits().json_bytes_max.saturating_mul(2);
    let mut walk = Walk { source, image, machine, seen: HashSet::new(), bytes_left, others: BTreeSet::new() };
    let (manifest, config) = walk.find().await?;
    walk.layers(&manifest, config)
}

/// The traversal of one image's documents.
struct Walk<'a> {
    source: &'a Source,
    image: &'a ImageRef,
    machine: Machine,
    seen: HashSet<Digest>,
    bytes_left: u64,
    /// Platforms of the image other than this machine's.
    others: BTreeSet<String>,
}

impl Walk<'_> {
    async fn find(&mut self) -> Result<(Manifest, Config), RuntimeError> {
        let mut level = match self.document(self.image.digest).await? {
            Document::Manifest(manifest) => {
                if let Some(artifact) = manifest.artifact() {
                    return Err(self.refused(&format!("it isn't an image but an artifact ({artifact})")));
                }
                let config = self.config(&manifest).await?;
                if self.machine.rank(&config.platform).is_none() {
                    return Err(self.refused(&format!("it is for {}, and this machine is {}", config.platform, self.machine)));
                }
                return Ok((*manifest, config));
            }
            Document::Index(entries) => entries,
        };
        for _ in 0..DEPTH_MAX {
            let (images, indexes) = self.sort(level);
            level = Vec::new();
            for entry in images {
                match self.follow(&entry).await? {
                    Some(Document::Manifest(manifest)) if manifest.artifact().is_none() => {
                        let config = self.config(&manifest).await?;
                        if self.machine.rank(&config.platform).is_some() {
                            return Ok((*manifest, config));
                        }
                        self.others.insert(config.platform.to_string());
                    }
                    Some(Document::Index(entries)) => level.extend(entries),
                    Some(Document::Manifest(_)) | None => {}
                }
            }
            for entry in indexes {
                if let Some(Document::Index(entries)) = self.follow(&entry).await? {
                    level.extend(entries);
                }
            }
            if level.is_empty() {
                return Err(self.nothing_here());
            }
        }
        Err(self.refused(&format!("it is an index of indexes, more than {DEPTH_MAX} deep")))
    }

    /// Entries that may be for this machine: images, the best match first and those without a platform last; and indexes.
    fn sort(&mut self, entries: Vec<Descriptor>) -> (Vec<Descriptor>, Vec<Descriptor>) {
        let (mut images, mut indexes) = (Vec::new(), Vec::new());
        for entry in entries {
            let Some(leads) = entry.leads() else { continue };
            let rank = match &entry.platform {
                Some(platform) => match self.machine.rank(platform) {
                    Some(rank) => rank,
                    None => {
                        self.others.insert(platform.to_string());
                        continue;
                    }
                },
                None => 0,
            };
            match leads {
                Leads::ToIndex => indexes.push(entry),
                Leads::ToManifest | Leads::Somewhere => images.push((rank, entry)),
            }
        }
        images.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        (images.into_iter().map(|(_, entry)| entry).collect(), indexes)
    }

    /// The document of an entry; none if it was read before, or has an unsupported kind of digest.
    async fn follow(&mut self, entry: &Descriptor) -> Result<Option<Document>, RuntimeError> {
        match entry.digest() {
            Some(digest) if !self.seen.contains(&digest) => self.document(digest).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn document(&mut self, digest: Digest) -> Result<Document, RuntimeError> {
        self.count(digest)?;
        let bytes = self.source.manifest(self.image, &digest).await?;
        self.charge(&bytes)?;
        Document::parse(&bytes).map_err(|error| self.refused(&error.to_string()))
    }

    async fn config(&mut self, manifest: &Manifest) -> Result<Config, RuntimeError> {
        let digest = manifest.config.digest().ok_or_else(|| self.unknown_digest(&manifest.config.digest))?;
        self.count(digest)?;
        let bytes = self.source.json(self.image, &digest).await?;
        self.charge(&bytes)?;
        serde_json::from_slice(&bytes).map_err(|_| self.refused("its config can't be read"))
    }

    fn count(&mut self, digest: Digest) -> Result<(), RuntimeError> {
        self.seen.insert(digest);
        if self.seen.len() > DOCUMENTS_MAX { Err(self.refused("it is an index of too many parts")) } else { Ok(()) }
    }

    fn charge(&mut self, bytes: &[u8]) -> Result<(), RuntimeError> {
        let left = self.bytes_left.checked_sub(bytes.len() as u64);
        self.bytes_left = left.ok_or_else(|| self.refused("its manifests are too large"))?;
        Ok(())
    }

    fn layers(&self, manifest: &Manifest, config: Config) -> Result<Described, RuntimeError> {
        let limits = self.source.limits();
        let (count, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids);
        match () {
            () if count == 0 => return Err(self.refused("it has no layers, so there is nothing to run")),
            () if count > limits.layers_max => return Err(self.refused(&format!("it has more than {} layers", limits.layers_max))),
            () if count != diff_ids.len() => {
                return Err(self.refused(&format!("its config is of {} layers, and its manifest has {count}", diff_ids.len())));
            }
            () => {}
        }
        let layer = |(layer, diff_id): (&Descriptor, &String)| {
            if let Some(fault) = layer.layer_fault() {
                return Err(self.refused(&fault));
            }
            if layer.size > limits.blob_bytes_max {
                return Err(self.refused(&format!("its layer {} is too large", layer.digest)));
            }
            let digest = layer.digest().ok_or_else(|| self.unknown_digest(&layer.digest))?;
            let diff_id = Digest::parse(diff_id).ok_or_else(|| self.unknown_digest(diff_id))?;
            let bytes_max = if layer.size == 0 { limits.blob_bytes_max } else { layer.size };
            Ok(DescribedLayer { blob: Blob { digest, bytes_max, elsewhere: layer.is_elsewhere() }, diff_id })
        };
        let layers = manifest.layers.iter().zip(&diff_ids).map(layer).collect::<Result<_, _>>()?;
        Ok(Described { settings: config.config.unwrap_or_default(), layers })
    }

    fn nothing_here(&self) -> RuntimeError {
        let others: Vec<&str> = self.others.iter().take(NAMED_MAX).map(String::as_str).collect();
        let others = if others.is_empty() { "it has no images at all".to_owned() } else { format!("it is for {}", others.join(", ")) };
        self.refused(&format!("it has nothing for {}: {others}", self.machine))
    }

    fn unknown_digest(&self, digest: &str) -> RuntimeError {
        let digest: String = digest.chars().take(160).collect();
        self.refused(&format!("a part of it has the digest {digest:?}, which isn't sha256: and 64 hex digits"))
    }

    fn refused(&self, reason: &str) -> RuntimeError {
        refused(self.image, reason)
    }
}
