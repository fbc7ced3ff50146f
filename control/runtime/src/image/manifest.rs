//! The JSON of image indexes, manifests and configs (OCI Image Format 1.1, Docker schema 2 has the same fields).

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
/// Configs of images. Some registries forget what a config is and call it bytes (distribution/distribution 1621) or a page (moby/moby 22378).
const CONFIGS: &[&str] = &[
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "text/html",
    "",
];
/// On a descriptor that is about an image of the same index: its provenance, its bill of materials (BuildKit).
const REFERENCE: &str = "vnd.docker.reference.type";

/// Media types asked for.
pub(super) const ACCEPTED: &[&str] = &[OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// What an image says of how it is run.
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
    /// Where it starts.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    #[serde(default)]
    pub user: Option<String>,
    /// Directories that are to be there; what is said of them means nothing.
    #[serde(default)]
    pub volumes: Option<BTreeMap<String, Value>>,
}

/// Words, or one that isn't in a list: Docker reads both.
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

/// A blob, by what it must be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Descriptor {
    #[serde(deserialize_with = "or_default")]
    media_type: String,
    pub(super) digest: String,
    /// In bytes, as it is downloaded; believed only when it is too large.
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

/// What an entry of an index may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    ToIndex,
    ToManifest,
    /// Its media type isn't said: what it is shows when it is there.
    Somewhere,
}

impl Descriptor {
    pub(super) fn digest(&self) -> Option<Digest> {
        Digest::parse(&self.digest)
    }

    pub(super) fn media_type(&self) -> String {
        essence(&self.media_type)
    }

    /// What an entry of an index leads to; nothing, if it isn't about an image to run. Media types that aren't known are to be
    /// ignored (OCI Image Index), and so are artifacts that only accompany an image.
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

    /// Whether a layer is only promised to be at other places than the registry (OCI's "non-distributable" layers, Docker's "foreign" ones).
    pub(super) fn is_elsewhere(&self) -> bool {
        !self.urls.is_empty()
    }

    /// Why a layer can't be one of an image, if its media type says so; content is recognised by what it is, not by this.
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

/// `null` is how Go writes what isn't there.
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
    /// What this is instead of an image, if it is something else: registries hold charts, signatures and models, too.
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
    #[error("its manifest is of Docker's schema 1, which isn't run any more: push the image anew with a Docker of 2017 or later")]
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
    /// Reads a document by what it has, if it doesn't say what it is. One that could be read in two ways isn't read at all: a
    /// digest has to stand for one image (CVE-2021-41190).
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
                // What can't be read is no more an entry we know than one of an unknown type.
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
