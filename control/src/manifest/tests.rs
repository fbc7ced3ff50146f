use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::*;

fn data(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap()
}

#[test]
fn hashes_are_those_of_the_js_clients() {
    let data = data("manifest-hashes.json");
    let mut hashed = 0;
    for row in rows(&data, "manifests") {
        let id = row["id"].as_str().unwrap();
        let bytes = STANDARD.decode(row["manifest_text_base64"].as_str().unwrap()).unwrap();
        let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
            assert!(["lone-surrogate-high", "numbers"].contains(&id), "not Unicode, and a number beyond a float: refused");
            continue;
        };
        let text = canonical::to_string(&value);
        if let Some(expected) = row["canonical_utf8_hex"].as_str() {
            assert_eq!(hex::encode(&text), expected, "{id}");
        }
        assert_eq!(ManifestHash::of(&text).to_string(), row["hash"].as_str().unwrap(), "{id}");
        hashed += 1;
    }
    assert_eq!(hashed, 30);
    let numbers = "[0,-0,1,1.0,1.5,1e3,1e21,1e-7,123456789012345680000,0.1,-1.5e-10,9007199254740993,5e-324,1.7976931348623157e308]";
    let canonical = "[0,0,1,1,1.5,1000,1e+21,1e-7,123456789012345680000,0.1,-1.5e-10,9007199254740992,5e-324,1.7976931348623157e+308]";
    assert_eq!(canonical::to_string(&serde_json::from_str(numbers).unwrap()), canonical, "the vector but its infinity");
    for row in rows(&data, "private_vars") {
        let text = canonical::to_string(&row["private_var"]);
        assert_eq!(text, row["canonical"].as_str().unwrap());
        assert_eq!(hex::encode(Sha256::digest(text)), row["hash"].as_str().unwrap());
    }
}

/// Rows where we differ from the Node codiusd on purpose: `(id, our status, why)`. All of them refuse what can't run, or
/// what could be read in two ways, before any money moves.
const DIFFERENT: &[(&str, u16, &str)] = &[
    ("version-empty", 400, "a pod needs a version"),
    ("port-\"080\"", 400, "not a plain decimal port"),
    ("port-\"99999999\"", 400, "no such port"),
    ("port-\"a1b\"", 400, "not a port"),
    ("port-\"-1\"", 400, "not a port"),
    ("port-\"80.5\"", 400, "not a port"),
    ("port-\"\"", 400, "not a port"),
    ("port-\" 80\"", 400, "not a plain decimal port"),
    ("port-\"1e3\"", 400, "not a plain decimal port"),
    ("containers-duplicate-ids", 400, "the second can't be created"),
    ("container-id-empty", 400, "can't be created"),
    ("container-id-slash", 400, "can't be created"),
    ("container-id-spaces", 400, "can't be created"),
    ("image-empty", 400, "not an image"),
    ("image-no-digest", 400, "not pinned: its content may change"),
    ("image-tag", 400, "not pinned: its content may change"),
    ("image-garbage", 400, "not an image"),
    ("image-url", 400, "not an image"),
    ("command-json-string", 400, "JSON text where a list is due: two meanings, one hash"),
    ("workdir-relative", 400, "relative to nothing"),
    ("env-json-string", 400, "JSON text where an object is due"),
    ("env-empty-key", 400, "can't be set"),
    ("env-key-unicode", 400, "not a variable's name"),
    ("env-value-nul", 400, "can't be set"),
    ("var-proto-toString", 422, "it isn't declared; the Node codiusd found it in JavaScript's prototype"),
    ("debug-string-true", 400, "text where a boolean is due"),
    ("top-manifest-json-string", 400, "JSON text where an object is due"),
    ("lone-surrogate", 400, "not Unicode"),
];

fn status(result: &Result<Upload, ManifestError>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(ManifestError::Unprocessable { .. }) => 422,
        Err(ManifestError::Json(_) | ManifestError::Field { .. }) => 400,
    }
}

#[test]
fn verdicts_are_the_recorded_ones_or_different_for_a_reason() {
    let mut unused: Vec<&str> = DIFFERENT.iter().map(|(id, ..)| *id).collect();
    for row in data("manifest-verdicts.json").as_array().unwrap() {
        let id = row["id"].as_str().unwrap();
        let body = row["text"].as_str().map_or_else(|| row["body"].to_string(), str::to_owned);
        let accepted = row["message"].as_str().is_some_and(|message| message.contains("Pay-Token"));
        let recorded = if accepted { 200 } else { u16::try_from(row["status"].as_u64().unwrap()).unwrap() };
        let ours = Upload::parse(body.as_bytes(), &Rules::default());
        let expected = match DIFFERENT.iter().find(|(different, ..)| *different == id) {
            Some((_, expected, _)) => {
                assert_ne!(*expected, recorded, "{id} doesn't differ");
                unused.retain(|other| *other != id);
                *expected
            }
            None => recorded,
        };
        assert_eq!(status(&ours), expected, "{id}: {ours:?}");
    }
    assert!(unused.is_empty(), "no such rows: {unused:?}");
}

