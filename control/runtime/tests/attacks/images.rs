//! Images that would fill the disk, or reach out of it. The control rows have the same image and another limit; for those
//! that reach out, a program that believes archives.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use codiusd_runtime::image::{ImageConfig, ImageLimits, ImageStore, RegistryConfig};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::kit::Report;

const MIB: u64 = 1 << 20;

/// A layer as it is, and as it is downloaded.
struct Layer {
    tar: Vec<u8>,
    blob: Vec<u8>,
}

/// A bomb, its defence, the limits that stop it.
type Bomb = (&'static str, &'static str, fn() -> Vec<Layer>, fn(&mut ImageLimits));

const BOMBS: &[Bomb] = &[
    ("a gzip bomb", "size when unpacked", || vec![gzip(zeros(64 * MIB))], |limits| limits.unpacked_bytes_max = 32 * MIB),
    ("a zstd bomb", "size when unpacked", || vec![zstd(zeros(64 * MIB))], |limits| limits.unpacked_bytes_max = 32 * MIB),
    ("a sparse file", "size when unpacked, holes counted", || vec![gzip(sparse())], |limits| limits.unpacked_bytes_max = 32 * MIB),
    (
        "bombs in many layers",
        "size of the whole image",
        || vec![gzip(zeros(24 * MIB)), gzip(zeros(25 * MIB))],
        |limits| {
            limits.unpacked_bytes_max = 32 * MIB;
        },
    ),
    ("very many files", "files of an image", || vec![gzip(many(EntryType::Regular))], |limits| limits.entries_max = 2500),
    ("very many hard links", "files of an image", || vec![gzip(many(EntryType::Link))], |limits| limits.entries_max = 2500),
    (
        "empty files that fill the disk",
        "what a file takes, counted",
        || vec![gzip(many(EntryType::Regular))],
        |limits| {
            limits.unpacked_bytes_max = 8 * MIB;
        },
    ),
    ("directories nobody lists", "files of an image, implied ones counted", || vec![gzip(deep())], |limits| limits.entries_max = 2500),
    ("very many layers", "layers of an image", || (0..9).map(|size| gzip(zeros(size))).collect(), |limits| limits.layers_max = 8),
    ("a large download", "size of a layer's blob", || vec![plain(zeros(8 * MIB))], |limits| limits.blob_bytes_max = MIB),
    ("more than there is room for", "room for images", || vec![gzip(zeros(MIB))], |limits| limits.disk_bytes_max = MIB / 2),
];

pub(crate) async fn run(report: &mut Report) {
    for (name, defence, build, tighten) in BOMBS {
        let layers = build();
        let roomy = ImageLimits { unpacked_bytes_max: 256 * MIB, blob_bytes_max: 64 * MIB, ..ImageLimits::default() };
        let mut tight = roomy;
        tighten(&mut tight);
        let (attack, left) = unpack(&layers, tight).await;
        assert!(left <= tight.unpacked_bytes_max.min(64 * MIB) + MIB, "{name}: {left} bytes are left of it");
        report.row(name, defence, &attack, Ok(&unpack(&layers, roomy).await.0));
    }
    a_name_without_end(report).await;
    for (name, tar) in ESCAPES {
        escape(report, name, *tar).await;
    }
}

/// An image of these layers; what became of it, and what of it is on the disk, in bytes.
async fn unpack(layers: &[Layer], limits: ImageLimits) -> (String, u64) {
    let dir = tempfile::tempdir().unwrap();
    let reference = write(&dir.path().join("layout"), layers);
    let images = dir.path().join("images");
    let store = ImageStore::open(ImageConfig {
        root: images.clone(),
        layouts: vec![dir.path().join("layout")],
        registries: RegistryConfig::default(),
        limits,
    });
    let came_to = match store.unwrap().ensure(&reference).await {
        Ok(_) => "done unpacked".to_owned(),
        Err(error) => format!("refused {}", error.to_string().split_once(": ").map_or_else(String::new, |(_, reason)| reason.to_owned())),
    };
    (came_to, size(&images))
}

fn size(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(
            |entry| if entry.file_type().unwrap().is_dir() { 4096 + size(&entry.path()) } else { entry.metadata().unwrap().blocks() * 512 },
        )
        .sum()
}

fn write(layout: &Path, layers: &[Layer]) -> String {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes).unwrap();
        json!({ "digest": format!("sha256:{digest}") })
    };
    let stored: Vec<_> = layers.iter().map(|layer| put(&layer.blob)).collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", hex::encode(Sha256::digest(&layer.tar)))).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put(config.to_string().as_bytes());
    let manifest = put(json!({ "schemaVersion": 2, "config": config, "layers": stored }).to_string().as_bytes());
    format!("local/bomb@{}", manifest["digest"].as_str().unwrap())
}

