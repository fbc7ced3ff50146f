//! Images that have been pulled, and pulling.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    answer::{self, Body, Refusal},
    registry::{Kind, Known, NO_GROUP, Reference},
    tar,
};

/// What is there, and what could be.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// In registries.
    pub known: Vec<Known>,
    /// Whether no registry can be reached.
    pub registries_down: bool,
    /// Here.
    pub stored: Stored,
}

/// What is kept of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Stored {
    /// Names, with tag or digest, and the image each stands for.
    names: BTreeMap<String, String>,
    /// Commands of images that came as a file.
    loaded: BTreeMap<String, Vec<String>>,
}

/// An image that is here.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub id: String,
    pub command: Vec<String>,
    pub program: Option<PathBuf>,
    /// Whether the guest ends when a container is made of it.
    pub ends_guest: bool,
}

const SIZE: u64 = 1_982_394;
const CREATED: i64 = 1_795_473_737;

impl Images {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.stored.names.values().collect::<BTreeSet<_>>().len()
    }

    /// The image of this name, if it has been pulled.
    pub(super) fn find(&self, name: &str) -> Result<Image, Refusal> {
        let full = Reference::parse(name).map_or_else(|| name.to_owned(), |reference| reference.name());
        let missing = || Refusal::new(format!("No such image: {full}")).status(StatusCode::NOT_FOUND);
        let id = self.stored.names.get(&full).ok_or_else(missing)?;
        let known = self.known.iter().find(|known| known.id == *id);
        let command = self.stored.loaded.get(id).cloned().or_else(|| known.map(|known| known.command.clone()));
        let ends_guest = known.is_some_and(|known| known.digest == NO_GROUP);
        Ok(Image {
            ends_guest,
            id: id.clone(),
            command: command.unwrap_or_default(),
            program: known.and_then(|known| known.program.clone()),
        })
    }

    /// `/image/create`: by digest it fails with a status, by tag in the stream.
    pub(super) fn pull(&mut self, name: &str) -> Result<Response<Body>, Refusal> {
        if name.is_empty() {
            let error = "Get \"http:\": http: no Host in request URL";
            return Ok(stream(&[json!({ "status": "Downloading from http:" }), failure(error)]));
        }
        let parsed = Reference::parse(name);
        let wanted = parsed.ok_or_else(|| Refusal::new(format!("Error parsing reference: \"{name}\" is not a valid repository/tag")))?;
        let (host, path) = (wanted.host(), wanted.path());
        let reachable = !self.registries_down && self.known.iter().any(|known| known.repository.starts_with(&format!("{host}/")));
        let known = self.known.iter().find(|known| {
            let version = if wanted.is_digest() { Some(&known.digest) } else { known.tag.as_ref() };
            known.repository == wanted.repository && version == Some(&wanted.version)
        });
        match known.cloned() {
            Some(known) if reachable && known.kind == Kind::Docker => Ok(self.fetch(&wanted, &known)),
            known if wanted.is_digest() => Err(Refusal::new(match known.map(|known| known.kind) {
                _ if !reachable => format!("Get \"http://{host}/v2/\": dial tcp {host}: connect: connection refused"),
                Some(Kind::OciManifest) => {
                    "manifest unknown: OCI manifest found, but accept header does not support OCI manifests".to_owned()
                }
                Some(Kind::OciIndex) => "manifest unknown: OCI index found, but accept header does not support OCI indexes".to_owned(),
                Some(Kind::Docker) | None => "manifest unknown: manifest unknown".to_owned(),
            })),
            _ => {
                let error = if reachable {
                    format!("Error: image {path} not found")
                } else {
                    let url = format!("http://{host}/v1/repositories/{path}/images");
                    format!("Error while pulling image: Get \"{url}\": dial tcp {host}: connect: connection refused")
                };
                Ok(stream(&[json!({ "status": format!("Pulling repository {}", wanted.repository) }), failure(&error)]))
            }
        }
    }

    fn fetch(&mut self, wanted: &Reference, known: &Known) -> Response<Body> {
        let here = |id: &String| self.known.iter().any(|known| known.id == *id);
        let layers: BTreeSet<&str> = self.stored.names.values().filter(|id| here(id)).filter_map(|id| self.layer_of(id)).collect();
        let has_layer = layers.contains(known.layer.as_str());
        let by_digest = Reference { version: known.digest.clone(), ..wanted.clone() };
        let names = if wanted.is_digest() { vec![wanted.clone()] } else { vec![wanted.clone(), by_digest] };
        let mut lines = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let new = self.stored.names.insert(name.name(), known.id.clone()).as_ref() != Some(&known.id);
            lines.push(json!({ "status": format!("Pulling from {}", name.path()), "id": name.version }));
            if new && number == 0 {
                lines.extend(layer(known, has_layer));
            }
            lines.push(json!({ "status": format!("Digest: {}", known.digest) }));
            let status = if new { "Downloaded newer image" } else { "Image is up to date" };
            lines.push(json!({ "status": format!("Status: {status} for {}", name.name()) }));
        }
        stream(&lines)
    }

    fn layer_of(&self, id: &str) -> Option<&str> {
        self.known.iter().find(|known| known.id == id).map(|known| known.layer.as_str())
    }

    /// `/image/load`.
    pub(super) fn load(&mut self, archive: &[u8]) -> Result<Response<Body>, Refusal> {
        let broken = || Refusal::new("Untar re-exec error: exit status 1: output: unexpected EOF");
        for image in tar::images(archive).ok_or_else(broken)? {
            for name in image.names {
                self.stored.names.insert(name, image.id.clone());
            }
            if self.layer_of(&image.id).is_none() {
                self.stored.loaded.insert(image.id, image.command);
            }
        }
        Ok(answer::json_text(StatusCode::OK, String::new(), false))
    }

    /// `/images/get`.
    pub(super) fn list(&self) -> Response<Body> {
        let mut tags: BTreeMap<&str, Vec<Reference>> = BTreeMap::new();
        for (name, id) in &self.stored.names {
            tags.entry(id).or_default().extend(Reference::parse(name));
        }
        let mut lines = Vec::new();
        for (id, names) in tags {
            let tagged: Vec<&Reference> = names.iter().filter(|name| !name.is_digest()).collect();
            let hash = id.trim_start_matches("sha256:");
            if let (true, Some(name)) = (tagged.is_empty(), names.first()) {
                lines.push(format!("{}:<none>:{hash}:{CREATED}:{SIZE}", name.repository));
            }
            lines.extend(tagged.iter().map(|name| format!("{}:{hash}:{CREATED}:{SIZE}", name.name())));
        }
        answer::json_value(StatusCode::OK, &json!({ "imagesList": lines }))
    }

    /// `DELETE /image`. An image in use, or with another tag, only loses this name.
    pub(super) fn delete(&mut self, name: &str, used: impl Fn(&str) -> bool) -> Result<Response<Body>, Refusal> {
        let image = self.find(name)?;
        let full = Reference::parse(name).map_or_else(|| name.to_owned(), |reference| reference.name());
        self.stored.names.remove(&full);
        let mut lines = vec![json!({ "untaged": full })];
        let others = self.stored.names.iter().filter(|(_, id)| **id == image.id).map(|(name, _)| name.clone());
        let others: Vec<String> = others.collect();
        if others.iter().all(|name| name.contains('@')) && !used(&image.id) {
            for name in others {
                self.stored.names.remove(&name);
                lines.push(json!({ "untaged": name }));
            }
            self.stored.loaded.remove(&image.id);
            lines.push(json!({ "deleted": image.id }));
        }
        Ok(answer::json_value(StatusCode::OK, &json!({ "imagesList": lines })))
    }
}

