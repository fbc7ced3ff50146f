//! Whole images in one file: the same tree as an overlay of their layers, whatever is in them.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tar::EntryType;
use tempfile::TempDir;

use super::kit::{Blobs, Tar, store, text};
use crate::{
    RuntimeError,
    image::{Digest, Image, ImageLimits, ImageStore, LayerUse, MergedImage},
};

const MIB: u64 = 1 << 20;

/// A store beside a layout of one image after another.
struct Host {
    dir: TempDir,
    limits: ImageLimits,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), limits: ImageLimits::default() }
    }

    fn open(&self) -> ImageStore {
        store(self.dir.path(), &[&self.dir.path().join("layout")], None, self.limits)
    }

    /// Adds an image of these layers to the layout; returns its reference.
    fn image(&self, layers: &[Vec<u8>]) -> String {
        let mut blobs = Blobs::default();
        let manifest = blobs.image(layers);
        blobs.write(&self.dir.path().join("layout")).unwrap();
        format!("local/thing@{}", text(&manifest["digest"]))
    }

    async fn merge(&self, layers: &[Vec<u8>]) -> (Image, MergedImage) {
        let store = self.open();
        let image = store.ensure(&self.image(layers)).await.unwrap();
        let merged = store.merged(&image).await.unwrap();
        (image, merged)
    }

    /// Names in the directory of merged images.
    fn merged(&self) -> Vec<OsString> {
        fs::read_dir(self.dir.path().join("images/merged")).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    fn used_before(&self, image: &str, seconds: u64) {
        let record = self.dir.path().join("images/images").join(image.rsplit(':').next().unwrap()).with_extension("json");
        let file = File::options().write(true).open(record).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }
}

/// Runs in a mount namespace of its own, with directories `overlay` and `erofs`.
fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let dir = tempfile::tempdir().unwrap();
    let work = || {
        // SAFETY: file descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).unwrap();
        env::set_current_dir(dir.path()).unwrap();
        fs::create_dir("overlay").unwrap();
        fs::create_dir("erofs").unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(work).join()).unwrap()
}

/// Links keep the options of the overlay short.
fn link_layers(layers: &[PathBuf]) {
    fs::create_dir("empty").unwrap();
    layers.iter().enumerate().for_each(|(number, layer)| symlink(layer, number.to_string()).unwrap());
}

fn mount_overlay(layers: &[PathBuf]) {
    let lower: Vec<String> = (0..layers.len()).rev().map(|number| number.to_string()).chain(["empty".to_owned()]).collect();
    let options = CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
    mount("overlay", "overlay", "overlay", MountFlags::RDONLY, &*options).unwrap();
}

fn mount_erofs(file: &Path) {
    let mounted = Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(file).arg("erofs").output().unwrap();
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
}

/// What is seen of a tree, by path.
type Seen = BTreeMap<Vec<u8>, String>;

fn look(root: &Path) -> Seen {
    let (mut seen, mut links) = (Seen::new(), HashMap::new());
    walk(root, Path::new(""), &mut seen, &mut links);
    seen
}

fn walk(root: &Path, below: &Path, seen: &mut Seen, links: &mut HashMap<u64, Vec<u8>>) {
    let path = root.join(below);
    let about = fs::symlink_metadata(&path).unwrap();
    let name = below.as_os_str().as_bytes().to_vec();
    let content = if about.is_file() {
        Digest::of(&fs::read(&path).unwrap()).hex()
    } else if about.is_symlink() {
        format!("{:?}", fs::read_link(&path).unwrap())
    } else {
        String::new()
    };
    let same_as = if about.is_dir() { Vec::new() } else { links.entry(about.ino()).or_insert_with(|| name.clone()).clone() };
    // The number of links isn't compared: an overlay counts those that a higher layer hides, too.
    let size = if about.is_dir() { 0 } else { about.size() };
    let (mode, uid, gid, device, attributes) = (about.mode(), about.uid(), about.gid(), about.rdev(), attributes(&path));
    let text = format!("{mode:o} {uid}:{gid} {device} {size} {:?} {attributes:?} {content}", OsStr::from_bytes(&same_as));
    seen.insert(name, text);
    if about.is_dir() {
        let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
        let sorted: std::collections::BTreeSet<OsString> = entries.collect();
        sorted.iter().for_each(|entry| walk(root, &below.join(entry), seen, links));
    }
}

/// Attributes that a pod can see.
fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty() && !name.starts_with(b"trusted."));
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

