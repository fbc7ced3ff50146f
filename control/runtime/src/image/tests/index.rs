//! Which image of an index is chosen, and entries that aren't images.

use serde_json::{Value, json};

use super::kit::{Blobs, Tar, store, text};
use crate::{
    RuntimeError,
    image::{
        ImageConfig, ImageLimits, ImageRef, RegistryConfig,
        describe::describe,
        platform::{Machine, architecture},
        source::Source,
    },
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A processor of 2013.
const MACHINE: Machine = Machine { architecture: "amd64", level: 3 };

/// Images whose command identifies them.
#[derive(Default)]
struct Images(Blobs);

impl Images {
    /// Adds a named image for a platform that its config and its entry name.
    fn image(&mut self, name: &str, platform: &str) -> Value {
        let mut descriptor = self.unplaced(name, platform);
        descriptor["platform"] = place(platform);
        descriptor
    }

    /// The same, without a platform in the index.
    fn unplaced(&mut self, name: &str, platform: &str) -> Value {
        let tar = Tar::new().file("f", name).bytes();
        let mut config = json!({ "config": { "Cmd": [name] }, "rootfs": { "diff_ids": [crate::image::Digest::of(&tar).to_string()] } });
        config.as_object_mut().unwrap().append(place(platform).as_object_mut().unwrap());
        let layer = self.0.put(tar);
        self.0.manifest(&config, &[layer])
    }

    /// Adds an artifact that isn't an image, as registries hold them.
    fn artifact(&mut self, config: &str, platform: &str) -> Value {
        let (mut empty, layer) = (self.0.put(b"{}".to_vec()), self.0.put(b"chart".to_vec()));
        empty["mediaType"] = config.into();
        let mut descriptor = self.0.document(&json!({ "schemaVersion": 2, "config": empty, "layers": [layer] }), MANIFEST);
        descriptor["platform"] = place(platform);
        descriptor
    }

    fn index(&mut self, entries: &[Value]) -> Value {
        self.0.document(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }), INDEX)
    }

    /// The command of the chosen image, or the error.
    async fn taken(&self, descriptor: &Value) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        self.0.write(dir.path()).unwrap();
        let config = ImageConfig {
            root: dir.path().join("images"),
            layouts: vec![dir.path().to_owned()],
            registries: RegistryConfig::default(),
            limits: ImageLimits::default(),
        };
        let image = ImageRef::parse(&format!("local/thing@{}", text(&descriptor["digest"]))).unwrap();
        match describe(&Source::new(&config).unwrap(), &image, MACHINE).await {
            Ok(described) => Ok(described.settings.cmd.unwrap().concat()),
            Err(RuntimeError::ImageRefused { reason, .. }) => Err(reason),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// `os/architecture[/variant]`
fn place(platform: &str) -> Value {
    let parts: Vec<&str> = platform.split('/').collect();
    match parts[..] {
        [os, architecture] => json!({ "os": os, "architecture": architecture }),
        [os, architecture, variant] => json!({ "os": os, "architecture": architecture, "variant": variant }),
        _ => json!({}),
    }
}

fn with(mut descriptor: Value, key: &str, value: Value) -> Value {
    descriptor[key] = value;
    descriptor
}

/// The content of the index, and the command of the chosen image or the error.
type Case = (&'static str, fn(&mut Images) -> Value, Result<&'static str, &'static str>);

const CASES: &[Case] = &[
    (
        "the platform of this machine",
        |all| {
            let entries = [all.image("other", "linux/s390x"), all.image("windows", "windows/amd64"), all.image("right", "linux/amd64")];
            all.index(&entries)
        },
        Ok("right"),
    ),
    (
        "the best variant the processor has",
        |all| {
            let entries = ["v4", "v1", "v3", "v2"].map(|variant| all.image(variant, &format!("linux/amd64/{variant}")));
            all.index(&entries)
        },
        Ok("v3"),
    ),
    (
        "plain before a variant the processor hasn't",
        |all| {
            let entries = [all.image("v4", "linux/amd64/v4"), all.image("plain", "linux/amd64")];
            all.index(&entries)
        },
        Ok("plain"),
    ),
    (
        "the first of equals",
        |all| {
            let entries = [all.image("first", "linux/amd64"), all.image("second", "linux/amd64")];
            all.index(&entries)
        },
        Ok("first"),
    ),
    (
        "an index in an index in an index, one of them Docker's",
        |all| {
            let entries = [all.image("other", "linux/arm64"), all.image("right", "linux/amd64")];
            let inner = all.0.document(&json!({ "schemaVersion": 2, "mediaType": LIST, "manifests": entries }), LIST);
            let middle = all.index(&[with(inner, "platform", place("linux/amd64"))]);
            let elsewhere = all.index(&[]);
            all.index(&[with(elsewhere, "platform", place("linux/arm64")), middle])
        },
        Ok("right"),
    ),
    (
        "an entry without a platform, by its config",
        |all| {
            let entries = [all.unplaced("other", "linux/arm64"), all.unplaced("right", "linux/amd64")];
            all.index(&entries)
        },
        Ok("right"),
    ),
    (
        "an entry with a platform before one without",
        |all| {
            let entries = [all.unplaced("vague", "linux/amd64"), all.image("right", "linux/amd64")];
            all.index(&entries)
        },
        Ok("right"),
    ),
    (
        "entries of other media types, artifacts and attestations are no images",
        |all| {
            let image = |all: &mut Images| all.image("right", "linux/amd64");
            let wrong = |all: &mut Images| all.image("wrong", "linux/amd64");
            let entries = [
                with(wrong(all), "mediaType", json!("application/vnd.example.thing.v1+json")),
                with(wrong(all), "artifactType", json!("application/vnd.example.sbom")),
                with(wrong(all), "annotations", json!({ "vnd.docker.reference.type": "attestation-manifest" })),
                all.artifact("application/vnd.cncf.helm.config.v1+json", "linux/amd64"),
                all.artifact("application/vnd.oci.empty.v1+json", "linux/amd64"),
                with(wrong(all), "platform", place("unknown/unknown")),
                json!({ "mediaType": MANIFEST, "digest": format!("sha512:{}", "0".repeat(128)), "size": 3, "platform": place("linux/amd64") }),
                json!({ "mediaType": MANIFEST, "digest": 7 }),
                json!("nothing"),
                image(all),
            ];
            all.index(&entries)
        },
        Ok("right"),
    ),
    (
        "media types in capitals, with parameters, and none",
        |all| {
            let image = all.image("right", "linux/amd64");
            let entry = with(image.clone(), "mediaType", json!(" Application/vnd.oci.image.manifest.v1+JSON; charset=utf-8"));
            let inner = all.index(&[entry]);
            all.index(&[with(inner, "mediaType", Value::Null)])
        },
        Ok("right"),
    ),
    (
        "an index that doesn't say so",
        |all| {
            let image = all.image("right", "linux/amd64");
            all.0.put(json!({ "schemaVersion": 2, "manifests": [image], "annotations": null }).to_string().into_bytes())
        },
        Ok("right"),
    ),
    ("a config that doesn't say what it is for", |all| all.unplaced("right", ""), Ok("right")),
    ("an image for another machine", |all| all.unplaced("x", "linux/arm64"), Err("it is for linux/arm64, and this machine is linux/amd64")),
    ("an image for a better processor", |all| all.unplaced("x", "linux/amd64/v4"), Err("it is for linux/amd64/v4")),
    (
        "an index of other platforms",
        |all| {
            let entries = [all.image("other", "linux/s390x"), all.image("old", "linux/386"), all.image("best", "linux/amd64/v4")];
            let nested = all.index(&[entries[0].clone()]);
            all.index(&[entries.as_slice(), &[nested]].concat())
        },
        Err("it has nothing for linux/amd64: it is for linux/386, linux/amd64/v4, linux/s390x"),
    ),
    ("an index of nothing", |all| all.index(&[]), Err("it has no images at all")),
    (
        "an index of null",
        |all| all.0.document(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": null }), INDEX),
        Err("no images at all"),
    ),
    (
        "too deep",
        |all| {
            let image = all.image("x", "linux/amd64");
            (0..8).fold(image, |below, _| all.index(&[below]))
        },
        Err("more than 4 deep"),
    ),
    (
        "too many",
        |all| {
            let entries: Vec<Value> = (0..40).map(|number| all.unplaced(&number.to_string(), "linux/arm64")).collect();
            all.index(&entries)
        },
        Err("too many parts"),
    ),
    (
        "an artifact by itself",
        |all| all.artifact("application/vnd.cncf.helm.config.v1+json", "linux/amd64"),
        Err("an artifact (application/vnd.cncf.helm.config.v1+json)"),
    ),
    (
        "schema 1",
        |all| {
            let layers = json!([{ "blobSum": "sha256:0" }]);
            all.0.put(
                json!({ "schemaVersion": 1, "name": "a", "architecture": "amd64", "fsLayers": layers, "history": [] })
                    .to_string()
                    .into_bytes(),
            )
        },
        Err("Docker schema 1"),
    ),
    (
        "a manifest and an index in one",
        |all| {
            let image = all.image("x", "linux/amd64");
            let mut both = all.0.json(&image);
            both["manifests"] = json!([image]);
            all.0.put(both.to_string().into_bytes())
        },
        Err("can't be read"),
    ),
    (
        "a manifest that says it is an index",
        |all| {
            let image = all.image("x", "linux/amd64");
            let wrong = with(all.0.json(&image), "mediaType", json!(INDEX));
            all.0.put(wrong.to_string().into_bytes())
        },
        Err("can't be read"),
    ),
    (
        "a manifest of an unknown kind",
        |all| {
            let image = all.image("x", "linux/amd64");
            let other = with(all.0.json(&image), "mediaType", json!("application/vnd.oci.artifact.manifest.v1+json"));
            all.0.put(other.to_string().into_bytes())
        },
        Err("application/vnd.oci.artifact.manifest.v1+json, which isn't an image"),
    ),
    ("no layers", |all| all.0.manifest(&json!({ "rootfs": null }), &[]), Err("no layers")),
    (
        "more layers than the config knows",
        |all| {
            let image = all.image("x", "linux/amd64");
            let mut manifest = all.0.json(&image);
            let again = manifest["layers"][0].clone();
            manifest["layers"].as_array_mut().unwrap().push(again);
            all.0.put(manifest.to_string().into_bytes())
        },
        Err("its config is of 1 layers, and its manifest has 2"),
    ),
    (
        "an encrypted layer",
        |all| {
            let image = all.image("x", "linux/amd64");
            let mut manifest = all.0.json(&image);
            manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".into();
            all.0.put(manifest.to_string().into_bytes())
        },
        Err("is encrypted"),
    ),
    (
        "a layer that isn't one",
        |all| {
            let image = all.image("x", "linux/amd64");
            let mut manifest = all.0.json(&image);
            manifest["layers"][0]["mediaType"] = "application/vnd.dev.cosign.simplesigning.v1+json".into();
            all.0.put(manifest.to_string().into_bytes())
        },
        Err("isn't a file system but application/vnd.dev.cosign.simplesigning.v1+json"),
    ),
    (
        "a layer of another digest",
        |all| {
            let image = all.image("x", "linux/amd64");
            let mut manifest = all.0.json(&image);
            manifest["layers"][0]["digest"] = "sha512:00".into();
            all.0.put(manifest.to_string().into_bytes())
        },
        Err("has the digest \"sha512:00\""),
    ),
];

#[tokio::test]
async fn what_is_taken_of_an_index() {
    for (name, build, right) in CASES {
        let mut images = Images::default();
        let descriptor = build(&mut images);
        let taken = images.taken(&descriptor).await;
        match (right, &taken) {
            (Ok(right), Ok(taken)) => assert_eq!(taken, right, "{name}"),
            (Err(right), Err(said)) => assert!(said.contains(right), "{name}: {said}"),
            _ => panic!("{name}: {taken:?}, not {right:?}"),
        }
    }
}

/// Pulls the image, instead of only describing it, on the machine this runs on.
#[tokio::test]
async fn the_image_of_a_nested_index_is_pulled() {
    let (dir, mut blobs) = (tempfile::tempdir().unwrap(), Blobs::default());
    let mut here = blobs.image(&[Tar::new().file("f", "here").bytes()]);
    here["platform"] = json!({ "os": "linux", "architecture": architecture() });
    let inner = blobs.document(&json!({ "schemaVersion": 2, "manifests": [here] }), INDEX);
    let outer = blobs.document(&json!({ "schemaVersion": 2, "manifests": [inner] }), INDEX);
    let layout = dir.path().join("layout");
    blobs.write(&layout).unwrap();
    let store = store(dir.path(), &[&layout], None, ImageLimits::default());
    let pulled = store.ensure(&format!("local/thing@{}", text(&outer["digest"]))).await.unwrap();
    assert_eq!(std::fs::read_to_string(pulled.layers[0].join("f")).unwrap(), "here");
}
