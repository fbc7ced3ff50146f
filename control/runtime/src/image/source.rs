//! Blobs from a registry or an OCI layout, by digest. Every blob is verified before it is returned.

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncWrite, AsyncWriteExt},
};
use tokio_util::io::ReaderStream;

use super::{
    Digest, ImageConfig, ImageLimits, ImageRef, RegistryConfig, layout,
    reference::Name,
    registry::{FetchError, Part, Registries},
};
use crate::RuntimeError;

/// Bytes per read.
const CHUNK: usize = 128 * 1024;

type Chunks = BoxStream<'static, std::io::Result<Bytes>>;

/// A layer's blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    /// The size from the manifest, or else the limit, in bytes.
    pub(super) bytes_max: u64,
    /// The registry may lack the blob: the manifest names other places, which are untrusted and never queried.
    pub(super) elsewhere: bool,
}

/// A source of blobs.
#[derive(Clone)]
pub(super) struct Source {
    registries: Arc<Registries>,
    policy: RegistryConfig,
    layouts: Vec<PathBuf>,
    limits: ImageLimits,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("layouts", &self.layouts).finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn new(config: &ImageConfig) -> io::Result<Self> {
        let registries = Registries::new(config.registries.clone()).map_err(io::Error::other)?;
        let policy = config.registries.clone();
        Ok(Self { registries: Arc::new(registries), policy, layouts: config.layouts.clone(), limits: config.limits })
    }

    pub(super) fn limits(&self) -> &ImageLimits {
        &self.limits
    }

    /// Whether this host runs images from this registry at all, including those already pulled.
    pub(super) fn allows(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        self.policy.check(image)
    }

    /// Whether the operator's settings name its registry as their own.
    pub(super) fn is_own(&self, image: &ImageRef) -> bool {
        let Name::Registry(reference) = image.name() else { return true };
        let registry = reference.resolve_registry();
        self.policy.insecure.iter().chain(&self.policy.private).any(|own| own == registry)
    }

    /// Fetches a manifest or index.
    pub(super) async fn manifest(&self, image: &ImageRef, digest: &Digest) -> Result<Vec<u8>, RuntimeError> {
        match image.name() {
            Name::Local(_) => self.json(image, digest).await,
            Name::Registry(_) => {
                let chunks = self.fetch(image, Part::Manifest, digest).await?;
                self.collect(image, digest, chunks).await
            }
        }
    }

    /// Fetches a small blob: a config, or a manifest in a layout.
    pub(super) async fn json(&self, image: &ImageRef, digest: &Digest) -> Result<Vec<u8>, RuntimeError> {
        let chunks = self.blob(image, digest).await?;
        self.collect(image, digest, chunks).await
    }

    async fn collect(&self, image: &ImageRef, digest: &Digest, chunks: Chunks) -> Result<Vec<u8>, RuntimeError> {
        let mut bytes = Vec::new();
        copy(image, digest, chunks, self.limits.json_bytes_max, &mut bytes).await?;
        Ok(bytes)
    }

    /// Fetches a layer into a file.
    pub(super) async fn layer(&self, image: &ImageRef, layer: &Blob, into: &mut File) -> Result<(), RuntimeError> {
        let chunks = self.blob(image, &layer.digest).await.map_err(|error| {
            if layer.elsewhere && is_missing(&error) {
                refused(image, &format!("its layer {} isn't in the registry but elsewhere, where this host doesn't look", layer.digest))
            } else {
                error
            }
        })?;
        copy(image, &layer.digest, chunks, layer.bytes_max, into).await
    }

    async fn blob(&self, image: &ImageRef, digest: &Digest) -> Result<Chunks, RuntimeError> {
        match image.name() {
            Name::Local(name) => Ok(ReaderStream::with_capacity(self.layout_blob(image, name, digest).await?, CHUNK).boxed()),
            Name::Registry(_) => self.fetch(image, Part::Blob, digest).await,
        }
    }

    async fn fetch(&self, image: &ImageRef, part: Part, digest: &Digest) -> Result<Chunks, RuntimeError> {
        let Name::Registry(reference) = image.name() else { return Err(refused(image, "it isn't of a registry")) };
        let fetched = self.registries.fetch(reference, part, &digest.to_string()).await;
        let response = fetched.map_err(|error| match error {
            FetchError::NotPublic(_) | FetchError::Login | FetchError::Unencrypted => refused(image, &error.to_string()),
            error => unavailable(image, &error.to_string(), error),
        })?;
        Ok(response.bytes_stream().map(|chunk| chunk.map_err(io::Error::other)).boxed())
    }

    async fn layout_blob(&self, image: &ImageRef, name: &str, digest: &Digest) -> Result<File, RuntimeError> {
        for path in self.layouts.iter().flat_map(|layout| layout::blob_paths(layout, name, digest)) {
            if let Ok(file) = File::open(path).await {
                return Ok(file);
            }
        }
        Err(refused(image, "no image layout of this host holds it (images.layouts, CODIUS_IMAGE_LAYOUTS)"))
    }
}

/// Copies a blob, and verifies its size and digest.
async fn copy(
    image: &ImageRef,
    digest: &Digest,
    mut chunks: Chunks,
    max: u64,
    into: &mut (impl AsyncWrite + Unpin),
) -> Result<(), RuntimeError> {
    let (mut hasher, mut length) = (Sha256::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| unavailable(image, &format!("the transfer of its part {digest} broke off"), error))?;
        length += chunk.len() as u64;
        if length > max {
            return Err(refused(image, &format!("its part {digest} is larger than its manifest says, or than parts may be")));
        }
        hasher.update(&chunk);
        into.write_all(&chunk).await.map_err(|error| disk("write an image", error))?;
    }
    into.flush().await.map_err(|error| disk("write an image", error))?;
    if <[u8; 32]>::from(hasher.finalize()) == digest.0 {
        Ok(())
    } else {
        Err(refused(image, &format!("its part {digest} isn't what its digest says")))
    }
}

/// Whether the registry reported that it doesn't have it.
fn is_missing(error: &RuntimeError) -> bool {
    let RuntimeError::ImageUnavailable { source: Some(source), .. } = error else { return false };
    matches!(source.downcast_ref(), Some(FetchError::Status(StatusCode::NOT_FOUND)))
}

pub(super) fn refused(image: &ImageRef, reason: &str) -> RuntimeError {
    RuntimeError::ImageRefused { image: image.as_str().to_owned(), reason: reason.to_owned() }
}

pub(super) fn unavailable(image: &ImageRef, reason: &str, source: impl std::error::Error + Send + Sync + 'static) -> RuntimeError {
    RuntimeError::ImageUnavailable { image: image.as_str().to_owned(), reason: reason.to_owned(), source: Some(Box::new(source)) }
}

/// The same, from a cached reason.
pub(super) fn unavailable_here(image: &ImageRef, reason: &str) -> RuntimeError {
    RuntimeError::ImageUnavailable { image: image.as_str().to_owned(), reason: reason.to_owned(), source: None }
}

/// Classifies an error of the host's disk: a full disk is temporary, anything else is for the operator to fix.
pub(super) fn disk(operation: &str, source: std::io::Error) -> RuntimeError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            RuntimeError::NoRoom { what: "disk space for its image".to_owned(), source: Some(Box::new(source)) }
        }
        _ => RuntimeError::of_io(operation, source),
    }
}
