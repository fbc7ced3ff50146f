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
//! | `registry`, `address` | what strangers' registries may make this host do |
//! | `layout` | OCI layouts: finding images in them, writing one |
//! | `manifest` | the JSON of manifests and configs |
//! | `platform` | which machines an image is for |
//! | `decode` | the decoders by themselves, for the fuzzer |
//! | `describe` | from a digest, through indexes, to one manifest and its config |
//! | `inspect` | what can be said of an image before it is paid for, and how often registries are asked |
//! | `store` | what has been unpacked, and unpacking what hasn't |
//! | `layers`, `room` | who uses a layer, how much there may be, and what goes first |
//! | `unpack` | one layer's tar into a directory, whatever it holds |
//! | `process` | image config and pod spec together: what is run, as whom |

mod address;
pub mod decode;
mod describe;
mod inspect;
mod layers;
pub mod layout;
mod manifest;
mod platform;
mod process;
mod reference;
mod registry;
mod room;
mod source;
mod store;
mod unpack;

use std::path::PathBuf;

use base64::Engine as _;

use crate::{ContainerSpec, RuntimeError};

pub use layers::LayerUse;
pub use manifest::ImageSettings;
pub use process::{Process, process_of};
pub use reference::ImageRef;
use reference::Name;
pub use store::ImageStore;

/// Where images are kept and looked for.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// Directory of unpacked layers.
    pub root: PathBuf,
    /// Directories that are OCI layouts, or hold some by name.
    pub layouts: Vec<PathBuf>,
    /// Registries.
    pub registries: RegistryConfig,
    /// How large images may be.
    pub limits: ImageLimits,
}

/// Which registries are used, and how. Entries are `host`, or `host:port` if the port isn't the usual one.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// The only ones, if there are any; `host/path` stands for all below.
    pub allow: Vec<String>,
    /// Never these; `host/path` stands for all below.
    pub deny: Vec<String>,
    /// Spoken to without TLS, wherever they are.
    pub insecure: Vec<String>,
    /// May be at addresses that aren't of the internet.
    pub private: Vec<String>,
    /// Logins; any image that they open can be run by anybody who pays.
    pub credentials: Vec<RegistryCredential>,
}

impl RegistryConfig {
    /// Whether images from there are run at all.
    pub(crate) fn check(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        let Name::Registry(reference) = image.name() else { return Ok(()) };
        let refusal = self.refusal(reference.registry(), reference.repository());
        refusal.map_or(Ok(()), |reason| Err(RuntimeError::ReferenceRefused { image: image.as_str().to_owned(), reason: reason.to_owned() }))
    }

    /// Why images of this repository aren't run here, if they aren't.
    fn refusal(&self, registry: &str, repository: &str) -> Option<&'static str> {
        // One registry has many spellings; lists have one.
        let registry = registry.to_ascii_lowercase();
        let full = format!("{}/{repository}", registry.strip_suffix(":443").unwrap_or(&registry));
        let named = |list: &[String]| {
            list.iter().any(|entry| full.strip_prefix(&**entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        };
        match self {
            _ if named(&self.deny) => Some("this host runs no images of that registry (CODIUS_REGISTRIES_DENY)"),
            _ if !self.allow.is_empty() && !named(&self.allow) => {
                Some("this host runs images of some registries only, and that isn't one of them (CODIUS_REGISTRIES_ALLOW)")
            }
            _ => None,
        }
    }
}

/// A login.
#[derive(Clone)]
pub struct RegistryCredential {
    /// Where it is for.
    pub registry: String,
    /// Who we are.
    pub username: String,
    /// How we show it.
    pub password: String,
}

impl RegistryCredential {
    fn basic(&self) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }
}

impl std::fmt::Debug for RegistryCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryCredential").field("registry", &self.registry).finish_non_exhaustive()
    }
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
    /// All images on this host together, in bytes; those that weren't used for longest make room.
    pub disk_bytes_max: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        const GIB: u64 = 1024 * 1024 * 1024;
        Self {
            json_bytes_max: 4 * 1024 * 1024,
            layers_max: 127,
            blob_bytes_max: 2 * GIB,
            unpacked_bytes_max: 4 * GIB,
            entries_max: 500_000,
            seconds_max: 600,
            pulls_max: 4,
            disk_bytes_max: 40 * GIB,
        }
    }
}

/// Whether what an image says of itself and what is asked of it go together, as far as that shows without its layers: who its user
/// is does not.
pub(crate) fn check(settings: &ImageSettings, spec: &ContainerSpec) -> Result<(), RuntimeError> {
    process_of(settings, spec).map(drop)
}

/// An unpacked image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Directories of its layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// What it says of itself.
    pub settings: ImageSettings,
    /// Keep the layers where they are.
    pub uses: Vec<LayerUse>,
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
