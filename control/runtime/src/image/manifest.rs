//! The JSON of image indexes, manifests and configs (OCI Image Format 1.1; Docker schema 2 has the same fields).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{Digest, platform::Platform};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Two media types end in `+prettyjws` and `+json`.
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";
/// Media types of image configs. Some registries lose a config's type and serve it as bytes (distribution/distribution 1621) or as a page
/// (moby/moby 22378).
const CONFIGS: &[&str] = &[
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "text/html",
    "",
];
/// Annotation of a descriptor that refers to an image of the same index: its provenance, its bill of materials (BuildKit).
const REFERENCE: &str = "vnd.docker.reference.type";

/// Media types accepted.
pub(super) const ACCEPTED: &[&str] = &[OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// How an image says it is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageSettings {
    /// First words of the command.
    #[serde(default, deserialize_with = "words")]
    pub entrypoint: Option<Vec<String>>,
    /// Last words of the command.
    #[serde(default, deserialize_with = "words")]
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`.
    #[serde(default)]
    pub env: Option<Vec<String>>,
    /// Working directory.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    #[serde(default)]
    pub user: Option<String>,
    /// Directories that must exist; the values of the map have no meaning.
    #[serde(default)]
    pub volumes: Option<BTreeMap<String, Value>>,
}

/// A list of words, or a single string: Docker reads both.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        One(String),
    }
    let words = Option::<Words>::deserialize(deserializer)?;
    Ok(words.map(|words| match words {
        Words::List(words) => words,
        Words::One(word) => vec![word],
    }))
}

/// A blob's descriptor.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Descriptor {
    #[serde(deserialize_with = "or_default")]
    media_type: String,
    pub(super) digest: String,
    /// Size of the download, in bytes; trusted only to reject a blob that is too large.
    pub(super) size: u64,
    #[serde(deserialize_with = "or_default")]
    pub(super) platform: Option<Platform>,
    #[serde(deserialize_with = "or_default")]
    artifact_type: String,
    #[serde(deserialize_with = "or_default")]
    annotations: Map<String, Value>,
    #[serde(deserialize_with = "or_default")]
    urls: Vec<String>,
}

/// The type of document an entry of an index refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    ToIndex,
    ToManifest,
    /// No media type: the document itself shows its type.
    Somewhere,
}

impl Descriptor {
    pub(super) fn digest(&self) -> Option<Digest> {
        Digest::parse(&self.digest)
    }

    pub(super) fn media_type(&self) -> String {
        essence(&self.media_type)
    }

    /// The type of document an entry refers to; none, if it isn't an image to run. Unknown media types are to be ignored (OCI Image Index),
    /// as are artifacts that only accompany an image.
    pub(super) fn leads(&self) -> Option<Leads> {
        if !self.artifact_type.is_empty() || self.annotations.contains_key(REFERENCE) {
            return None;
        }
        match &*self.media_type() {
            OCI_INDEX | DOCKER_LIST => Some(Leads::ToIndex),
            OCI_MANIFEST | DOCKER_MANIFEST => Some(Leads::ToManifest),
            "" => Some(Leads::Somewhere),
            _ => None,
        }
    }

    /// Whether the manifest refers to other places than the registry for a layer (OCI's "non-distributable" layers, Docker's "foreign"
    /// ones).
    pub(super) fn is_elsewhere(&self) -> bool {
        !self.urls.is_empty()
    }

    /// Why a blob can't be a layer, if its media type says so; the format is detected from the content, not from the type.
    pub(super) fn layer_fault(&self) -> Option<String> {
        let media_type = self.media_type();
        let archive = media_type.is_empty() || media_type == "application/octet-stream" || media_type.contains("tar");
        match () {
            () if media_type.contains("encrypted") => Some(format!("its layer {} is encrypted", self.digest)),
            () if !archive => Some(format!("its layer {} isn't a file system but {media_type}", self.digest)),
            () => None,
        }
    }
}

/// A media type without parameters, in lower case.
fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Go writes a missing value as `null`.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A manifest, or an index of manifests for several platforms.
#[derive(Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Box<Manifest>),
}

/// One image.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Manifest {
    /// The kind of artifact, if this isn't an image: registries hold charts, signatures and models, too.
    pub(super) fn artifact(&self) -> Option<String> {
        let media_type = self.config.media_type();
        (!CONFIGS.contains(&&*media_type)).then_some(media_type)
    }
}

/// Why a document is neither a manifest nor an index; `Display` is fit for uploaders.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadDocument {
    #[error("its manifest says that it is {0}, which isn't an image")]
    Other(String),
    #[error("its manifest is Docker schema 1, which is not supported: push the image again with Docker 17.06 or later")]
    Schema1,
    #[error("its manifest can't be read")]
    Unreadable,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    #[serde(default)]
    schema_version: Option<Value>,
    #[serde(default, deserialize_with = "or_default")]
    media_type: String,
    #[serde(default)]
    manifests: Option<Vec<Value>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<Value>,
}

impl Document {
    /// Detects a document's type by its fields if it has no media type. An ambiguous document is rejected: a digest must stand for exactly
    /// one image (CVE-2021-41190).
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadDocument> {
        let fields: Fields = serde_json::from_slice(bytes).map_err(|_| BadDocument::Unreadable)?;
        let media_type = essence(&fields.media_type);
        if fields.schema_version == Some(1.into()) || fields.fs_layers.is_some() || media_type.starts_with(DOCKER_SCHEMA_1) {
            return Err(BadDocument::Schema1);
        }
        let (index, manifest) = match &*media_type {
            "" => (true, true),
            OCI_INDEX | DOCKER_LIST => (true, false),
            OCI_MANIFEST | DOCKER_MANIFEST => (false, true),
            _ => return Err(BadDocument::Other(media_type)),
        };
        match fields {
            Fields { manifests: None, config: Some(config), layers, .. } if manifest => {
                Ok(Self::Manifest(Box::new(Manifest { config, layers: layers.unwrap_or_default() })))
            }
            Fields { manifests, config: None, layers: None, .. } if index && (manifests.is_some() || !manifest) => {
                // An entry that can't be parsed is ignored like one of an unknown type.
                let entries = manifests.unwrap_or_default().into_iter().filter_map(|entry| serde_json::from_value(entry).ok());
                Ok(Self::Index(entries.collect()))
            }
            _ => Err(BadDocument::Unreadable),
        }
    }
}

/// An image's config.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(flatten)]
    pub(super) platform: Platform,
    #[serde(default)]
    pub(super) config: Option<ImageSettings>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RootFs {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) diff_ids: Vec<String>,
}

/// Identifies a layer together with all below it: what an implied directory looks like depends on them.
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => *diff_id,
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}
