//! Merges `codius.json` and `codiusvars.json` into an upload, the same one as the codius CLI makes of them.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    ManifestError,
    vars::{self, Secrets},
    wire,
};

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergedFile {
    /// `codius.json`: the manifest.
    Codius,
    /// `codiusvars.json`: values of variables.
    Vars,
}

/// Why the files can't be merged. Never contains a private value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct MergeError {
    /// The file to change.
    pub file: MergedFile,
    /// Its field, and what is wrong with it.
    pub error: ManifestError,
}

impl MergeError {
    fn codius(error: ManifestError) -> Self {
        Self { file: MergedFile::Codius, error }
    }
}

/// The content of `codiusvars.json`. Like the CLI, other members of `vars` are ignored.
#[derive(Default, Deserialize)]
struct Sections {
    #[serde(default, deserialize_with = "wire::pairs")]
    public: Vec<(String, Public)>,
    #[serde(default, deserialize_with = "wire::pairs")]
    private: Vec<(String, Private)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VarsFile {
    vars: Sections,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Public {
    value: String,
    /// For people who read the file.
    #[serde(default, rename = "description", deserialize_with = "wire::present")]
    _description: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Private {
    value: String,
}

/// Merges the contents of `codius.json` (`{"manifest": ...}` or a bare manifest) and `codiusvars.json`. Each private value gets a
/// random nonce, so every merge gives the manifest a different hash.
pub fn merge(codius: Value, vars: Option<&Value>, nonce: impl FnMut() -> String) -> Result<Value, MergeError> {
    let given = vars.map_or_else(|| Ok(Sections::default()), read_vars)?;
    let (mut manifest, own_private) = taken_apart(codius);
    if vars.is_some() && own_private.is_some() {
        let problem = "is for an upload without a file of variables; put the values there, under vars.private";
        return Err(MergeError::codius(ManifestError::field("private", problem)));
    }
    let private = put_vars(&mut manifest, given, nonce).or(own_private);
    clean(&mut manifest);
    check_vars(&manifest).and_then(|()| check_images(&manifest)).map_err(MergeError::codius)?;
    let has_vars = manifest.get("vars").is_some();
    let mut upload = json!({ "manifest": manifest });
    // The Node codiusd refuses variables without it.
    if let Some(private) = private.or_else(|| has_vars.then(|| json!({}))) {
        upload["private"] = private;
    }
    let read = wire::read(&upload).map_err(MergeError::codius)?;
    let private = read.private.unwrap_or_default();
    vars::interpolate(&read.manifest, &private, Secrets::Needed).map_err(|error| MergeError::codius(remedied(error)))?;
    Ok(upload)
}

fn read_vars(file: &Value) -> Result<Sections, MergeError> {
    let read = wire::read_as::<VarsFile>(file).map_err(|error| MergeError { file: MergedFile::Vars, error })?;
    Ok(read.vars)
}

/// Says where to define a missing variable.
fn remedied(error: ManifestError) -> ManifestError {
    match error {
        ManifestError::Unprocessable { field, problem } => {
            let remedy = "put it here under manifest.vars, or under vars.public or vars.private of codiusvars.json";
            ManifestError::Unprocessable { field, problem: format!("{problem}; {remedy}") }
        }
        other => other,
    }
}

/// The manifest, and the private values sent beside it.
fn taken_apart(mut codius: Value) -> (Value, Option<Value>) {
    let Some(members) = codius.as_object_mut() else { return (codius, None) };
    match members.remove("manifest") {
        Some(manifest) => (manifest, members.remove("private")),
        None => (codius, None),
    }
}

/// Inserts the public variables, and returns the private ones. If a name is both, the private one wins.
fn put_vars(manifest: &mut Value, given: Sections, mut nonce: impl FnMut() -> String) -> Option<Value> {
    if given.public.is_empty() && given.private.is_empty() {
        return None;
    }
    let declared = manifest.as_object_mut()?.entry("vars").or_insert_with(|| json!({})).as_object_mut()?;
    declared.extend(given.public.into_iter().map(|(name, var)| (name, json!({ "value": var.value }))));
    let mut private = Map::new();
    for (name, Private { value }) in given.private {
        let nonce = nonce();
        let hash = vars::private_hash(&nonce, &value);
        declared.insert(name.clone(), json!({ "encoding": "private:sha256", "value": hash }));
        private.insert(name, json!({ "value": value, "nonce": nonce }));
    }
    (!private.is_empty()).then(|| json!({ "vars": private }))
}

/// Removes what doesn't belong in an uploaded manifest: empty environments, descriptions.
fn clean(manifest: &mut Value) {
    let containers = manifest.get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
        if container.get("environment").and_then(Value::as_object).is_some_and(Map::is_empty) {
            container.shift_remove("environment");
        }
    }
    let vars = manifest.get_mut("vars").and_then(Value::as_object_mut);
    for var in vars.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        var.shift_remove("description");
    }
}

fn check_vars(manifest: &Value) -> Result<(), ManifestError> {
    let vars = manifest.get("vars").and_then(Value::as_object);
    let without = |var: &Value| var.as_object().is_some_and(|var| !var.contains_key("value"));
    match vars.into_iter().flatten().find(|(_, var)| without(var)) {
        None => Ok(()),
        Some((name, _)) => {
            let problem = "is missing; put it here, or in codiusvars.json under vars.public or vars.private";
            Err(ManifestError::field(format!("manifest.vars.{name}.value"), problem))
        }
    }
}

/// The CLI asks the registry for a missing digest. A hash that depends on a registry's answer isn't ours to choose.
fn check_images(manifest: &Value) -> Result<(), ManifestError> {
    let containers = manifest.get("containers").and_then(Value::as_array);
    for (index, container) in containers.into_iter().flatten().enumerate() {
        let Some(image) = container.get("image").and_then(Value::as_str).filter(|image| !image.contains("@sha256:")) else { continue };
        let id = container.get("id").and_then(Value::as_str).unwrap_or("without an id");
        let name_start = image.rfind('/').map_or(0, |slash| slash + 1);
        let tag = image.get(name_start..).and_then(|name| name.find(':'));
        let untagged = tag.and_then(|colon| image.get(..name_start + colon)).unwrap_or(image);
        let problem = format!("container {id} needs its image with a digest: {untagged}@sha256:<64 hex digits>");
        return Err(ManifestError::field(format!("manifest.containers[{index}].image"), problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> String {
        format!("nginx@sha256:{}", "a".repeat(64))
    }

    fn codius(change: impl FnOnce(&mut Value)) -> Value {
        let container = json!({ "id": "web", "image": image(), "environment": { "A": "$A" } });
        let mut manifest = json!({ "name": "page", "version": "1.0.0", "containers": [container] });
        change(&mut manifest);
        json!({ "manifest": manifest })
    }

    fn merged(codius: Value, vars: Option<Value>) -> Result<Value, MergeError> {
        merge(codius, vars.as_ref(), || "00ff".to_owned())
    }

    #[test]
    fn variables_are_put_in_as_the_cli_does() {
        let hash = vars::private_hash("00ff", "secret");
        let hidden = json!({ "encoding": "private:sha256", "value": hash });
        let beside = json!({ "vars": { "A": { "value": "secret", "nonce": "00ff" } } });
        let own = json!({ "A": { "value": "own", "description": "said" } });
        for (own, vars, wanted, private) in [
            (Some(own.clone()), None, json!({ "A": { "value": "own" } }), json!({})),
            (Some(own.clone()), Some(json!({ "vars": {} })), json!({ "A": { "value": "own" } }), json!({})),
            (
                Some(own.clone()),
                Some(json!({ "vars": { "public": { "A": { "value": "new" } } } })),
                json!({ "A": { "value": "new" } }),
                json!({}),
            ),
            (
                None,
                Some(json!({ "vars": { "public": { "A": { "value": "", "description": "x" } } } })),
                json!({ "A": { "value": "" } }),
                json!({}),
            ),
            (None, Some(json!({ "vars": { "private": { "A": { "value": "secret" } } } })), json!({ "A": hidden }), beside.clone()),
            (Some(own), Some(json!({ "vars": { "private": { "A": { "value": "secret" } } } })), json!({ "A": hidden }), beside.clone()),
            (
                None,
                Some(json!({ "vars": { "public": { "A": { "value": "seen" } }, "private": { "A": { "value": "secret" } }, "other": 1 } })),
                json!({ "A": hidden }),
                beside,
            ),
        ] {
            let file = codius(|manifest| {
                if let Some(own) = own {
                    manifest["vars"] = own;
                }
            });
            let upload = merged(file.clone(), vars.clone()).unwrap_or_else(|error| panic!("{vars:?}: {error}"));
            assert_eq!((&upload["manifest"]["vars"], &upload["private"]), (&wanted, &private), "{vars:?}");
            assert_eq!(merged(file["manifest"].clone(), vars), Ok(upload), "a bare manifest");
        }
    }

    #[test]
    fn nothing_is_added_without_variables() {
        let file = codius(|manifest| manifest["containers"][0]["environment"] = json!({}));
        let bare = codius(|manifest| manifest["containers"][0] = json!({ "id": "web", "image": image() }));
        assert_eq!(merged(file, None), Ok(bare));
    }

    #[test]
    fn errors_name_the_file_and_the_field() {
        let good = || codius(|_| ());
        let with = |name: &str, value: Value| codius(|manifest| manifest[name] = value);
        let imaged = |image: &str| codius(|manifest| manifest["containers"][0]["image"] = json!(image));
        let some = |vars: Value| Some(json!({ "vars": vars }));
        let (own, vars) = (MergedFile::Codius, MergedFile::Vars);
        let table = [
            (json!([]), None, own, "manifest: ", "an object"),
            (good(), None, own, "manifest.containers[0].environment.A: ", "manifest.vars"),
            (with("vars", json!([])), some(json!({ "public": { "A": { "value": "x" } } })), own, "manifest.vars: ", "an object"),
            (with("vars", json!({ "A": { "description": "x" } })), None, own, "manifest.vars.A.value: ", "codiusvars.json"),
            (with("port", json!(80)), None, own, "manifest.port: ", "a string"),
            (imaged("nginx"), None, own, "manifest.containers[0].image: ", "container web needs its image with a digest: nginx@sha256:"),
            (imaged("r.example:5000/a/b:1.2"), None, own, "manifest.containers[0].image: ", " r.example:5000/a/b@sha256:"),
            (json!({ "manifest": good()["manifest"], "private": {} }), some(json!({})), own, "private: ", "vars.private"),
            (good(), Some(json!({})), vars, "", "vars"),
            (good(), Some(json!({ "vars": {}, "more": 1 })), vars, "more: ", "unknown field"),
            (good(), some(json!({ "public": [] })), vars, "vars.public: ", "an object"),
            (good(), some(json!({ "public": { "A": {} } })), vars, "vars.public.A: ", "`value`"),
            (good(), some(json!({ "public": { "A": { "value": 1 } } })), vars, "vars.public.A.value: ", "a string"),
            (good(), some(json!({ "private": { "A": "hush" } })), vars, "vars.private.A: ", "an object"),
            (
                good(),
                some(json!({ "private": { "A": { "value": "hush", "description": "x" } } })),
                vars,
                "vars.private.A.description: ",
                "unknown",
            ),
        ];
        for (codius, vars, file, field, problem) in table {
            let case = format!("{codius} {vars:?}");
            let error = merged(codius, vars).err().unwrap_or_else(|| panic!("{case} is taken"));
            let text = error.to_string();
            assert!(error.file == file && text.starts_with(field) && text.contains(problem), "{case}: {error:?}");
            assert!(!text.contains("hush"), "{text}");
        }
    }
}