fn failure(error: &str) -> Value {
    json!({ "errorDetail": { "message": error }, "error": error })
}

/// JSON values, one per line.
fn stream(lines: &[Value]) -> Response<Body> {
    answer::json_text(StatusCode::OK, lines.iter().map(|line| answer::go(line) + "\r\n").collect(), true)
}

/// What is said about a layer.
fn layer(known: &Known, here: bool) -> Vec<Value> {
    let id = &known.layer;
    let plain = |status: &str| json!({ "status": status, "progressDetail": {}, "id": id });
    if here {
        return vec![plain("Already exists")];
    }
    let total = known.layer_bytes;
    let step = |status: &str, current: u64| {
        let filled = usize::try_from(50 * current / total).unwrap_or_default();
        let (bar, space) = ("=".repeat(filled), " ".repeat(50 - filled));
        let progress = format!("[{bar}>{space}] {} kB/{} kB", current / 1000, total / 1000);
        json!({ "status": status, "progressDetail": { "current": current, "total": total }, "progress": progress, "id": id })
    };
    vec![
        plain("Pulling fs layer"),
        step("Downloading", total / 32),
        step("Downloading", total),
        plain("Verifying Checksum"),
        plain("Download complete"),
        step("Extracting", total / 32),
        step("Extracting", total),
        plain("Pull complete"),
        plain("Pull complete"),
    ]
}
