//! Archives and images built byte by byte, and unpacking them.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tar::{EntryType, Header};
use tempfile::TempDir;

use crate::image::{
    Digest, ImageConfig, ImageLimits, ImageStore, RegistryConfig,
    platform::architecture,
    unpack::{self, Budget, UnpackError},
};

/// Upper bound for anything a test waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// An archive, written without any checks.
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds any entry; `change` can override its header.
    pub(super) fn entry(mut self, kind: EntryType, path: &str, content: &[u8], change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, content.as_bytes(), |_| {})
    }

    pub(super) fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, path, b"", |header| header.set_mode(mode))
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target)
    }

    pub(super) fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Link, path, target)
    }

    fn link(self, kind: EntryType, path: &str, target: &str) -> Self {
        self.entry(kind, path, b"", |header| header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes()))
    }

    /// The name of the next entry, however long.
    pub(super) fn long_name(self, path: &str) -> Self {
        self.entry(EntryType::GNULongName, "././@LongLink", &[path.as_bytes(), b"\0"].concat(), |_| {})
    }

    /// One attribute of the next entry.
    pub(super) fn pax(self, name: &str, value: &str) -> Self {
        self.records(EntryType::XHeader, &[(name, value.as_bytes())])
    }

    /// An extended header: for the next entry, or for all.
    pub(super) fn records(self, kind: EntryType, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(name, value)| record(name, value)).collect();
        self.entry(kind, "pax", &content, |_| {})
    }

    /// Without the end marker, as some tools leave it.
    pub(super) fn unfinished(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// `LENGTH NAME=VALUE\n`, where the length counts itself.
fn record(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let length = (1..).map(|digits| digits + rest).zip(1..).find(|(length, digits)| length.to_string().len() == *digits).unwrap().0;
    [format!("{length} {name}=").as_bytes(), value, b"\n"].concat()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// A host directory outside the layer, and the layer's directory beside it.
pub(super) struct Ground {
    dir: TempDir,
    pub(super) limits: ImageLimits,
}

impl Ground {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/canary"), "sings").unwrap();
        fs::write(dir.path().join("canary"), "sings too").unwrap();
        Self { dir, limits: ImageLimits::default() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Unpacks a blob into `layer`, expecting `diff_id`.
    pub(super) fn unpack_as(&self, name: &str, blob: &[u8], diff_id: Digest, below: &[PathBuf]) -> Result<(), UnpackError> {
        let path = self.path("blob");
        fs::write(&path, blob).unwrap();
        let budget = Budget::new(&self.limits, u64::MAX, Instant::now() + PATIENCE);
        let outcome = unpack::layer(&path, &self.path(name), below, diff_id, &budget);
        fs::remove_file(&path).unwrap();
        outcome.map_err(|refused| refused.error)
    }

    /// The same, with the error text.
    pub(super) fn told(&self, tar: &[u8]) -> Result<(), String> {
        let path = self.path("blob");
        fs::write(&path, tar).unwrap();
        let budget = Budget::new(&self.limits, u64::MAX, Instant::now() + PATIENCE);
        unpack::layer(&path, &self.path("layer"), &[], Digest::of(tar), &budget).map_err(|refused| refused.to_string())
    }

    pub(super) fn unpack(&self, tar: &[u8]) -> Result<(), UnpackError> {
        self.unpack_as("layer", tar, Digest::of(tar), &[])
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path("layer").join(path)).unwrap()
    }

    /// Everything outside the layer: path, kind and permissions, owner, links, content.
    pub(super) fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        describe(self.dir.path(), &self.path("layer"), &mut found);
        found
    }
}

fn describe(path: &Path, except: &Path, found: &mut BTreeMap<PathBuf, String>) {
    let about = fs::symlink_metadata(path).unwrap();
    let content = if about.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
    let xattr = opaque(path);
    let text = format!(
        "{:o} {}:{} {} {xattr} {content}",
        about.permissions().mode(),
        about.uid(),
        about.gid(),
        if about.is_dir() { 0 } else { about.nlink() }
    );
    found.insert(path.to_owned(), text);
    if about.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path != except {
                describe(&path, except, found);
            }
        }
    }
}

/// Whether overlayfs treats a directory as opaque.
pub(super) fn opaque(path: &Path) -> bool {
    let mut value = [0; 4];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value).is_ok_and(|length| value[..length] == *b"y")
}

/// Whether overlayfs treats a file as a whiteout.
pub(super) fn whiteout(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_char_device() && about.rdev() == 0)
}

/// Images, as blobs by digest.
#[derive(Clone, Default)]
pub(super) struct Blobs(pub(super) BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Adds a blob, and returns its descriptor.
    pub(super) fn put(&mut self, bytes: Vec<u8>) -> Value {
        let (digest, size) = (Digest::of(&bytes).to_string(), bytes.len());
        self.0.insert(digest.clone(), bytes);
        json!({ "mediaType": "application/octet-stream", "digest": digest, "size": size })
    }

    /// Adds an image of these layers, and returns its manifest's descriptor.
    pub(super) fn image(&mut self, tars: &[Vec<u8>]) -> Value {
        let diff_ids: Vec<String> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux", "config": { "Cmd": ["/run"] }, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let layers: Vec<Value> = tars.iter().map(|tar| self.put(gzip(tar))).collect();
        self.manifest(&config, &layers)
    }

    pub(super) fn manifest(&mut self, config: &Value, layers: &[Value]) -> Value {
        let config = self.put(config.to_string().into_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        self.document(&manifest, "application/vnd.oci.image.manifest.v1+json")
    }

    /// Adds a manifest or index, and returns its descriptor.
    pub(super) fn document(&mut self, document: &Value, media_type: &str) -> Value {
        let mut descriptor = self.put(document.to_string().into_bytes());
        descriptor["mediaType"] = media_type.into();
        descriptor
    }

    pub(super) fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.0[text(&descriptor["digest"])]).unwrap()
    }

    /// Changes one byte of a blob without changing its name.
    pub(super) fn tamper(&mut self, digest: &Value) {
        let blob = self.0.get_mut(text(digest)).unwrap();
        let middle = blob.len() / 2;
        blob[middle] ^= 1;
    }

    pub(super) fn write(&self, layout: &Path) -> io::Result<()> {
        let directory = layout.join("blobs/sha256");
        fs::create_dir_all(&directory)?;
        self.0.iter().try_for_each(|(digest, bytes)| fs::write(directory.join(digest.trim_start_matches("sha256:")), bytes))
    }
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// A store with these layouts, registry and limits.
pub(super) fn store(root: &Path, layouts: &[&Path], registry: Option<&str>, limits: ImageLimits) -> ImageStore {
    ImageStore::open(config(root, layouts, registry, limits)).unwrap()
}

/// What [`store`] opens.
pub(super) fn config(root: &Path, layouts: &[&Path], registry: Option<&str>, limits: ImageLimits) -> ImageConfig {
    ImageConfig {
        root: root.join("images"),
        layouts: layouts.iter().map(|path| (*path).to_owned()).collect(),
        registries: RegistryConfig { insecure: registry.map(str::to_owned).into_iter().collect(), ..RegistryConfig::default() },
        limits,
    }
}
