//! Blobs from a registry or an OCI layout, by digest. Nothing leaves this room unchecked.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use oci_client::{
    Client,
    client::{ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncWrite, AsyncWriteExt},
};
use tokio_util::io::ReaderStream;

use super::{Digest, ImageConfig, ImageLimits, ImageRef, layout, manifest::ACCEPTED, reference::Name};
use crate::RuntimeError;

/// How long a registry may take to accept a connection, and between two reads.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes read at once.
const CHUNK: usize = 128 * 1024;

type Chunks = BoxStream<'static, std::io::Result<Bytes>>;

/// Where blobs come from.
#[derive(Clone)]
pub(super) struct Source {
    registries: Client,
    layouts: Vec<PathBuf>,
    limits: ImageLimits,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("layouts", &self.layouts).finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn new(config: &ImageConfig) -> Self {
        // Whoever links this may have chosen a provider before; any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registries = Client::new(ClientConfig {
            protocol: ClientProtocol::HttpsExcept(config.insecure_registries.clone()),
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            ..ClientConfig::default()
        });
        Self { registries, layouts: config.layouts.clone(), limits: config.limits }
    }

    /// Whether a local image is there; an image of a registry is only known to be when it is pulled.
    pub(super) async fn check(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        match image.name() {
            Name::Registry(_) => Ok(()),
            Name::Local(name) => self.layout_blob(image, name, &image.digest).await.map(|_| ()),
        }
    }

    /// A manifest or index.
    pub(super) async fn manifest(&self, image: &ImageRef, digest: &Digest) -> Result<Vec<u8>, RuntimeError> {
        match image.name() {
            Name::Local(_) => self.json(image, digest).await,
            Name::Registry(reference) => {
                let by_digest = reference.clone_with_digest(digest.to_string());
                let pulled = self.registries.pull_manifest_raw(&by_digest, &RegistryAuth::Anonymous, ACCEPTED).await;
                let (bytes, _) = pulled.map_err(|error| unavailable(image, "the registry doesn't give its manifest", error))?;
                let chunks = futures::stream::iter([Ok(bytes)]).boxed();
                self.collect(image, digest, chunks).await
            }
        }
    }

    /// A small blob: a config, or a manifest in a layout.
    pub(super) async fn json(&self, image: &ImageRef, digest: &Digest) -> Result<Vec<u8>, RuntimeError> {
        let chunks = self.blob(image, digest).await?;
        self.collect(image, digest, chunks).await
    }

    async fn collect(&self, image: &ImageRef, digest: &Digest, chunks: Chunks) -> Result<Vec<u8>, RuntimeError> {
        let mut bytes = Vec::new();
        copy(image, digest, chunks, self.limits.json_bytes_max, &mut bytes).await?;
        Ok(bytes)
    }

    /// A layer, into a file.
    pub(super) async fn layer(&self, image: &ImageRef, digest: &Digest, into: &mut File) -> Result<(), RuntimeError> {
        let chunks = self.blob(image, digest).await?;
        copy(image, digest, chunks, self.limits.blob_bytes_max, into).await
    }

    async fn blob(&self, image: &ImageRef, digest: &Digest) -> Result<Chunks, RuntimeError> {
        match image.name() {
            Name::Local(name) => Ok(ReaderStream::with_capacity(self.layout_blob(image, name, digest).await?, CHUNK).boxed()),
            Name::Registry(reference) => {
                let stream = self.registries.pull_blob_stream(reference, digest.to_string().as_str()).await;
                Ok(stream.map_err(|error| unavailable(image, "the registry doesn't give a part of it", error))?.stream)
            }
        }
    }

    async fn layout_blob(&self, image: &ImageRef, name: &str, digest: &Digest) -> Result<File, RuntimeError> {
        for path in self.layouts.iter().flat_map(|layout| layout::blob_paths(layout, name, digest)) {
            if let Ok(file) = File::open(path).await {
                return Ok(file);
            }
        }
        Err(refused(image, "no image layout of this host holds it (CODIUS_IMAGE_LAYOUTS)"))
    }
}

/// Copies a blob, and checks its size and digest.
async fn copy(
    image: &ImageRef,
    digest: &Digest,
    mut chunks: Chunks,
    max: u64,
    into: &mut (impl AsyncWrite + Unpin),
) -> Result<(), RuntimeError> {
    let (mut hasher, mut length) = (Sha256::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| unavailable(image, "the transfer of a part of it broke off", error))?;
        length += chunk.len() as u64;
        if length > max {
            return Err(refused(image, "a part of it is too large"));
        }
        hasher.update(&chunk);
        into.write_all(&chunk).await.map_err(|error| disk("write an image", error))?;
    }
    into.flush().await.map_err(|error| disk("write an image", error))?;
    if <[u8; 32]>::from(hasher.finalize()) == digest.0 { Ok(()) } else { Err(refused(image, "a part of it isn't what its digest says")) }
}

pub(super) fn refused(image: &ImageRef, reason: &str) -> RuntimeError {
    RuntimeError::ImageRefused { image: image.as_str().to_owned(), reason: reason.to_owned() }
}

pub(super) fn unavailable(image: &ImageRef, reason: &str, source: impl std::error::Error + Send + Sync + 'static) -> RuntimeError {
    RuntimeError::ImageUnavailable { image: image.as_str().to_owned(), reason: reason.to_owned(), source: Some(Box::new(source)) }
}

pub(super) fn disk(operation: &str, source: std::io::Error) -> RuntimeError {
    RuntimeError::Unavailable { operation: operation.to_owned(), source: Some(Box::new(source)) }
}
