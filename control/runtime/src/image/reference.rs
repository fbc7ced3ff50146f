//! Image references: always with the digest of the content.

use super::Digest;
use crate::RuntimeError;

/// Longest reference, in bytes.
const LENGTH_MAX: usize = 512;
/// Prefix of images from a layout on this host, in the place of a registry.
const LOCAL: &str = "local/";

/// A pinned image: `[registry/]name@sha256:<64 hex digits>`, or `local/NAME@sha256:...` for one from a layout.
#[derive(Clone, Debug)]
pub struct ImageRef {
    text: String,
    name: Name,
    pub(super) digest: Digest,
}

#[derive(Clone, Debug)]
pub(super) enum Name {
    Local(String),
    Registry(oci_spec::distribution::Reference),
}

impl ImageRef {
    /// Parses a reference.
    pub fn parse(text: &str) -> Result<Self, RuntimeError> {
        let refuse =
            |reason: &str| RuntimeError::ReferenceRefused { image: text.chars().take(LENGTH_MAX).collect(), reason: reason.to_owned() };
        if text.len() > LENGTH_MAX {
            return Err(refuse("the reference is too long"));
        }
        let (name, digest) =
            text.split_once('@').ok_or_else(|| refuse("must be pinned by its digest, as in name@sha256:<64 hex digits>"))?;
        let digest = Digest::parse(digest).ok_or_else(|| refuse("the digest must be sha256: and 64 hex digits in lower case"))?;
        let name = match name.strip_prefix(LOCAL) {
            Some(name) if is_plain(name) => Name::Local(name.to_owned()),
            Some(_) => return Err(refuse("the name after local/ must be of a-z, 0-9, . and -")),
            None => Name::Registry(text.parse().map_err(|_| refuse("not a valid image reference"))?),
        };
        Ok(Self { text: text.to_owned(), name, digest })
    }

    /// The reference as given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it refers to a layout on this host.
    pub fn is_local(&self) -> bool {
        matches!(self.name, Name::Local(_))
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }
}

/// A name that is a single path component, and not a special one.
fn is_plain(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    first && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_'))
}
