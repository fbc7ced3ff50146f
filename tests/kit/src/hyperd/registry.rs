//! What the registries hold, as the double knows them.

use std::{collections::BTreeMap, path::PathBuf};

use sha2::{Digest, Sha256};

/// The host of the built-in images.
pub(super) const HOST: &str = "127.0.0.1:5000";
/// Digest of the image that serves a page on port 8080.
pub(super) const HTTPD: &str = "sha256:1fc17564e57b09c06da61f71dce757ee5cb118cb3ed5c6401079b279a982aca5";

/// Digest of the image with an /etc/passwd and no /etc/group.
pub(super) const NO_GROUP: &str = "sha256:60e0c1f5a1bd4ba8e4a3a3d1f1a6f6c7b4e8a9d0c2b3e4f5a6b7c8d9e0f1a2b3";

/// What a digest stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A Docker manifest, or a list of them.
    Docker,
    /// Refused.
    OciManifest,
    /// Refused.
    OciIndex,
}

/// An image in a registry.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub repository: String,
    pub digest: String,
    pub tag: Option<String>,
    pub kind: Kind,
    pub id: String,
    pub layer: String,
    pub layer_bytes: u64,
    /// What runs if the pod doesn't say.
    pub command: Vec<String>,
    /// A file of this machine that is inside, below `/` under its own name.
    pub program: Option<PathBuf>,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn built_in(name: &str, digest: &str, tag: Option<&str>, id: &str, layer: (&str, u64), command: &[&str]) -> Known {
    Known {
        repository: format!("{HOST}/codius/{name}"),
        digest: digest.to_owned(),
        tag: tag.map(str::to_owned),
        kind: Kind::Docker,
        id: id.to_owned(),
        layer: layer.0.to_owned(),
        layer_bytes: layer.1,
        command: words(command),
        program: None,
    }
}

/// All images there are; `programs` are those of the command line.
pub(super) fn known(programs: &BTreeMap<String, PathBuf>) -> Vec<Known> {
    let httpd = &["/bin/httpd", "-f", "-v", "-p", "8080", "-h", "/www"];
    let (httpd_id, httpd_layer) = ("sha256:0496408b1e58922f511f2944a1e73817b91b2b0838299a7c07206ce86128640c", ("eb032dcbd6e0", 1_088_113));
    let other_layer = ("2afe67da7e50", 1_088_224);
    let list = "sha256:e862a6ddd4e0d4b5532a4e39b8bc667c7af8ff0acfcaa4cc94326ce5aaacafef";
    let moneyd = "sha256:c4831b3add7fac4655bbdc6ce3625ad5415acb1e8642715124c3bb2a712f58d0";
    let moneyd_id = "sha256:62cf2228b4d709690d345a95495f5f3093cef9bc02c4fe5eb404a0920231b678";
    let oci = |digest: &str, tag, kind| Known { kind, ..built_in("ocihttpd", digest, tag, digest, httpd_layer, httpd) };
    let mut known = vec![
        built_in("httpd", HTTPD, Some("latest"), httpd_id, httpd_layer, httpd),
        built_in("httpd", list, None, httpd_id, httpd_layer, httpd),
        built_in("moneyd", moneyd, Some("latest"), moneyd_id, other_layer, &["/bin/moneyd"]),
        built_in("busybox", BUSYBOX, Some("latest"), BUSYBOX_ID, other_layer, &["/bin/sh"]),
        built_in("nogroup", NO_GROUP, None, NO_GROUP, other_layer, httpd),
        oci(OCI_MANIFEST, Some("latest"), Kind::OciManifest),
        oci(OCI_INDEX, None, Kind::OciIndex),
    ];
    known.extend(programs.iter().map(|(name, program)| of_program(name, program)));
    known
}

const BUSYBOX: &str = "sha256:978b08e2cf013b1a5fac2162f4c02242971d845f231fe6c72e8eef8e63413036";
const BUSYBOX_ID: &str = "sha256:9c638142b20529486645f136b597773d10c2ed3da84868f8c0c9af8bbd24afd5";
const OCI_MANIFEST: &str = "sha256:e1386547b58bc8131aaffe66894684c72f19b24ca4902bd8f4e0b84d55d92da6";
const OCI_INDEX: &str = "sha256:cf11e4dc396cc060cda7da688aa4db95a35a3cb93972fa998f4429ee26b6a203";

fn of_program(name: &str, program: &std::path::Path) -> Known {
    let hash = |text: &str| format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())));
    let reference = Reference::parse(name).unwrap_or_else(|| panic!("--image {name} is no name of an image"));
    let digest = if reference.is_digest() { reference.version.clone() } else { hash(name) };
    let file = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let id = hash(&format!("image {name}"));
    Known {
        tag: (!reference.is_digest()).then(|| reference.version.clone()),
        repository: reference.repository,
        digest,
        kind: Kind::Docker,
        layer: id[7..19].to_owned(),
        id,
        layer_bytes: 1_000_000,
        command: vec![format!("/{file}")],
        program: Some(program.to_owned()),
    }
}

/// The name of an image, whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    /// With the registry's host.
    pub repository: String,
    /// Tag or digest.
    pub version: String,
}

impl Reference {
    /// Reads a name; without tag and digest it is `latest` that is meant.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (repository, version) = match name.split_once('@') {
            Some(parts) => parts,
            None => match name.rsplit_once(':') {
                Some((repository, tag)) if !tag.contains('/') => (repository, tag),
                _ => (name, "latest"),
            },
        };
        let path = repository.strip_prefix(host(repository)).unwrap_or(repository).trim_start_matches('/');
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        let valid = !path.is_empty() && path.chars().all(fine) && !version.is_empty();
        valid.then(|| Self { repository: repository.to_owned(), version: version.to_owned() })
    }

    pub(super) fn is_digest(&self) -> bool {
        self.version.starts_with("sha256:")
    }

    /// The registry; empty if none is named.
    pub(super) fn host(&self) -> &str {
        host(&self.repository)
    }

    /// The repository without the registry.
    pub(super) fn path(&self) -> &str {
        self.repository.strip_prefix(self.host()).unwrap_or_default().trim_start_matches('/')
    }

    /// The same as a name.
    pub(super) fn name(&self) -> String {
        format!("{}{}{}", self.repository, if self.is_digest() { '@' } else { ':' }, self.version)
    }
}

fn host(repository: &str) -> &str {
    let first = repository.split('/').next().unwrap_or_default();
    if repository.contains('/') && (first.contains(['.', ':']) || first == "localhost") { first } else { "" }
}
