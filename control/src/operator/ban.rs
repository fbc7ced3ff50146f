//! What an operator bans: a manifest, an image by its digest, or all images of a repository. Pure.

use std::fmt;

use codiusd_runtime::PodId;

use crate::workload::PodOrder;

/// Longest image name in a ban, in bytes.
const NAME_MAX: usize = 512;
/// Name of Docker's own registry.
const DOCKER: &str = "docker.io";

/// What is banned from this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ban {
    /// Any image with this content, under any name: `sha256:` and 64 hex digits.
    Digest(String),
    /// One manifest.
    Manifest(PodId),
    /// All images of a repository, by its full name.
    Repository(String),
}

/// The text isn't an image name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an image: its digest (sha256: and 64 hex digits, also behind name@), or a repository such as docker.io/library/nginx, without a tag"
)]
pub struct BadImage;

impl Ban {
    /// Parses a ban of images: by digest, or by repository.
    pub fn image(text: &str) -> Result<Self, BadImage> {
        if text.len() > NAME_MAX {
            return Err(BadImage);
        }
        if let Some(digest) = digest_of(text) {
            return if is_digest(digest) { Ok(Self::Digest(digest.to_owned())) } else { Err(BadImage) };
        }
        let repository = repository_of(text);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        let is_name = repository.split('/').all(|part| !part.is_empty() && part.bytes().all(is_plain));
        if is_name && !text.is_empty() && without_tag(text) == text { Ok(Self::Repository(repository)) } else { Err(BadImage) }
    }

    /// `manifest` or `image`: the kind of what `Display` prints.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Digest(_) | Self::Repository(_) => "image",
            Self::Manifest(_) => "manifest",
        }
    }

    /// Whether the ban covers `order`.
    pub fn covers(&self, order: &PodOrder) -> bool {
        let mut images = order.spec.containers.iter().map(|container| container.image.as_str());
        match self {
            Self::Digest(digest) => images.any(|image| digest_of(image) == Some(digest)),
            Self::Manifest(id) => order.spec.id == *id,
            Self::Repository(name) => images.any(|image| repository_of(image) == *name),
        }
    }
}

impl fmt::Display for Ban {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(name) | Self::Repository(name) => f.write_str(name),
            Self::Manifest(id) => fmt::Display::fmt(id, f),
        }
    }
}

fn is_digest(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_hex))
}

/// The digest in a pinned reference.
pub(super) fn digest_of(reference: &str) -> Option<&str> {
    if reference.starts_with("sha256:") { Some(reference) } else { reference.split_once('@').map(|(_, digest)| digest) }
}

/// A name without its tag.
fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

/// The full repository name of a reference, the same for every spelling: `nginx` is `docker.io/library/nginx`.
pub(super) fn repository_of(reference: &str) -> String {
    let name = without_tag(reference.split_once('@').map_or(reference, |(name, _)| name)).to_ascii_lowercase();
    let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost" || part == "local";
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if is_host(host) => (host.strip_suffix(":443").unwrap_or(host), path),
        _ => (DOCKER, name.as_str()),
    };
    match host {
        DOCKER | "index.docker.io" | "registry-1.docker.io" if !path.contains('/') => format!("{DOCKER}/library/{path}"),
        "index.docker.io" | "registry-1.docker.io" => format!("{DOCKER}/{path}"),
        _ => format!("{host}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_image_is_refused() {
        let long = "a".repeat(NAME_MAX + 1);
        for text in ["", "nginx:1.25", "a b", "name@sha256:12", "sha256:XYZ", "@", "/", "a//b", "ghcr.io/", "a\u{0}b", "é", &long] {
            assert_eq!(Ban::image(text), Err(BadImage), "{text}");
        }
    }
}