const DIGEST: &str = "registry.example/app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn errors_name_the_field() {
    let with = |field: &str, value: Value| {
        let containers = serde_json::json!([{ "id": "app", "image": DIGEST }]);
        let mut upload = serde_json::json!({ "manifest": { "name": "a", "version": "1", "containers": containers } });
        let (parent, name) = field.rsplit_once('/').unwrap();
        upload.pointer_mut(parent).unwrap()[name] = value;
        Upload::parse(upload.to_string().as_bytes(), &Rules::default()).unwrap_err().to_string()
    };
    let table = [
        ("/manifest/containers/0/image", serde_json::json!("nginx:latest"), "manifest.containers[0].image: "),
        ("/manifest/containers/0/command", serde_json::json!(["sh", 5]), "manifest.containers[0].command[1]: "),
        ("/manifest/port", serde_json::json!("http"), "manifest.port: "),
        ("/manifest/surprise", serde_json::json!(1), "manifest.surprise: unknown field"),
        ("/manifest/machine", serde_json::json!("huge"), "manifest.machine: unknown variant `huge`, expected `small`"),
        ("/manifest/containers/0/environment", serde_json::json!({ "CODIUS_X": "1" }), "manifest.containers[0].environment.CODIUS_X: "),
    ];
    for (field, value, expected) in table {
        let message = with(field, value);
        assert!(message.starts_with(expected), "{field}: {message}");
    }
}

#[test]
fn private_values_reach_the_pod_and_nothing_else() {
    let (nonce, secret) = ("n0nce", "hush hush");
    let hash = hex::encode(Sha256::digest(canonical::to_string(&serde_json::json!({ "nonce": nonce, "value": secret }))));
    let upload = |hash: &str, value: &str| {
        let container = serde_json::json!({ "id": "app", "image": DIGEST, "environment": { "B": "$KEY", "A": "plain $KEY" } });
        let vars = serde_json::json!({ "KEY": { "encoding": "private:sha256", "value": hash } });
        let manifest = serde_json::json!({ "version": "1", "name": "a", "containers": [container], "vars": vars });
        let body = serde_json::json!({ "manifest": manifest, "private": { "vars": { "KEY": { "nonce": nonce, "value": value } } } });
        Upload::parse(body.to_string().as_bytes(), &Rules::default())
    };
    let good = upload(&hash, secret).unwrap();
    let order = good.order(&Rules::default(), "https://host.example");
    let names: Vec<&str> = order.spec.containers[0].env.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["CODIUS", "CODIUS_HOST", "CODIUS_MANIFEST_HASH", "CODIUS_MANIFEST", "B", "A"]);
    assert_eq!(order.spec.containers[0].env[4].1, secret);
    assert_eq!(order.spec.containers[0].env[5].1, "plain $KEY");
    assert!(good.json().starts_with(r#"{"version":"1","name":"a""#), "the uploader's order of keys");
    for text in [format!("{good:?}"), format!("{order:?}"), good.json().to_owned()] {
        assert!(!text.contains("hush"), "{text}");
    }
    let refused = upload(&hash, "wrong").unwrap_err();
    assert!(!refused.to_string().contains(&hash) && !refused.to_string().contains("wrong"), "{refused}");
    assert_eq!(status(&Err(refused)), 422);
}

#[test]
fn a_file_may_be_an_upload_or_a_bare_manifest() {
    let bare = format!(r#"{{"name":"a","version":"1","containers":[{{"id":"app","image":"{DIGEST}"}}]}}"#);
    let hash = |text: &str| Upload::parse_file(text.as_bytes(), &Rules::default()).unwrap().hash().clone();
    assert_eq!(hash(&bare), hash(&format!(r#"{{"manifest":{bare}}}"#)));
}

#[test]
fn a_quote_needs_no_private_values() {
    let container = format!(r#"{{"id":"app","image":"{DIGEST}","environment":{{"A":"$KEY"}}}}"#);
    let vars = r#"{"KEY":{"encoding":"private:sha256","value":"00"}}"#;
    let body = |private: &str| format!(r#"{{"manifest":{{"name":"a","version":"1","containers":[{container}],"vars":{vars}}}{private}}}"#);
    let (without, wrong) = (body(""), body(r#","private":{"vars":{"KEY":{"nonce":"n","value":"v"}}}"#));
    assert!(Upload::hash_of(without.as_bytes(), &Rules::default()).is_ok());
    assert_eq!(status(&Upload::parse(without.as_bytes(), &Rules::default())), 422);
    assert!(Upload::hash_of(wrong.as_bytes(), &Rules::default()).is_err());
}

#[test]
fn what_no_container_can_be_given_is_refused() {
    let manifest =
        |name: &str| format!(r#"{{"manifest":{{"name":"{name}","version":"1","containers":[{{"id":"app","image":"{DIGEST}"}}]}}}}"#);
    assert!(Upload::parse(manifest(&"x".repeat(100_000)).as_bytes(), &Rules::default()).is_ok());
    let error = Upload::parse(manifest(&"x".repeat(140_000)).as_bytes(), &Rules::default()).unwrap_err();
    assert!(error.to_string().starts_with("manifest: is "), "{error}");
}
