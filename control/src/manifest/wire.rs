//! The JSON as uploaded: shape and types. No value is converted into another type: a hash must have one meaning.
//!
//! What the document says of values beyond that (`pattern` and such) is for clients; `rules` checks it.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use utoipa::ToSchema;

use super::{ManifestError, strict::Strict};

/// `{"manifest": ..., "private": ...}`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UploadBody {
    pub(super) manifest: Manifest,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) private: Option<Private>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    #[schema(min_length = 1)]
    pub(super) name: String,
    #[schema(min_length = 1)]
    pub(super) version: String,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, pattern = "^[1-9][0-9]{0,4}$")]
    pub(super) port: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "small")]
    pub(super) machine: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) debug: Option<bool>,
    #[schema(min_items = 1)]
    pub(super) containers: Vec<Container>,
    #[serde(default)]
    #[schema(value_type = HashMap<String, Var>)]
    pub(super) vars: Vars,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Container {
    #[schema(pattern = "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$")]
    pub(super) id: String,
    #[schema(pattern = "^.+@sha256:[0-9a-f]{64}$")]
    pub(super) image: String,
    /// Replaces the image's CMD, as in Docker, in every runtime; the image's ENTRYPOINT stays in front of it.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) command: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, pattern = "^(/.*)?$")]
    pub(super) workdir: Option<String>,
    /// Names may not contain `=` or begin with `CODIUS`.
    #[serde(default, deserialize_with = "pairs")]
    #[schema(value_type = HashMap<String, String>)]
    pub(super) environment: Vec<(String, String)>,
}

/// Variables by name.
pub(super) type Vars = std::collections::BTreeMap<String, Var>;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Var {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) encoding: Option<Encoding>,
    pub(super) value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
pub(super) enum Encoding {
    #[serde(rename = "private:sha256")]
    PrivateSha256,
}

/// Private values; the hash does not cover them.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Private {
    #[serde(default)]
    pub(super) vars: std::collections::BTreeMap<String, PrivateVar>,
}

#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PrivateVar {
    pub(super) nonce: String,
    pub(super) value: String,
}

impl fmt::Debug for PrivateVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateVar(hidden)")
    }
}

/// Reads the shape; an error names the path of the field.
pub(super) fn read(value: &Value) -> Result<UploadBody, ManifestError> {
    read_as(value)
}

/// The same for another shape.
pub(super) fn read_as<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T, ManifestError> {
    serde_path_to_error::deserialize(Strict(value)).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body" } else { &path };
        ManifestError::field(field, error.inner().to_string())
    })
}

/// A field that may be left out, but not be null.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// An object, in its order.
pub(super) fn pairs<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<(String, T)>, D::Error> {
    struct Pairs<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
        type Value = Vec<(String, T)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }

    deserializer.deserialize_map(Pairs(PhantomData))
}
