//! From untrusted bytes to a manifest, its hash, and what to run.
//!
//! | module | what is in it |
//! |---|---|
//! | `wire` | the JSON as uploaded: shape and types |
//! | `strict` | how serde reads it: each value as the one type it is |
//! | `rules` | what a host refuses to run, whatever its shape |
//! | `vars` | `$VAR` in environments: public values, private values and their hashes |
//! | `canonical` | canonical JSON, byte for byte as JS clients make it |
//! | `hash` | SHA-256 and base32 of that |
//! | `lenient` | the same for JSON that JS clients can read and no host runs |
//! | `merge` | an upload built from `codius.json` and `codiusvars.json` |
//! | `spec` | the pod spec for the runtime |

mod canonical;
mod hash;
mod lenient;
mod merge;
mod rules;
mod spec;
mod strict;
mod vars;
mod wire;

use serde_json::Value;

pub use hash::{BadHash, ManifestHash};
pub use merge::{MergeError, MergedFile, merge};
pub use rules::Rules;
use vars::Secrets;
use wire::Manifest;
pub(crate) use wire::UploadBody;

use crate::pod_sizes::SMALL;

/// Longest field path or message in an error, in characters.
const SHOWN_MAX: usize = 200;

/// Why an upload is refused. `message` names the field; it never contains a private value or its hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes aren't JSON (400).
    #[error("Invalid request payload JSON format: {0}")]
    Json(String),
    /// A field is missing, unknown, or invalid (400).
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field, such as `manifest.containers[0].image`.
        field: String,
        /// What is wrong, and what would be valid.
        problem: String,
    },
    /// The fields are well formed but inconsistent (422).
    #[error("{field}: {problem}")]
    Unprocessable {
        /// Path of the field.
        field: String,
        /// What is wrong, and what would be valid.
        problem: String,
    },
}

impl ManifestError {
    fn field(field: impl AsRef<str>, problem: impl AsRef<str>) -> Self {
        Self::Field { field: shortened(field.as_ref()), problem: shortened(problem.as_ref()) }
    }

    fn unprocessable(field: impl AsRef<str>, problem: impl AsRef<str>) -> Self {
        Self::Unprocessable { field: shortened(field.as_ref()), problem: shortened(problem.as_ref()) }
    }
}

/// Names in errors come from the uploader, and may be as long as a body.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", text.split_at(end).0),
        None => text.to_owned(),
    }
}

/// A checked upload: `{"manifest": {...}, "private": {"vars": {...}}}`.
#[derive(Clone, Debug)]
pub struct Upload {
    hash: ManifestHash,
    manifest: Manifest,
    /// As uploaded, with its order of keys.
    json: String,
    /// Environments with all variables substituted, one for each container. Holds private values.
    environments: Vec<vars::Environment>,
}

impl Upload {
    /// Parses and checks an upload. Every check that needs no network is made here, before any money moves.
    pub fn parse(body: &[u8], rules: &Rules) -> Result<Self, ManifestError> {
        Self::from_value(parse_json(body)?, rules, Secrets::Needed)
    }

    /// Parses an upload for a quote: private values may be missing, but those present must match their hashes.
    pub fn parse_question(body: &[u8], rules: &Rules) -> Result<Self, ManifestError> {
        Self::from_value(parse_json(body)?, rules, Secrets::MayBeMissing)
    }

    /// Parses a local file: an upload, or a bare manifest, whose private values are elsewhere.
    pub fn parse_file(contents: &[u8], rules: &Rules) -> Result<Self, ManifestError> {
        let value = parse_json(contents)?;
        match value.get("manifest") {
            Some(_) => Self::from_value(value, rules, Secrets::Needed),
            None => Self::from_value(serde_json::json!({ "manifest": value }), rules, Secrets::MayBeMissing),
        }
    }

    /// The hash of the manifest in such a file, whether or not a host would run it.
    pub fn hash_file(contents: &[u8]) -> Result<ManifestHash, ManifestError> {
        let text = lenient::canonical_text(contents, |file| match file.get("manifest") {
            Some(manifest @ Value::Object(_)) => manifest,
            _ => file,
        })?;
        Ok(ManifestHash::of(&text))
    }

    fn from_value(value: Value, rules: &Rules, secrets: Secrets) -> Result<Self, ManifestError> {
        let upload = wire::read(&value)?;
        rules.check(&upload.manifest)?;
        let private = upload.private.unwrap_or_default();
        let environments = vars::interpolate(&upload.manifest, &private, secrets)?;
        let json = value.get("manifest").map(Value::to_string).unwrap_or_default();
        rules.check_size(&json)?;
        let canonical = canonical::to_string(value.get("manifest").unwrap_or(&Value::Null));
        Ok(Self { hash: ManifestHash::of(&canonical), manifest: upload.manifest, json, environments })
    }

    /// The manifest's name.
    pub fn hash(&self) -> &ManifestHash {
        &self.hash
    }

    /// The manifest as uploaded, without private values.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The pod size it names.
    pub fn machine(&self) -> &str {
        self.manifest.machine.as_deref().unwrap_or(SMALL)
    }

    /// The port the pod listens on for HTTP.
    pub fn port(&self) -> Option<u16> {
        self.manifest.port.as_ref().and_then(|port| port.parse().ok())
    }

    /// Whether anyone may read the pod's log.
    pub fn debug(&self) -> bool {
        self.manifest.debug.unwrap_or(false)
    }
}

fn parse_json(bytes: &[u8]) -> Result<Value, ManifestError> {
    serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))
}

#[cfg(test)]
mod tests;