fn gzip(tar: Vec<u8>) -> Layer {
    let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
    writer.write_all(&tar).unwrap();
    Layer { blob: writer.finish().unwrap(), tar }
}

fn zstd(tar: Vec<u8>) -> Layer {
    Layer { blob: zstd::encode_all(&*tar, 1).unwrap(), tar }
}

fn plain(tar: Vec<u8>) -> Layer {
    Layer { blob: tar.clone(), tar }
}

/// An entry, whatever its path; the archive isn't ended.
fn entry(kind: EntryType, path: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = [header.as_bytes().as_slice(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn ended(entries: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut tar: Vec<u8> = entries.into_iter().flatten().collect();
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn zeros(length: u64) -> Vec<u8> {
    ended([entry(EntryType::Regular, "zeros", "", &vec![0; usize::try_from(length).unwrap()])])
}

/// A file of 64 MiB that is all hole.
fn sparse() -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("hole").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize[..11].copy_from_slice(format!("{:011o}", 64 * MIB).as_bytes());
    gnu.sparse[0].offset[..11].copy_from_slice(format!("{:011o}", 64 * MIB).as_bytes());
    gnu.sparse[0].numbytes[..11].copy_from_slice(format!("{:011o}", 0).as_bytes());
    header.set_cksum();
    ended([header.as_bytes().to_vec()])
}

/// Three thousand of a kind.
fn many(kind: EntryType) -> Vec<u8> {
    let first = std::iter::once(entry(EntryType::Regular, "0", "", b""));
    ended(first.chain((1..3000).map(|number| entry(kind, &number.to_string(), if kind == EntryType::Link { "0" } else { "" }, b""))))
}

/// A hundred files, and forty directories above each.
fn deep() -> Vec<u8> {
    ended((0..100).map(|number| entry(EntryType::Regular, &format!("{number}/{}f", "d/".repeat(40)), "", b"")))
}

async fn a_name_without_end(report: &mut Report) {
    let endless = vec![b'n'; usize::try_from(MIB).unwrap()];
    let layer = gzip(ended([entry(EntryType::GNULongName, "././@LongLink", "", &endless), entry(EntryType::Regular, "short", "", b"")]));
    let (attack, _) = unpack(&[layer], ImageLimits::default()).await;
    report.row("a name without end", "size of an entry's headers", &attack, Err("it would have to be held in memory"));
}

type Escape = (&'static str, fn(&str) -> Vec<u8>);

/// `{}` is a directory of the host that has a file `canary`.
const ESCAPES: &[Escape] = &[
    ("a path that climbs out", |_| ended([entry(EntryType::Regular, "../outside/canary", "", b"x")])),
    ("a file through a link", |outside| {
        ended([entry(EntryType::Symlink, "s", outside, b""), entry(EntryType::Regular, "s/canary", "", b"x")])
    }),
    ("a link to a file, written to by its other name", |outside| {
        let canary = format!("{outside}/canary");
        ended([entry(EntryType::Link, "h", &canary, b""), entry(EntryType::Regular, "h", "", b"x")])
    }),
];

async fn escape(report: &mut Report, name: &str, build: fn(&str) -> Vec<u8>) {
    let dir = tempfile::Builder::new().prefix("e").tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let canary = outside.join("canary");
    let reset = || fs::write(&canary, "sings").unwrap();
    let verdict =
        |how: String| if fs::read(&canary).unwrap() == b"sings" { format!("refused {how}") } else { "done the canary is dead".to_owned() };
    let tar = build(outside.to_str().unwrap());
    reset();
    let layouts = dir.path().join("layout");
    let reference = write(&layouts, &[plain(tar.clone())]);
    let images = ImageConfig {
        root: dir.path().join("images"),
        layouts: vec![layouts],
        registries: RegistryConfig::default(),
        limits: ImageLimits::default(),
    };
    let outcome = ImageStore::open(images).unwrap().ensure(&reference).await;
    let attack = verdict(
        outcome.map_or_else(|error| error.to_string().rsplit(": ").next().unwrap_or_default().to_owned(), |_| "it stays inside".to_owned()),
    );
    reset();
    report.row(name, "openat2, the layer as root", &attack, Ok(&verdict(believing(dir.path(), &tar))));
}

/// GNU tar, told to believe what it reads.
fn believing(dir: &Path, tar: &[u8]) -> String {
    let inside: PathBuf = dir.join("inside");
    fs::create_dir(&inside).unwrap();
    let mut child = Command::new("tar")
        .args(["-x", "-P", "--keep-directory-symlink", "--overwrite", "-f", "-", "-C"])
        .arg(&inside)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    child.wait().unwrap();
    "tar stays inside".to_owned()
}
