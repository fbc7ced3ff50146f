//! From an image reference to verified, unpacked layers, and to what is run of them.
//!
//! ```text
//! reference -> manifest (registry or layout, digest checked) -> config -> layers, lowest first:
//!     blob (digest checked) -> tar (diff_id checked) -> LAYERS/<chain id>.tmp -> rename
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | `reference` | what an image may be called |
//! | `source` | blobs from a registry or an OCI layout, by digest |
//! | `layout` | OCI layouts: finding images in them, writing one |
//! | `manifest` | the JSON of manifests and configs |
//! | `store` | what has been unpacked, and unpacking what hasn't |
//! | `unpack` | one layer's tar into a directory, whatever it holds |
//! | `process` | image config and pod spec together: what is run, as whom |

pub mod layout;
mod manifest;
mod process;
mod reference;
mod source;
mod store;
mod unpack;

use std::path::PathBuf;

pub use manifest::ImageSettings;
pub use process::{Process, process_of};
pub use reference::ImageRef;
pub use store::ImageStore;

/// Where images are kept and looked for.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// Directory of unpacked layers.
    pub root: PathBuf,
    /// Directories that are OCI layouts, or hold some by name.
    pub layouts: Vec<PathBuf>,
    /// Registries spoken to without TLS, as `host:port`.
    pub insecure_registries: Vec<String>,
    /// How large images may be.
    pub limits: ImageLimits,
}

/// How large images may be, and how long they may take.
#[derive(Clone, Copy, Debug)]
pub struct ImageLimits {
    /// A manifest or config, in bytes.
    pub json_bytes_max: u64,
    /// Layers of one image.
    pub layers_max: usize,
    /// A layer as it is downloaded, in bytes.
    pub blob_bytes_max: u64,
    /// All layers of an image together when they are unpacked, in bytes.
    pub unpacked_bytes_max: u64,
    /// Files, directories and links of all layers of an image.
    pub entries_max: u64,
    /// Downloading and unpacking one image, in seconds.
    pub seconds_max: u64,
    /// Images downloaded at once; more wait.
    pub pulls_max: usize,
}

impl Default for ImageLimits {
    fn default() -> Self {
        const GIB: u64 = 1024 * 1024 * 1024;
        Self {
            json_bytes_max: 4 * 1024 * 1024,
            layers_max: 127,
            blob_bytes_max: 2 * GIB,
            unpacked_bytes_max: 8 * GIB,
            entries_max: 500_000,
            seconds_max: 600,
            pulls_max: 4,
        }
    }
}

/// An unpacked image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Directories of its layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// What it says of itself.
    pub settings: ImageSettings,
}

/// SHA-256 of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let lower = hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        hex::decode(hex).ok().filter(|_| lower)?.try_into().ok().map(Self)
    }

    fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

#[cfg(test)]
mod tests;
