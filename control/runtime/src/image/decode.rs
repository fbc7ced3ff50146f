//! The decoders of untrusted images, alone: what `tests/fuzz` feeds.

use super::{
    manifest::{Config, Document},
    unpack,
};

/// Reads an archive to its end, and returns the size of its files without holes, in bytes; none if it can't be read.
pub fn archive(bytes: &[u8]) -> Option<u64> {
    unpack::content_of(bytes)
}

/// Whether a manifest or index can be read, including the parts that would be used.
pub fn manifest(bytes: &[u8]) -> bool {
    match Document::parse(bytes) {
        Ok(Document::Index(entries)) => entries.iter().any(|entry| entry.leads().is_some() && entry.digest().is_some()),
        Ok(Document::Manifest(manifest)) => {
            manifest.artifact().is_none() && manifest.layers.iter().all(|layer| layer.layer_fault().is_none())
        }
        Err(_) => false,
    }
}

/// Whether the config of an image can be read.
pub fn config(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Config>(bytes).is_ok()
}
