//! From an image reference to verified, unpacked layers and the process to run.
//!
//! ```text
//! reference -> manifest (registry or layout, digest checked) -> config -> layers, lowest first:
//!     blob (digest checked) -> tar (diff_id checked) -> LAYERS/<chain id>.tmp -> rename
//! layers -> overlay -> mkfs.erofs, jailed -> MERGED/<chain id>.tmp -> rename      (for virtual machines)
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `reference` | image references |
//! | `source` | blobs from a registry or an OCI layout, by digest |
//! | `registry`, `address` | what untrusted registries may make this host do |
//! | `layout` | OCI layouts: finding images in them, writing one |
//! | `manifest` | the JSON of manifests and configs |
//! | `platform` | platforms of images and of this machine |
//! | `decode` | the decoders alone, for the fuzzer |
//! | `describe` | from a digest, through indexes, to one manifest and its config |
//! | `inspect` | what is known of an image before it is paid for, and the rate limit on registries |
//! | `store` | unpacked images, and unpacking new ones |
//! | `merged` | all layers of an image in one read-only file |
//! | `jail` | the process that writes that file, and what it can reach |
//! | `layers`, `disk_budget` | the use of layers and merged files, the limit on their disk space, and which images are removed first |
//! | `turns`, `unfinished` | work done once for all who ask, and files that aren't complete yet |
//! | `unpack` | unpacking a layer's untrusted tar into a directory |
//! | `process` | image config and pod spec merged: the command, and its user |

mod address;
pub mod decode;
mod describe;
mod disk_budget;
mod inspect;
mod jail;
mod layers;
pub mod layout;
mod manifest;
mod merged;
mod platform;
mod process;
mod reference;
mod registry;
mod source;
mod store;
mod turns;
mod unfinished;
mod unpack;

use std::path::PathBuf;

use base64::Engine as _;

use crate::{ContainerSpec, RuntimeError};

pub use layers::LayerUse;
pub use manifest::ImageSettings;
pub use merged::MergedImage;
pub(crate) use merged::find_mkfs;
pub use process::{Process, process_of};
pub use reference::ImageRef;
use reference::Name;
pub use store::ImageStore;

/// Where images are stored and found.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// Directory of unpacked layers.
    pub root: PathBuf,
    /// Directories that are OCI layouts, or contain some by name.
    pub layouts: Vec<PathBuf>,
    /// Registries.
    pub registries: RegistryConfig,
    /// Limits on images.
    pub limits: ImageLimits,
}

/// Which registries are used, and how. Entries are `host`, or `host:port` if the port isn't the default.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// If not empty, the only registries allowed; `host/path` covers everything below it.
    pub allow: Vec<String>,
    /// Registries never used; `host/path` covers everything below it.
    pub deny: Vec<String>,
    /// Registries used without TLS, at any address.
    pub insecure: Vec<String>,
    /// Registries that may be at addresses outside the public internet.
    pub private: Vec<String>,
    /// Logins; anybody who pays can run any image that they give access to.
    pub credentials: Vec<RegistryCredential>,
}

impl RegistryConfig {
    /// Fails if images from this registry aren't run.
    pub(crate) fn check(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        let Name::Registry(reference) = image.name() else { return Ok(()) };
        let refusal = self.refusal(reference.registry(), reference.repository());
        refusal.map_or(Ok(()), |reason| Err(RuntimeError::ReferenceRefused { image: image.as_str().to_owned(), reason: reason.to_owned() }))
    }

    /// Why images of this repository are refused here, if they are.
    fn refusal(&self, registry: &str, repository: &str) -> Option<&'static str> {
        // A registry's name has many spellings; the lists use lower case.
        let registry = registry.to_ascii_lowercase();
        let full = format!("{}/{repository}", registry.strip_suffix(":443").unwrap_or(&registry));
        let named = |list: &[String]| {
            list.iter().any(|entry| full.strip_prefix(&**entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        };
        match self {
            _ if named(&self.deny) => Some("this host runs no images of that registry (images.deny, CODIUS_REGISTRIES_DENY)"),
            _ if !self.allow.is_empty() && !named(&self.allow) => {
                Some("this host runs images of some registries only, and that isn't one of them (images.allow, CODIUS_REGISTRIES_ALLOW)")
            }
            _ => None,
        }
    }
}

/// A registry login.
#[derive(Clone)]
pub struct RegistryCredential {
    /// The registry.
    pub registry: String,
    /// The user name.
    pub username: String,
    /// The password.
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

/// Limits on an image's size and pull time.
#[derive(Clone, Copy, Debug)]
pub struct ImageLimits {
    /// Maximum size of a manifest or config, in bytes.
    pub json_bytes_max: u64,
    /// Maximum number of layers per image.
    pub layers_max: usize,
    /// Maximum size of a layer as downloaded, in bytes.
    pub blob_bytes_max: u64,
    /// Maximum size of all unpacked layers of an image, in bytes.
    pub unpacked_bytes_max: u64,
    /// Maximum number of files, directories and links in all layers of an image.
    pub entries_max: u64,
    /// Time limit for downloading and unpacking one image, in seconds.
    pub seconds_max: u64,
    /// Images downloaded concurrently; more wait.
    pub pulls_max: usize,
    /// Maximum size of all images on this host, in bytes; the least recently used are removed first.
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

/// Whether an image's config and the container's spec are compatible, as far as can be checked without the layers: its user can't be looked
/// up.
pub(crate) fn check(settings: &ImageSettings, spec: &ContainerSpec) -> Result<(), RuntimeError> {
    process_of(settings, spec).map(drop)
}

/// An unpacked image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Directories of its layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// The image's settings.
    pub settings: ImageSettings,
    /// Keeps the layers from being removed.
    pub uses: Vec<LayerUse>,
}

/// A SHA-256 digest.
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
