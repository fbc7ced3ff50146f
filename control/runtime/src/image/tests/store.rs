//! Whole images from layouts, intact and tampered with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

use super::kit::{Blobs, Tar, store, text};
use crate::{
    RuntimeError,
    image::{ImageLimits, ImageStore},
};

/// A store beside a layout.
struct Host {
    dir: TempDir,
    limits: ImageLimits,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), limits: ImageLimits::default() }
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn store(&self, blobs: &Blobs) -> ImageStore {
        blobs.write(&self.layout()).unwrap();
        store(self.dir.path(), &[&self.layout()], None, self.limits)
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("images").join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn reference(manifest: &Value) -> String {
    format!("local/thing@{}", text(&manifest["digest"]))
}

fn read(layer: &Path, path: &str) -> String {
    fs::read_to_string(layer.join(path)).unwrap()
}

fn layer(content: &str) -> Vec<u8> {
    Tar::new().file("f", content).bytes()
}

#[tokio::test]
async fn an_image_is_unpacked_once_and_needs_its_source_no_more() {
    let (host, mut blobs) = (Host::new(), Blobs::default());
    let image = reference(&blobs.image(&[layer("lower"), layer("upper")]));
    let store = host.store(&blobs);
    let first = store.ensure(&image).await.unwrap();
    assert_eq!(first.layers.iter().map(|layer| read(layer, "f")).collect::<Vec<_>>(), ["lower", "upper"]);
    assert_eq!(first.settings.cmd.as_deref(), Some(&["/run".to_owned()][..]));

    fs::remove_dir_all(host.layout()).unwrap();
    store.inspect(&image).await.unwrap();
    assert_eq!(store.ensure(&image).await.unwrap().layers, first.layers);
    let reopened = super::kit::store(host.dir.path(), &[], None, host.limits);
    assert_eq!(reopened.ensure(&image).await.unwrap().layers, first.layers);
    assert_eq!(host.names("blobs"), [""; 0], "downloads are cleared away");
}

#[tokio::test]
async fn images_share_the_layers_they_have_in_common() {
    let (host, mut blobs) = (Host::new(), Blobs::default());
    let one = reference(&blobs.image(&[layer("base"), layer("one")]));
    let two = reference(&blobs.image(&[layer("base"), layer("two")]));
    let store = host.store(&blobs);
    let (one, two) = tokio::join!(store.ensure(&one), store.ensure(&two));
    let (one, two) = (one.unwrap().layers, two.unwrap().layers);
    assert_eq!(one[0], two[0]);
    assert_ne!(one[1], two[1]);
    assert_eq!(host.names("layers").len(), 3);
}

/// The changed part is the manifest, its config, a layer, or the config's digest of a layer.
#[tokio::test]
async fn tampered_images_are_refused_and_leave_nothing() {
    let mut whole = Blobs::default();
    let image = whole.image(&[layer("lower"), layer("upper")]);
    let manifest = whole.json(&image);
    let parts = [&image["digest"], &manifest["config"]["digest"], &manifest["layers"][1]["digest"]];
    let mut cases: Vec<(String, Blobs)> = parts
        .iter()
        .map(|part| {
            let mut tampered = whole.clone();
            tampered.tamper(part);
            (reference(&image), tampered)
        })
        .collect();
    let mut config = whole.json(&manifest["config"]);
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().reverse();
    let lying = whole.manifest(&config, manifest["layers"].as_array().unwrap());
    cases.push((reference(&lying), whole.clone()));
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    let short = whole.manifest(&config, manifest["layers"].as_array().unwrap());
    cases.push((reference(&short), whole));
    for (number, (image, blobs)) in cases.into_iter().enumerate() {
        let host = Host::new();
        let outcome = host.store(&blobs).ensure(&image).await;
        assert!(matches!(outcome, Err(RuntimeError::ImageRefused { .. })), "case {number}: {outcome:?}");
        let left: Vec<String> = [host.names("blobs"), host.names("images")].concat();
        assert_eq!(left, [""; 0], "case {number}");
        assert!(host.names("layers").iter().all(|name| !name.ends_with(".tmp")), "case {number}");
    }
}

#[tokio::test]
async fn what_no_layout_holds_is_refused_before_money_moves() {
    let (host, mut blobs) = (Host::new(), Blobs::default());
    let image = reference(&blobs.image(&[layer("x")]));
    let store = host.store(&blobs);
    store.inspect(&image).await.unwrap();
    let unknown = format!("local/thing@sha256:{}", "0".repeat(64));
    let error = store.inspect(&unknown).await.unwrap_err();
    assert!(error.to_string().contains("CODIUS_IMAGE_LAYOUTS"), "{error}");
}

/// Layers that are each small add up to a large image.
#[tokio::test]
async fn limits_are_for_the_image_as_a_whole() {
    let mut host = Host::new();
    host.limits.unpacked_bytes_max = 16384;
    let mut blobs = Blobs::default();
    let layers: Vec<Vec<u8>> = (0..3).map(|number| layer(&number.to_string().repeat(1500))).collect();
    let two = reference(&blobs.image(&layers[..2]));
    let three = reference(&blobs.image(&[&layers[2..], &layers[..2]].concat()));
    let store = host.store(&blobs);
    store.ensure(&two).await.unwrap();
    let error = store.ensure(&three).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::ImageRefused { reason, .. } if reason.contains("too large")), "{error:?}");
}

