//! Images from a real registry (Debian's docker-registry), and from one whose storage was tampered with.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use bytes::Bytes;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::kit::{Blobs, PATIENCE, Tar, store, text};
use crate::{
    RuntimeError,
    image::{ImageConfig, ImageLimits, ImageRef, ImageStore, RegistryConfig, RegistryCredential},
};

/// A registry for one test; ends with the value.
struct Registry {
    dir: TempDir,
    child: Child,
    address: String,
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        let yaml = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            storage.display()
        );
        fs::write(&config, yaml).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker-registry runs; `deploy/setup test` installs it");
        let (said, lines) = mpsc::channel();
        let log = BufReader::new(child.stderr.take().unwrap());
        // Keeps reading to the end, otherwise the registry would block on a full pipe.
        thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| drop(said.send(line))));
        let address = loop {
            let line = lines.recv_timeout(PATIENCE).expect("docker-registry says where it listens");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ']).next().unwrap().to_owned();
            }
        };
        Self { dir, child, address }
    }

    /// Uploads all blobs and the manifest, and returns the image's reference.
    async fn push(&self, blobs: &Blobs, manifest: &Value) -> String {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let protocol = ClientProtocol::HttpsExcept(vec![self.address.clone()]);
        let client = Client::new(ClientConfig { protocol, ..ClientConfig::default() });
        let name = format!("{}/some/thing@{}", self.address, text(&manifest["digest"]));
        let reference: Reference = name.parse().unwrap();
        client.store_auth_if_needed(reference.resolve_registry(), &RegistryAuth::Anonymous).await;
        for (digest, bytes) in &blobs.0 {
            client.push_blob(&reference, Bytes::from(bytes.clone()), digest).await.unwrap();
        }
        let document = blobs.0[text(&manifest["digest"])].clone();
        let kind = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        client.push_manifest_raw(&reference, document, kind).await.unwrap();
        name
    }

    fn blob(&self, digest: &Value) -> PathBuf {
        let hex = text(digest).trim_start_matches("sha256:");
        self.dir.path().join("storage/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    fn store(&self) -> (TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &[], Some(&self.address), ImageLimits::default());
        (dir, store)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn image(blobs: &mut Blobs) -> Value {
    let mut image = blobs.image(&[Tar::new().file("f", "lower").bytes(), Tar::new().file("f", "upper").bytes()]);
    // Registries check the media type.
    let mut manifest = blobs.json(&image);
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
    image["digest"] = blobs.put(manifest.to_string().into_bytes())["digest"].clone();
    image
}

#[tokio::test]
async fn an_image_is_pulled_by_its_digest_and_checked() {
    let registry = Registry::start();
    let mut blobs = Blobs::default();
    let manifest = image(&mut blobs);
    let name = registry.push(&blobs, &manifest).await;
    let (_dir, store) = registry.store();
    let pulled = store.ensure(&name).await.unwrap();
    assert_eq!(fs::read_to_string(pulled.layers[1].join("f")).unwrap(), "upper");

    let parts = blobs.json(&manifest);
    for part in [&manifest["digest"], &parts["config"]["digest"], &parts["layers"][0]["digest"]] {
        let path = registry.blob(part);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        fs::write(&path, changed).unwrap();
        let (_dir, store) = registry.store();
        let outcome = store.ensure(&name).await;
        assert!(outcome.is_err(), "{part} was changed, and taken");
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let (_dir, store) = registry.store();
        let outcome = store.ensure(&name).await;
        assert!(outcome.is_err(), "{part} was cut, and taken");
        fs::write(&path, whole).unwrap();
    }
    let (_dir, store) = registry.store();
    store.ensure(&name).await.unwrap();
}

#[tokio::test]
async fn what_the_registry_does_not_have_or_say_is_told() {
    let registry = Registry::start();
    let unknown = format!("{}/some/thing@sha256:{}", registry.address, "0".repeat(64));
    let (_dir, store) = registry.store();
    let error = store.ensure(&unknown).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageUnavailable { .. }), "{error:?}");
    drop(registry);
    let error = store.ensure(&unknown).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageUnavailable { .. }), "{error:?}");
}

