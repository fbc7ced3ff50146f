//! The document matches the API: every route is described, and every response conforms.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

const METHODS: [&str; 6] = ["get", "post", "put", "delete", "patch", "options"];
const TOKEN: &str = "Pay-Token: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
const OTHER_TOKEN: &str = "Pay-Token: AQEBAQEBAQEBAQEBAQEBAQ==\r\n";

/// An upload of a pod whose log is public.
fn upload() -> String {
    let image = format!("registry.example/web@sha256:{}", "0".repeat(64));
    let manifest = json!({ "name": "x", "version": "1", "debug": true, "containers": [{ "id": "web", "image": image }] });
    json!({ "manifest": manifest }).to_string()
}

async fn api() -> TestApi {
    let account = Account { address: "test.host".parse().unwrap(), asset_code: "XRP".to_owned(), asset_scale: 9 };
    let metrics = Some(prometheus::Registry::new());
    TestApi::with(Setup { metrics, account: Some(account), pod: Some(upload()), ..Setup::default() }).await
}

async fn document(api: &TestApi) -> Value {
    let (head, body) = api.ask("GET /openapi.json", "", b"").await;
    assert!(head.contains("\r\ncontent-type: application/json; charset=utf-8\r\n"), "{head}");
    serde_json::from_str(&body).unwrap()
}

/// `METHOD /path` of each operation.
fn operations(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, item): (&String, &Value)| {
        item.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

#[tokio::test]
async fn the_document_has_each_route_and_no_other() {
    let api = api().await;
    let document = document(&api).await;
    assert_eq!(document["openapi"], "3.1.0");
    let told = operations(&document);
    for path in document["paths"].as_object().unwrap().keys() {
        for method in METHODS {
            let name = format!("{} {path}", method.to_uppercase());
            let (head, _) = api.ask(&name.replace("{hash}", "x"), "", b"").await;
            assert_eq!(!head.starts_with("http/1.1 405 "), told.contains(&name), "{name}: {head}");
        }
    }
}

#[tokio::test]
async fn metrics_are_told_of_only_if_they_are_shown() {
    let document = document(&TestApi::open().await).await;
    assert!(!operations(&document).contains("GET /metrics") && operations(&document).contains("GET /info"), "{document}");
}

/// One request: its operation, the rest of the path, head, body, and expected status.
type Row = (&'static str, String, &'static str, String, u16);

fn requests(hash: &str) -> Vec<Row> {
    let this = format!("?manifestHash={hash}");
    let plain = |operation, rest: &str, status| (operation, rest.to_owned(), "", String::new(), status);
    vec![
        plain("GET /", "", 200),
        plain("GET /info", "", 200),
        plain("GET /info", "?requestPeers=true", 200),
        plain("GET /memory", "", 200),
        plain("GET /version", "", 200),
        plain("GET /healthz", "", 200),
        plain("GET /readyz", "", 200),
        plain("GET /metrics", "", 200),
        plain("GET /openapi.json", "", 200),
        plain("GET /peers", "?limit=2", 200),
        plain("GET /peers", "?limit=0", 400),
        ("POST /peers/discover", String::new(), "", json!({ "peers": ["https://new.example"] }).to_string(), 200),
        ("POST /peers/discover", String::new(), "", "{}".to_owned(), 400),
        ("POST /peers/discover", String::new(), "Content-Type: text/plain\r\n", "{}".to_owned(), 415),
        ("OPTIONS /pods", String::new(), "", upload(), 200),
        ("OPTIONS /pods", String::new(), "Access-Control-Request-Method: POST\r\n", String::new(), 204),
        ("OPTIONS /pods", "?duration=0".to_owned(), "", upload(), 400),
        ("POST /pods", String::new(), "", upload(), 400),
        ("POST /pods", String::new(), TOKEN, upload(), 402),
        ("POST /pods", String::new(), TOKEN, upload().replace("debug\":true", "debug\":false"), 409),
        ("POST /pods", String::new(), TOKEN, "x".repeat(MIB + 1), 413),
        ("POST /pods", String::new(), "", upload().replace("}]", r#","environment":{"A":"$B"}}]"#), 422),
        ("PUT /pods", this.clone(), OTHER_TOKEN, String::new(), 402),
        ("PUT /pods", "?manifestHash=x".to_owned(), OTHER_TOKEN, String::new(), 404),
        ("PUT /pods", String::new(), OTHER_TOKEN, String::new(), 422),
        ("GET /pods", this, "", String::new(), 200),
        plain("GET /pods", "?manifestHash=x", 404),
        plain("GET /pods", "", 422),
        plain("GET /pods/{hash}/logs", "", 200),
    ]
}

#[tokio::test]
async fn answers_are_what_the_document_says() {
    let api = api().await;
    let mut document = document(&api).await;
    // An undocumented field also violates the document.
    for schema in document["components"]["schemas"].as_object_mut().unwrap().values_mut() {
        if schema.get("allOf").is_none() && schema.get("properties").is_some() {
            schema["additionalProperties"] = false.into();
        }
    }
    let hash = Upload::parse(upload().as_bytes(), &Rules::default()).unwrap().hash().to_string();
    let mut answered = BTreeSet::new();
    for (operation, rest, head, body, status) in requests(&hash) {
        let (method, path) = operation.split_once(' ').unwrap();
        let target = format!("{operation}{rest}").replace("{hash}", &hash);
        let head = format!("{head}Content-Length: {}\r\n", body.len());
        let (said, text) = api.ask(&target, &head, body.as_bytes()).await;
        assert!(said.starts_with(&format!("http/1.1 {status} ")), "{target}: {said} {text}");
        let told = &document["paths"][path][method.to_lowercase()]["responses"][status.to_string()];
        assert!(told.is_object(), "{operation} isn't told to answer {status}");
        for header in told["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            assert!(said.contains(&format!("\r\n{}: ", header.to_lowercase())), "{operation} {status}: {header} in {said}");
        }
        check_body(&document, told, &said, &text);
        answered.insert(operation.to_owned());
    }
    assert_eq!(answered, operations(&document), "each is tried");
}

/// Validates a body against its schema.
fn check_body(document: &Value, told: &Value, head: &str, text: &str) {
    let Some((kind, content)) = told["content"].as_object().and_then(|content| content.iter().next()) else {
        return assert_eq!(text, "", "nothing is told of a body");
    };
    assert!(head.contains(&format!("\r\ncontent-type: {kind}")), "{kind} in {head}");
    if kind != "application/json" {
        return;
    }
    let mut schema = content["schema"].clone();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let body: Value = serde_json::from_str(text).unwrap();
    let wrong: Vec<String> = validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{wrong:?} in {text}");
}

/// The response to a paid request.
#[tokio::test]
async fn receipts_are_what_the_document_says() {
    let api = api().await;
    let document = document(&api).await;
    let receipt = codiusd_api_types::pods::Receipt {
        url: "https://x.host.example/".to_owned(),
        manifest_hash: "a".repeat(52).parse().unwrap(),
        expiry: "2026-11-23T23:52:20.574Z".to_owned(),
    };
    for method in ["post", "put"] {
        let told = &document["paths"]["/pods"][method]["responses"]["200"];
        check_body(&document, told, "\r\ncontent-type: application/json", &serde_json::to_string(&receipt).unwrap());
    }
}
