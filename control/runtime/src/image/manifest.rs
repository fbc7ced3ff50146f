//! The JSON of image indexes, manifests and configs (OCI Image Format 1.1, Docker schema 2 has the same fields).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Digest;

/// Media types asked for.
pub(super) const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

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
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) digest: String,
    /// In bytes, as it is downloaded; believed only when it is too large.
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
}

impl Descriptor {
    pub(super) fn digest(&self) -> Option<Digest> {
        Digest::parse(&self.digest)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Platform {
    architecture: String,
    os: String,
}

/// A manifest, or an index of manifests for several platforms.
#[derive(Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let fields: Fields = serde_json::from_slice(bytes).ok()?;
        match fields {
            Fields { manifests: Some(manifests), config: None, layers: None } => Some(Self::Index(manifests)),
            Fields { manifests: None, config: Some(config), layers: Some(layers) } => Some(Self::Manifest { config, layers }),
            _ => None,
        }
    }
}

/// The manifest of an index that runs here.
pub(super) fn for_this_machine(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let here = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture();
    manifests.iter().find(|manifest| manifest.platform.as_ref().is_some_and(here))
}

/// This machine, as images call it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image's config.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(default)]
    pub(super) config: Option<ImageSettings>,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
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