#[test]
fn a_registry_that_is_denied_is_so_in_every_spelling() {
    let deny = vec!["ghcr.io".to_owned(), "docker.io/library".to_owned()];
    let registries = RegistryConfig { deny, ..RegistryConfig::default() };
    let digest = "0".repeat(64);
    for denied in
        ["ghcr.io/a/b", "GHCR.io/a/b", "ghcr.io:443/a/b", "busybox", "docker.io/library/busybox", "index.docker.io/library/busybox"]
    {
        let error = registries.check(&ImageRef::parse(&format!("{denied}@sha256:{digest}")).unwrap()).expect_err(denied);
        assert!(matches!(error, RuntimeError::ReferenceRefused { .. }), "{denied}: {error:?}");
    }
    for fine in ["ghcr.io.example/a/b", "quay.io/ghcr.io/a", "codius/busybox", "docker.io/library2/busybox"] {
        registries.check(&ImageRef::parse(&format!("{fine}@sha256:{digest}")).unwrap()).expect(fine);
    }
}

/// Head and body for a path and an authorization.
type Answers = Arc<dyn Fn(&str, &str) -> (String, Vec<u8>) + Send + Sync>;

/// A request's path, and its authorization.
pub(super) async fn ask(stream: &mut TcpStream) -> (String, String) {
    let (mut head, mut byte) = (String::new(), [0]);
    while !head.ends_with("\r\n\r\n") {
        stream.read_exact(&mut byte).await.unwrap();
        head.push(byte[0].into());
    }
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let authorization =
        head.lines().find_map(|line| line.to_ascii_lowercase().starts_with("authorization: ").then(|| line[15..].to_owned()));
    (path, authorization.unwrap_or_default())
}

/// A registry that requires a token, obtained with a login, and serves its blobs from elsewhere, like most.
#[tokio::test]
async fn tokens_are_had_for_logins_and_are_nobody_elses() {
    let mut blobs = Blobs::default();
    let image = image(&mut blobs);
    let (registry, elsewhere) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let at = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let (here, there) = (at(&registry), at(&elsewhere));
    let insecure = vec![here.clone(), there.clone()];
    let name = format!("{here}/some/thing@{}", text(&image["digest"]));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let serve = |listener: TcpListener, answers: Answers| {
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (path, authorization) = ask(&mut stream).await;
                let (head, body) = answers(&path, &authorization);
                let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
            }
        })
    };
    let (content, asked, realm) = (blobs.0.clone(), seen.clone(), format!("http://{here}/token?a=b"));
    serve(
        registry,
        Arc::new(move |path, authorization| {
            asked.lock().unwrap().push(format!("{} {authorization}", path.split('/').next_back().unwrap()));
            match (path.starts_with("/token"), authorization) {
                (true, "Basic bWU6c2VjcmV0") => ("200 OK".to_owned(), br#"{"token":"t0ken"}"#.to_vec()),
                (true, _) => ("403 Forbidden".to_owned(), Vec::new()),
                (false, "Bearer t0ken") if path.contains("/blobs/") => {
                    (format!("307 Temporary Redirect\r\nLocation: http://{there}{path}"), Vec::new())
                }
                (false, "Bearer t0ken") => ("200 OK".to_owned(), content[path.rsplit('/').next().unwrap()].clone()),
                (false, _) => (format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\""), Vec::new()),
            }
        }),
    );
    let (content, foreign) = (blobs.0.clone(), Arc::new(Mutex::new(Vec::new())));
    let heard = foreign.clone();
    serve(
        elsewhere,
        Arc::new(move |path, authorization| {
            heard.lock().unwrap().push(authorization.to_owned());
            ("200 OK".to_owned(), content[path.rsplit('/').next().unwrap()].clone())
        }),
    );
    let open = |password: &str| {
        let dir = tempfile::tempdir().unwrap();
        let login = RegistryCredential { registry: here.clone(), username: "me".to_owned(), password: password.to_owned() };
        let registries = RegistryConfig { insecure: insecure.clone(), credentials: vec![login], ..RegistryConfig::default() };
        let config = ImageConfig { root: dir.path().join("images"), layouts: Vec::new(), registries, limits: ImageLimits::default() };
        (ImageStore::open(config).unwrap(), dir)
    };
    let (store, _dir) = open("wrong");
    let error = store.ensure(&name).await.unwrap_err().to_string();
    assert!(error.contains("needs a login") && !error.contains("wrong"), "{error}");
    let (store, _dir) = open("secret");
    let pulled = store.ensure(&name).await.unwrap();
    assert_eq!(fs::read_to_string(pulled.layers[1].join("f")).unwrap(), "upper");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().filter(|asked| asked.ends_with("Basic bWU6c2VjcmV0")).count(), 1, "one token for all of it: {seen:?}");
    assert!(seen.iter().any(|asked| asked.starts_with("token?a=b&service=s&scope=repository%3Asome%2Fthing%3Apull ")), "{seen:?}");
    let foreign = foreign.lock().unwrap();
    assert!(foreign.len() == 3 && foreign.iter().all(String::is_empty), "tokens are the registry's: {foreign:?}");
}