#[tokio::test]
async fn what_a_killed_process_left_half_done_is_removed() {
    let (host, mut blobs) = (Host::new(), Blobs::default());
    let image = reference(&blobs.image(&[layer("x")]));
    host.store(&blobs).ensure(&image).await.unwrap();
    let before = host.names("layers");
    fs::create_dir(host.dir.path().join("images/layers/half.tmp")).unwrap();
    fs::write(host.dir.path().join("images/layers/half.tmp/f"), "x").unwrap();
    fs::write(host.dir.path().join("images/blobs/half.tmp"), "x").unwrap();
    let store = host.store(&blobs);
    assert_eq!((host.names("layers"), host.names("blobs")), (before.clone(), Vec::new()));

    // A missing layer is unpacked again.
    fs::remove_dir_all(host.dir.path().join("images/layers").join(&before[0])).unwrap();
    assert_eq!(read(&store.ensure(&image).await.unwrap().layers[0], "f"), "x");
}

/// Records of older releases have no volumes: the image's documents are fetched again, its layers aren't, and without the source the old
/// record is used.
#[tokio::test]
async fn an_image_of_an_older_release_is_asked_for_again_and_used_meanwhile() {
    let (host, mut blobs) = (Host::new(), Blobs::default());
    let plain = blobs.image(&[layer("x")]);
    let manifest = blobs.json(&plain);
    let mut config = blobs.json(&manifest["config"]);
    config["config"]["Volumes"] = serde_json::json!({ "/data": {} });
    let image = reference(&blobs.manifest(&config, manifest["layers"].as_array().unwrap()));
    let store = host.store(&blobs);
    let first = store.ensure(&image).await.unwrap();
    assert!(first.settings.volumes.is_some());
    let record = host.dir.path().join("images/images").join(&host.names("images")[0]);
    let written: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    let mut older = written.clone();
    older.as_object_mut().unwrap().remove("version");
    older["settings"].as_object_mut().unwrap().remove("Volumes");
    fs::write(first.layers[0].join("f"), "unpacked then").unwrap();

    fs::write(&record, older.to_string()).unwrap();
    assert_eq!(store.inspect(&image).await.unwrap().unwrap().volumes, first.settings.volumes);
    let again = store.ensure(&image).await.unwrap();
    assert_eq!((again.settings, &again.layers), (first.settings, &first.layers));
    assert_eq!(read(&again.layers[0], "f"), "unpacked then");
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(&record).unwrap()).unwrap(), written);

    fs::write(&record, older.to_string()).unwrap();
    fs::remove_dir_all(host.layout().join("blobs")).unwrap();
    assert_eq!(store.inspect(&image).await.unwrap().unwrap().volumes, None);
    let meanwhile = store.ensure(&image).await.unwrap();
    assert_eq!((meanwhile.settings.volumes, meanwhile.layers), (None, first.layers));
}