/// Compares both trees, and returns what is seen of them.
fn compare(image: &Image, merged: &MergedImage) -> Seen {
    aside(|| {
        link_layers(&image.layers);
        mount_overlay(&image.layers);
        mount_erofs(&merged.path);
        let (overlay, erofs) = (look(Path::new("overlay")), look(Path::new("erofs")));
        for (path, text) in &overlay {
            assert_eq!(Some(text), erofs.get(path), "{:?}", OsStr::from_bytes(path));
        }
        assert_eq!(overlay.len(), erofs.len());
        erofs
    })
}

fn owned(tar: Tar, path: &str, mode: u32, uid: u64, gid: u64) -> Tar {
    tar.entry(EntryType::Regular, path, b"content", |header| {
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
    })
}

/// What a well-meant image may have.
fn ordinary() -> Vec<Vec<u8>> {
    let base = Tar::new()
        .directory("etc", 0o755)
        .file("etc/gone", "1")
        .file("etc/kept", "2")
        .directory("opaque", 0o755)
        .file("opaque/below", "3")
        .directory("becomes-file", 0o755)
        .file("becomes-file/inner", "4")
        .file("becomes-dir", "5")
        .file("one", "6")
        .hard_link("two", "one")
        .hard_link("etc/three", "one")
        .symlink("link", "etc/kept")
        .symlink("dangling", "/no/where")
        .file("replaced", "old");
    let base = owned(owned(owned(base, "setuid", 0o4755, 0, 0), "secret", 0o000, 1000, 65535), "group", 0o2070, 33, 33);
    let base = base.pax("SCHILY.xattr.user.note", "of value").file("noted", "7").directory("private", 0o700).file("private/f", "8");
    let base = base.directory("sticky", 0o1777).file("empty", "").entry(EntryType::Fifo, "fifo", b"", |header| header.set_uid(7));
    let top = Tar::new()
        .file("etc/.wh.gone", "")
        .directory("opaque", 0o750)
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/above", "9")
        .file("becomes-file", "10")
        .directory("becomes-dir", 0o711)
        .file("becomes-dir/inner", "11")
        .file("replaced", "new and longer")
        .hard_link("four", "one");
    vec![base.bytes(), top.bytes()]
}

/// What an unkind one may have.
fn hostile() -> Vec<Vec<u8>> {
    let mut tar = Tar::new().file("new\nline", "1").file("tab\t \\ \"quoted\" %s %n", "2").file("-T0", "3").file("caf\u{e9}", "4");
    let long = "n".repeat(254); // erofs-utils 1.5 takes no longer ones, of which Linux allows 255
    tar = tar.long_name(&long).file("short", "5");
    let deep = vec!["d"; 127].join("/");
    tar = tar.long_name(&format!("{deep}/f")).file("short", "6");
    tar = tar.entry(EntryType::Symlink, "s", b"", |header| header.as_old_mut().linkname = [b'x'; 100]);
    tar = tar.entry(EntryType::Regular, "bytes-\u{1}", b"\0\xff", |header| header.set_mode(0o7777));
    tar = tar.directory("many", 0o755);
    for number in 0..10_000 {
        tar = tar.file(&format!("many/{number:05}"), if number % 100 == 0 { "content" } else { "" });
    }
    vec![tar.bytes()]
}

#[tokio::test]
async fn a_merged_image_shows_what_an_overlay_of_its_layers_shows() {
    let host = Host::new();
    let (image, merged) = host.merge(&ordinary()).await;
    let seen = compare(&image, &merged);
    for gone in ["etc/gone", "opaque/below", "becomes-file/inner"] {
        assert!(!seen.contains_key(gone.as_bytes()), "{gone}");
    }
    assert!(seen[&b"noted"[..]].contains("117, 115, 101, 114"), "user attributes are kept: {}", seen[&b"noted"[..]]);
    assert!(seen[&b"setuid"[..]].starts_with("104755 0:0"));
    assert!(seen[&b"secret"[..]].starts_with("100000 1000:65535"));
    assert_eq!(fs::metadata(&merged.path).unwrap().mode() & 0o7777, 0o400);
}

#[tokio::test]
async fn odd_names_and_many_files_are_merged_as_they_are() {
    let host = Host::new();
    let (image, merged) = host.merge(&hostile()).await;
    assert!(compare(&image, &merged).len() > 10_100);
}

#[tokio::test]
async fn a_hundred_layers_are_merged() {
    let host = Host::new();
    let layer = |number: u32| Tar::new().file("top", &number.to_string()).file(&format!("f{number}"), "x").bytes();
    let (image, merged) = host.merge(&(0..100).map(layer).collect::<Vec<_>>()).await;
    assert_eq!(compare(&image, &merged).len(), 102);
}

