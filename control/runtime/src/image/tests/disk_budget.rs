//! Disk space of images: what is removed, what stays, and what a crash leaves.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::kit::{Blobs, Tar, store, text};
use crate::{
    RuntimeError,
    image::{Image, ImageLimits, ImageStore, LayerUse},
};

const MIB: u64 = 1 << 20;

/// A store with room for a few images of a mebibyte, and four of them in a layout.
struct Host {
    dir: TempDir,
    images: Vec<String>,
    base: usize,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut blobs = Blobs::default();
        let content = |number: u8| Tar::new().file("f", &char::from(b'0' + number).to_string().repeat(1 << 20)).bytes();
        let base = Tar::new().file("base", "x").bytes();
        let images = (0..4).map(|number| blobs.image(&[base.clone(), content(number)]));
        let images = images.map(|manifest| format!("local/thing@{}", text(&manifest["digest"]))).collect();
        blobs.write(&dir.path().join("layout")).unwrap();
        Self { dir, images, base: base.len() }
    }

    /// There is room for two of them. Their blobs, a kilobyte each, don't show their size.
    fn open(&self) -> ImageStore {
        assert!(self.base < 4096);
        let limits = ImageLimits {
            unpacked_bytes_max: MIB + MIB / 4,
            blob_bytes_max: 2 * MIB,
            disk_bytes_max: 2 * MIB + MIB / 2,
            ..ImageLimits::default()
        };
        store(self.dir.path(), &[&self.dir.path().join("layout")], None, limits)
    }

    fn record(&self, image: usize) -> PathBuf {
        let digest = self.images[image].rsplit(':').next().unwrap();
        self.dir.path().join("images/images").join(digest).with_extension("json")
    }

    /// Which images are present.
    fn there(&self) -> Vec<usize> {
        (0..self.images.len()).filter(|image| self.record(*image).exists()).collect()
    }

    fn layers(&self) -> usize {
        fs::read_dir(self.dir.path().join("images/layers")).unwrap().count()
    }

    /// File times are coarser than the test's steps.
    fn used_before(&self, image: usize, seconds: u64) {
        let file = fs::File::options().write(true).open(self.record(image)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }
}

#[tokio::test]
async fn the_image_that_was_not_used_for_longest_makes_room() {
    let host = Host::new();
    let store = host.open();
    for image in 0..2 {
        drop(store.ensure(&host.images[image]).await.unwrap());
        host.used_before(image, 100 - image as u64);
    }
    drop(store.ensure(&host.images[0]).await.unwrap()); // used again
    drop(store.ensure(&host.images[2]).await.unwrap());
    assert_eq!(host.there(), [0, 2]);
    assert_eq!(host.layers(), 3, "the layer they share, and one each");
    let reopened = {
        drop(store);
        host.open()
    };
    drop(reopened.ensure(&host.images[3]).await.unwrap());
    assert_eq!(host.there().len(), 2, "what is there was counted at the start, too: {:?}", host.there());
}

#[tokio::test]
async fn what_is_in_use_stays_whatever_else_goes() {
    let host = Host::new();
    let store = host.open();
    let used: Vec<Image> = vec![store.ensure(&host.images[0]).await.unwrap(), store.ensure(&host.images[1]).await.unwrap()];
    host.used_before(0, 100);
    let error = store.ensure(&host.images[2]).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NoRoom { .. }), "{error:?}");
    assert!(used.iter().all(|image| image.layers[1].join("f").exists()));
    // A pod's shim holds a shared lock of its own as long as it lives.
    let shim = LayerUse::take(&used[0].layers[1]).unwrap().unwrap();
    drop(used);
    drop(store.ensure(&host.images[2]).await.unwrap());
    assert_eq!(host.there(), [0, 2], "1 was used later, and is used by nobody");
    drop(shim);
    drop(store.ensure(&host.images[3]).await.unwrap());
    assert_eq!(host.there().len(), 2);
}

#[tokio::test]
async fn what_an_interrupted_removal_leaves_is_removed_or_pulled_again() {
    let host = Host::new();
    let store = host.open();
    let layers = store.ensure(&host.images[0]).await.unwrap().layers;
    drop(store);
    // Killed after the record, after the rename, and between two layers.
    let saved = fs::read(host.record(0)).unwrap();
    fs::remove_file(host.record(0)).unwrap();
    drop(host.open().ensure(&host.images[0]).await.unwrap());
    fs::rename(&layers[1], layers[1].with_extension("0.tmp")).unwrap();
    drop(host.open().ensure(&host.images[0]).await.unwrap());
    assert_eq!(host.layers(), 2);
    fs::remove_dir_all(&layers[0]).unwrap();
    fs::write(host.record(0), saved).unwrap();
    drop(host.open().ensure(&host.images[0]).await.unwrap());
    assert!(layers.iter().all(|layer| layer.exists()));
}

#[tokio::test]
async fn layers_no_image_needs_go_first() {
    let host = Host::new();
    let store = host.open();
    for image in 0..2 {
        drop(store.ensure(&host.images[image]).await.unwrap());
    }
    fs::remove_file(host.record(1)).unwrap();
    drop(store.ensure(&host.images[2]).await.unwrap());
    assert_eq!(host.there(), [0, 2], "the remains of 1 were enough");
    assert_eq!(host.layers(), 3);
}
