//! What is known of an image before it is paid for, and how many requests that costs its registry.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::{
    kit::{Blobs, PATIENCE, Tar, store, text},
    registry::ask,
};
use crate::{
    ContainerSpec, RuntimeError,
    image::{self, ImageLimits, ImageSettings, ImageStore},
};

/// The requests a registry received, in order.
type Asked = Arc<Mutex<Vec<String>>>;

/// A registry that has some blobs, answers `503` for the one in `away`, and doesn't answer at all if it has none.
async fn serve(blobs: BTreeMap<String, Vec<u8>>, away: Option<String>) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap().to_string(), Asked::default());
    let log = asked.clone();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (path, _) = ask(&mut stream).await;
            let digest = path.rsplit('/').next().unwrap().to_owned();
            log.lock().unwrap().push(digest.clone());
            if blobs.is_empty() {
                silent.push(stream);
                continue;
            }
            let (status, body) = match blobs.get(&digest) {
                _ if away.as_ref() == Some(&digest) => ("503 Service Unavailable", &b""[..]),
                Some(blob) => ("200 OK", &blob[..]),
                None => ("404 Not Found", &b""[..]),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        }
    });
    (address, asked)
}

fn open(address: &str) -> (ImageStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (store(dir.path(), &[], Some(address), ImageLimits::default()), dir)
}

fn named(address: &str, digest: &Value) -> String {
    format!("{address}/some/thing@{}", text(digest))
}

fn layer() -> Vec<u8> {
    Tar::new().file("f", "x").bytes()
}

#[tokio::test]
async fn a_good_image_is_known_without_its_layers_and_asked_for_once() {
    let mut blobs = Blobs::default();
    let image = blobs.image(&[layer()]);
    let manifest = blobs.json(&image);
    let (address, asked) = serve(blobs.0.clone(), None).await;
    let (store, dir) = open(&address);
    let name = named(&address, &image["digest"]);
    for _ in 0..3 {
        let settings = store.inspect(&name).await.unwrap().expect("the registry says it");
        assert_eq!(settings.cmd.as_deref(), Some(&["/run".to_owned()][..]));
    }
    assert_eq!(std::fs::read_dir(dir.path().join("images/layers")).unwrap().count(), 0);
    let first = vec![text(&image["digest"]).to_owned(), text(&manifest["config"]["digest"]).to_owned()];
    assert_eq!(*asked.lock().unwrap(), first);
    store.ensure(&name).await.unwrap();
    let layer = text(&manifest["layers"][0]["digest"]).to_owned();
    assert_eq!(*asked.lock().unwrap(), [first, vec![layer]].concat(), "what was known isn't asked for again");
}

#[tokio::test]
async fn an_image_that_cannot_be_run_is_refused_and_that_is_remembered() {
    let mut blobs = Blobs::default();
    let foreign = blobs.manifest(&json!({ "os": "linux", "architecture": "s390x", "rootfs": { "diff_ids": [] } }), &[]);
    let (address, asked) = serve(blobs.0.clone(), None).await;
    let (store, _dir) = open(&address);
    let missing: Value = format!("sha256:{}", "0".repeat(64)).into();
    for (digest, count, right) in [(&foreign["digest"], 2, "it is for linux/s390x"), (&missing, 1, "404")] {
        let name = named(&address, digest);
        let before = asked.lock().unwrap().len();
        for _ in 0..3 {
            let error = store.inspect(&name).await.expect_err(right);
            assert!(error.to_string().contains(right), "{error}");
            assert!(matches!(error, RuntimeError::ImageRefused { .. } | RuntimeError::ImageUnavailable { .. }), "{error:?}");
        }
        assert_eq!(asked.lock().unwrap().len() - before, count, "{right}");
    }
}

/// Neither a silent nor a failing registry blocks an upload.
#[tokio::test]
async fn a_registry_that_does_not_say_keeps_nobody() {
    let mut blobs = Blobs::default();
    let image = blobs.image(&[layer()]);
    let (troubled, _) = serve(blobs.0.clone(), Some(text(&image["digest"]).to_owned())).await;
    let (silent, asked) = serve(BTreeMap::new(), None).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    for address in [&troubled, &silent, &nobody] {
        let (store, _dir) = open(address);
        for _ in 0..3 {
            let told = tokio::time::timeout(PATIENCE, store.inspect(&named(address, &image["digest"]))).await;
            assert_eq!(told.expect("an answer in time").expect("no refusal"), None, "{address}");
        }
    }
    assert_eq!(asked.lock().unwrap().len(), 1, "who asks again doesn't wait again");
}

#[test]
fn what_shows_without_layers_is_checked_without_them() {
    let image = || ImageSettings { cmd: Some(vec!["/run".to_owned()]), user: Some("web:staff".to_owned()), ..ImageSettings::default() };
    let spec = || ContainerSpec { name: "a".to_owned(), image: "i".to_owned(), command: None, workdir: None, env: Vec::new() };
    image::check(&image(), &spec()).expect("who the user is shows in the layers");
    image::check(&ImageSettings { cmd: None, ..image() }, &ContainerSpec { command: Some(vec!["/x".to_owned()]), ..spec() }).unwrap();
    let refused = [
        (ImageSettings { cmd: None, ..image() }, spec(), "no command"),
        (ImageSettings { working_dir: Some("srv".to_owned()), ..image() }, spec(), "working directory"),
        (ImageSettings { user: Some("65536".to_owned()), ..image() }, spec(), "0 to 65535"),
        (ImageSettings { user: Some("web:-1".to_owned()), ..image() }, spec(), "0 to 65535"),
        (ImageSettings { user: Some("99999999999999999999:".to_owned()), ..image() }, spec(), "0 to 65535"),
        (ImageSettings { user: Some("a\0b".to_owned()), ..image() }, spec(), "NUL"),
        (ImageSettings { env: Some(vec!["=x".to_owned()]), ..image() }, spec(), "has no name"),
    ];
    for (settings, spec, right) in refused {
        let error = image::check(&settings, &spec).expect_err(right).to_string();
        assert!(error.contains(right), "{error}");
    }
}
