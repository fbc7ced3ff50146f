//! OCI image layouts: a directory with `oci-layout`, `index.json` and `blobs/sha256/` (OCI Image Layout 1.0).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder};
use serde_json::json;

use super::{Digest, platform::architecture};

/// Possible paths of a blob of `local/NAME`: in the directory itself, or in its sub-directory `NAME`.
pub(super) fn blob_paths(directory: &Path, name: &str, digest: &Digest) -> [PathBuf; 2] {
    let blob = |layout: PathBuf| layout.join("blobs/sha256").join(digest.hex());
    [blob(directory.to_owned()), blob(directory.join(name))]
}

/// A file of an image to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewFile<'a> {
    /// Its path, without a leading `/`.
    pub path: &'a str,
    /// Its content.
    pub content: &'a [u8],
    /// Its permissions.
    pub mode: u32,
}

/// An image of one layer to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewImage<'a> {
    /// The last part of its reference, `local/NAME@...`.
    pub name: &'a str,
    /// Its files.
    pub files: &'a [NewFile<'a>],
    /// Its entrypoint.
    pub entrypoint: &'a [&'a str],
    /// Its user, `uid:gid`.
    pub user: &'a str,
    /// Ports it listens on, such as `8080/tcp`.
    pub ports: &'a [&'a str],
}

/// Writes an image as a layout and returns its reference, `local/NAME@sha256:...`. The same image always yields the same bytes; existing
/// content of the directory is kept.
pub fn write(directory: &Path, image: &NewImage<'_>) -> io::Result<String> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |bytes: &[u8]| -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        let path = blobs.join(digest.hex());
        let unfinished = path.with_extension("tmp");
        fs::write(&unfinished, bytes)?;
        fs::rename(unfinished, path)?;
        Ok(digest)
    };
    let tar = tar_of(image.files)?;
    let layer = gzip(&tar)?;
    let layer_digest = put(&layer)?;
    let ports: serde_json::Map<_, _> = image.ports.iter().map(|port| ((*port).to_owned(), json!({}))).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": { "Entrypoint": image.entrypoint, "User": image.user, "ExposedPorts": ports },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar).to_string()] },
    })
    .to_string();
    let config_digest = put(config.as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest.to_string(), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer_digest.to_string(), "size": layer.len() }],
    })
    .to_string();
    let manifest_digest = put(manifest.as_bytes())?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest_digest.to_string(), "size": manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": image.name },
        }],
    });
    fs::write(directory.join("index.json"), index.to_string())?;
    fs::write(directory.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    Ok(format!("local/{}@{manifest_digest}", image.name))
}

fn tar_of(files: &[NewFile<'_>]) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.content.len() as u64);
        header.set_mode(file.mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, file.path, file.content)?;
    }
    tar.into_inner()
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    io::Write::write_all(&mut writer, bytes)?;
    writer.finish()
}
