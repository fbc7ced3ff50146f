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
    assert_eq!(rows(&data, "manifests").len(), 32);
    for row in rows(&data, "manifests") {
        let id = row["id"].as_str().unwrap();
        let bytes = STANDARD.decode(row["manifest_text_base64"].as_str().unwrap()).unwrap();
        let text = lenient::canonical_text(&bytes, |value| value).unwrap();
        if let Some(expected) = row["canonical_utf8_hex"].as_str() {
            assert_eq!(hex::encode(&text), expected, "{id}");
        }
        let uploaded = [br#"{"private":{},"manifest":"#, &bytes[..], b"}"].concat();
        for file in [bytes, uploaded] {
            assert_eq!(Upload::hash_file(&file).unwrap().to_string(), row["hash"].as_str().unwrap(), "{id}");
        }
    }
    for row in rows(&data, "private_vars") {
        let text = canonical::to_string(&row["private_var"]);
        assert_eq!(text, row["canonical"].as_str().unwrap());
        assert_eq!(hex::encode(Sha256::digest(text)), row["hash"].as_str().unwrap());
    }
}

#[test]
fn what_only_javascript_reads_is_read_as_javascript_does() {
    let canonical = |text: &str| lenient::canonical_text(text.as_bytes(), |value| value).map_err(|error| error.to_string());
    let table = [
        (r#"["\ud800\udc00", "\udc00\ud800", "\ud83c\uDF89x\uDbFf"]"#, "[\"\u{10000}\",\"\u{fffd}\u{fffd}\",\"\u{1f389}x\u{fffd}\"]"),
        (r#"["\\ud800", "1e400", "\"1e400", "\ufffd"]"#, r#"["\\ud800","1e400","\"1e400","\ufffd"]"#),
        ("[-1e400,1E+999,1e-400,-0]", "[null,null,0,0]"),
        (r#"["\ufdd0"]"#, "[\"\u{fdd0}\"]"),
        (r#"{"manifest":[1.0]}"#, r#"{"manifest":[1]}"#),
    ];
    for (text, expected) in table {
        assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
    }
    for text in
        ["[01e400]", "[1.e400]", "[1e400.5]", "[+1e400]", r#"["\ud800\ufdd0"]"#, r#"{"\ud800":1}"#, r#"["\ud80"]"#, r#"["\"#, "\u{feff}1"]
    {
        assert!(canonical(text).is_err(), "{text}");
    }
}

/// Rows where we differ from the Node codiusd on purpose: `(id, our status, why)`. We refuse what can't run, and
/// what is ambiguous, before any money moves.
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
        ("/manifest/machine", serde_json::json!("huge"), "manifest.machine: must be \"small\""),
        ("/manifest/containers/0/environment", serde_json::json!({ "CODIUS_X": "1" }), "manifest.containers[0].environment.CODIUS_X: "),
    ];
    for (field, value, expected) in table {
        let message = with(field, value);
        assert!(message.starts_with(expected), "{field}: {message}");
    }
}

#[test]
fn variables_have_any_name_docker_takes() {
    for (name, taken) in [
        ("discovery.type", 200),
        ("xpack.security.enabled", 200),
        ("A-B", 200),
        ("a b", 200),
        ("1", 200),
        ("\u{e9}", 200),
        ("", 400),
        ("A=B", 400),
        ("=", 400),
        ("A\0", 400),
        ("CODIUS.x", 422),
    ] {
        let containers = serde_json::json!([{ "id": "app", "image": DIGEST, "environment": { name: "value" } }]);
        let upload = serde_json::json!({ "manifest": { "name": "a", "version": "1", "containers": containers } });
        let ours = Upload::parse(upload.to_string().as_bytes(), &Rules::default());
        assert_eq!(status(&ours), taken, "{name:?}: {ours:?}");
    }
}

/// Texts that serde would accept as the same manifest, with another hash.
#[test]
fn a_value_is_the_one_type_it_is() {
    let good = serde_json::json!({
        "manifest": {
            "name": "a", "version": "1", "machine": "small", "debug": true, "port": "80",
            "containers": [{ "id": "app", "image": DIGEST, "command": ["sh"], "environment": { "A": "$A" } }],
            "vars": { "A": { "value": "1" }, "B": { "value": "1", "encoding": "private:sha256" } },
        },
        "private": { "vars": { "S": { "nonce": "n", "value": "v" } } },
    });
    let refused = |pointer: &str, value: Value| {
        let mut upload = good.clone();
        *upload.pointer_mut(pointer).unwrap() = value;
        match Upload::parse(upload.to_string().as_bytes(), &Rules::default()) {
            Err(error @ ManifestError::Field { .. }) => error.to_string(),
            other => panic!("{upload}: {other:?}"),
        }
    };
    assert!(Upload::parse(good.to_string().as_bytes(), &Rules::default()).is_ok());
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let table = [
        ("", r#"[{"name":"a"},{"vars":{}}]"#, "body: must be an object, not an array"),
        ("", r#""{\"manifest\":{\"vars\":\"TOPSECRET\"}}""#, "body: must be an object, not a string"),
        ("", "null", "body: must be an object, not null"),
        ("/manifest", r#"["a","1"]"#, "manifest: must be an object, not an array"),
        ("/manifest/containers", r#"[["app","TOPSECRET"]]"#, "manifest.containers[0]: must be an object, not an array"),
        ("/manifest/containers", r#"{"0":{}}"#, "manifest.containers: must be an array, not an object"),
        ("/manifest/containers/0/environment", r#"[["A","1"]]"#, "manifest.containers[0].environment: must be an object, not an array"),
        ("/manifest/containers/0/environment/A", "7", "manifest.containers[0].environment.A: must be a string, not a number"),
        ("/manifest/containers/0/command/0", "[]", "manifest.containers[0].command[0]: must be a string, not an array"),
        ("/manifest/machine", r#"{"small":null}"#, "manifest.machine: must be a string, not an object"),
        ("/manifest/machine", r#""TOPSECRET""#, r#"manifest.machine: must be "small""#),
        ("/manifest/debug", r#""TOPSECRET""#, "manifest.debug: must be true or false, not a string"),
        ("/manifest/port", "80", "manifest.port: must be a string, not a number"),
        ("/manifest/vars", r#"[["A",{}]]"#, "manifest.vars: must be an object, not an array"),
        ("/manifest/vars/A", r#"["private:sha256","x"]"#, "manifest.vars.A: must be an object, not an array"),
        ("/manifest/vars/B/encoding", r#"{"private:sha256":null}"#, r#"manifest.vars.B.encoding: must be "private:sha256", not an object"#),
        ("/private", "[{}]", "private: must be an object, not an array"),
        ("/private/vars/S", r#"["n","TOPSECRET"]"#, "private.vars.S: must be an object, not an array"),
        ("/private/vars/S/value", "7", "private.vars.S.value: must be a string, not a number"),
        ("/private/vars/S", r#"{"nonce":"n"}"#, "private.vars.S: missing field `value`"),
    ];
    for (pointer, value, expected) in table {
        assert_eq!(refused(pointer, json(value)), expected);
    }
    let long = refused("/manifest/vars", serde_json::json!({ "x".repeat(100_000): 1 }));
    assert!(long.starts_with("manifest.vars.xxx") && long.len() < 500, "{} bytes", long.len());
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
    assert!(Upload::parse_question(without.as_bytes(), &Rules::default()).is_ok());
    assert_eq!(status(&Upload::parse(without.as_bytes(), &Rules::default())), 422);
    assert!(Upload::parse_question(wrong.as_bytes(), &Rules::default()).is_err());
}

#[test]
fn what_no_container_can_be_given_is_refused() {
    let manifest =
        |name: &str| format!(r#"{{"manifest":{{"name":"{name}","version":"1","containers":[{{"id":"app","image":"{DIGEST}"}}]}}}}"#);
    assert!(Upload::parse(manifest(&"x".repeat(100_000)).as_bytes(), &Rules::default()).is_ok());
    let error = Upload::parse(manifest(&"x".repeat(140_000)).as_bytes(), &Rules::default()).unwrap_err();
    assert!(error.to_string().starts_with("manifest: is "), "{error}");
}

#[test]
fn sizes_and_ports_are_refused_by_the_tables_of_the_host() {
    let rules = Rules {
        machines: "medium cpus=2 memory=1GiB disk=2GiB price=1.9".parse().unwrap(),
        denied_ports: [(25, "mail".to_owned())].into(),
        ..Rules::default()
    };
    let parse = |field: &str, value: &str| {
        let mut manifest = serde_json::json!({ "name": "a", "version": "1", "containers": [{ "id": "app", "image": DIGEST }] });
        manifest[field] = value.into();
        Upload::parse(serde_json::json!({ "manifest": manifest }).to_string().as_bytes(), &rules)
    };
    for (machine, vcpus, memory_mib, disk_mib) in [("small", 1, 512, 1024), ("medium", 2, 1024, 2048)] {
        let order = parse("machine", machine).unwrap().order(&rules, "");
        let machine_of_order = order.spec.machine;
        assert_eq!(order.machine, machine);
        assert_eq!(
            (machine_of_order.vcpus, machine_of_order.memory_bytes >> 20, machine_of_order.disk_bytes >> 20),
            (vcpus, memory_mib, disk_mib)
        );
    }
    assert_eq!(parse("port", "80").unwrap().order(&rules, "").machine, "small", "the size of who names none");
    let table = [
        ("machine", "large", "manifest.machine: must be \"small\" or \"medium\""),
        ("machine", "", "manifest.machine: must be \"small\" or \"medium\""),
        ("port", "25", "manifest.port: 25 is refused: mail"),
        ("port", "0", "manifest.port: must be a decimal number from 1 to 65535, as a string"),
        ("port", "65536", "manifest.port: must be a decimal number from 1 to 65535, as a string"),
        ("port", "+25", "manifest.port: must be a decimal number from 1 to 65535, as a string"),
    ];
    for (field, value, expected) in table {
        let error = parse(field, value).unwrap_err();
        assert!(matches!(error, ManifestError::Field { .. }), "{error:?}");
        assert_eq!(error.to_string(), expected);
    }
    assert!(parse("port", "26").is_ok());
}