#[tokio::test]
async fn an_image_without_layers_is_an_empty_file_system() {
    let host = Host::new();
    let store = host.open();
    // The store refuses to run such an image today.
    let mut image = store.ensure(&host.image(&ordinary())).await.unwrap();
    image.layers.clear();
    let merged = store.merged(&image).await.unwrap();
    let seen = aside(|| {
        mount_erofs(&merged.path);
        look(Path::new("erofs"))
    });
    assert_eq!(seen.len(), 1);
    assert!(seen[&b""[..]].starts_with("40755 0:0"), "{seen:?}");
}

#[tokio::test]
async fn the_same_layers_give_the_same_bytes() {
    let (one, other) = (Host::new(), Host::new());
    let (first, second) = (one.merge(&ordinary()).await.1, other.merge(&ordinary()).await.1);
    assert_eq!(fs::read(&first.path).unwrap(), fs::read(&second.path).unwrap());
}

#[tokio::test]
async fn starts_at_once_share_one_file_which_is_kept_for_later() {
    let host = Host::new();
    let store = host.open();
    let image = store.ensure(&host.image(&ordinary())).await.unwrap();
    let (one, two, three) = tokio::join!(store.merged(&image), store.merged(&image), store.merged(&image));
    let ino = fs::metadata(&one.unwrap().path).unwrap().ino();
    assert_eq!(host.merged().len(), 1);
    drop((two.unwrap(), three.unwrap(), store));
    assert_eq!(fs::metadata(&host.open().merged(&image).await.unwrap().path).unwrap().ino(), ino);
}

/// One image of a mebibyte, whose only layer differs by number.
fn large(number: u8) -> Vec<Vec<u8>> {
    vec![Tar::new().file("f", &char::from(b'0' + number).to_string().repeat(1 << 20)).bytes()]
}

/// There is room for two images with their files: each takes two mebibytes, and another one while the file is written.
fn for_two() -> Host {
    let mut host = Host::new();
    host.limits.unpacked_bytes_max = MIB + MIB / 4;
    host.limits.disk_bytes_max = 5 * MIB + MIB / 2;
    host
}

#[tokio::test]
async fn a_merged_file_counts_and_goes_with_its_image() {
    let host = for_two();
    let store = host.open();
    let images: Vec<String> = (0..3).map(|number| host.image(&large(number))).collect();
    for (number, image) in images.iter().enumerate() {
        let ready = store.ensure(image).await.unwrap();
        drop(store.merged(&ready).await.unwrap());
        host.used_before(image, 100 - number as u64);
    }
    let left = host.merged();
    assert_eq!(left.len(), 2, "the first made room for the third");
    drop(store);
    // What is there was counted at the start, too.
    let store = host.open();
    let first = store.ensure(&images[0]).await.unwrap();
    drop(store.merged(&first).await.unwrap());
    assert_eq!(host.merged().len(), 2);
    assert_ne!(host.merged(), left);
}

#[tokio::test]
async fn a_merged_file_in_use_stays_and_so_does_its_image() {
    let host = for_two();
    let store = host.open();
    let images: Vec<String> = (0..3).map(|number| host.image(&large(number))).collect();
    let mut used = Vec::new();
    for image in &images[..2] {
        let ready = store.ensure(image).await.unwrap();
        used.push(store.merged(&ready).await.unwrap());
    }
    host.used_before(&images[0], 100);
    let shim = LayerUse::take(&used[0].path).unwrap().unwrap();
    let paths: Vec<PathBuf> = used.into_iter().map(|merged| merged.path).collect();
    let ready = store.ensure(&images[2]).await.unwrap();
    drop(store.merged(&ready).await.unwrap());
    assert!(paths[0].exists(), "a shim holds it");
    assert!(!paths[1].exists(), "used later, and by nobody");
    drop(shim);
}

#[tokio::test]
async fn without_room_there_is_no_merged_file() {
    let mut host = for_two();
    host.limits.disk_bytes_max = 3 * MIB;
    let store = host.open();
    let image = store.ensure(&host.image(&large(0))).await.unwrap();
    let error = store.merged(&image).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NoRoom { .. }), "{error:?}");
    assert_eq!(host.merged(), [""; 0]);
}

#[tokio::test]
async fn what_a_killed_daemon_left_half_merged_is_removed() {
    let host = Host::new();
    let (_, merged) = host.merge(&ordinary()).await;
    fs::write(merged.path.with_extension("0000beef.tmp"), "half").unwrap();
    drop(host.open());
    assert_eq!(host.merged(), [merged.path.file_name().unwrap()]);
}
