//! Whatever is asked, answers are what the host's own document says: schemathesis makes requests of the document, right and wrong ones, and
//! holds each answer against it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use codiusd_kit::{Host, Payer, Upload, payer::pay_token, process::Process, web};
use http::{Method, Request, StatusCode, header};
use serde_json::Value;

use crate::host;

/// It takes a few seconds on an idle machine.
const WITHIN: Duration = Duration::from_secs(180);
/// A token belongs to the first request it comes with, so there are many; each may come again.
const TOKENS: usize = 100;
/// What must hold of every answer. Rules that a schema has no words for are why a manifest that suits it may still be refused.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
    response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,allow_header_conformance";

/// What is asked again and again beside what is made up: `pod` runs, `image` is there, and there are tokens.
fn config(pod: &str, image: &str) -> String {
    let tokens: Vec<String> = (0..TOKENS).map(|_| pay_token()).collect();
    format!(
        r#"
seed = 1
# A machine that is busy is no finding.
suppress-health-check = ["all"]
request-timeout = 60.0

[generation]
max-examples = 60
database = "none"

[cache]
enabled = false

[output.sanitization]
enabled = false

[warnings]
fail-on = ["dictionary_mismatch", "method_not_allowed", "missing_deserializer", "rate_limited", "unsupported_regex"]

[dictionaries]
pods = {{ values = ["{pod}"] }}
images = {{ values = ["{image}"] }}
sizes = {{ values = ["small"] }}
tokens = {{ values = {tokens:?} }}
# "true" has no end while the pod has none.
follow = {{ values = ["false", "True", "1"] }}

[parameters]
"path.hash" = {{ dictionary = "pods", probability = 0.5 }}
"query.manifestHash" = {{ dictionary = "pods", probability = 0.5 }}
"query.follow" = {{ dictionary = "follow" }}
"header.Pay-Token" = {{ dictionary = "tokens" }}
"body.manifest.machine" = {{ dictionary = "sizes" }}
"body.manifest.containers[*].image" = {{ dictionary = "images" }}
"#
    )
}

fn tool() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/schemathesis/.venv/bin/schemathesis");
    assert!(path.exists(), "{} is missing: `make test-setup` installs it", path.display());
    path
}

/// `METHOD /path` of each operation of the document.
fn operations(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().expect("paths").iter();
    let of = |(path, item): (&String, &Value)| {
        let methods = item.as_object().expect("methods").keys();
        methods.map(|method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
    };
    paths.flat_map(of).collect()
}

/// Tries all operations of the host; each must be tried. Which statuses each has answered with: `METHOD /path 200`.
async fn try_all(host: &Host, pod: &str) -> BTreeSet<String> {
    let files = tempfile::tempdir().expect("make a directory");
    let file = |name: &str| files.path().join(name);
    let document = host.api(Method::GET, "/openapi.json", None, None).await;
    for (name, text) in [("document.json", document.text()), ("schemathesis.toml", config(pod, host.image()))] {
        fs::write(file(name), text).expect("write a file");
    }
    let mut command = Command::new(tool());
    command.current_dir(files.path()).env("NO_PROXY", "*").args([
        "--config-file",
        "schemathesis.toml",
        "run",
        "--no-color",
        "--checks",
        CHECKS,
    ]);
    command.args(["--report-json-path", "report.json", "--report-har-path", "answers.har"]);
    // Read from a file: of one that it fetches, the path it is at isn't tried.
    command.args(["document.json", "--url", &host.uri()]);
    let output = Process::run("schemathesis", &mut command, &file("log"), WITHIN).await;
    assert!(output.status.success(), "{}", output.text);

    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(file(name)).expect(name)).expect(name) };
    let (report, operations) = (read("report.json"), operations(&document.json()));
    assert_eq!(report["operations"]["tested"], operations.len(), "{report}");
    assert_eq!(
        (&report["complete"], &report["operations"]["skipped"], &report["operations"]["errored"]),
        (&true.into(), &0.into(), &0.into())
    );
    let answers = read("answers.har");
    let answered = answers["log"]["entries"].as_array().expect("entries").iter().map(|entry| {
        let (request, status) = (&entry["request"], &entry["response"]["status"]);
        let url: url::Url = request["url"].as_str().expect("a URL").parse().expect("a URL");
        let path = if url.path().ends_with("/logs") { "/pods/{hash}/logs" } else { url.path() };
        format!("{} {path} {status}", request["method"].as_str().expect("a method"))
    });
    let answered: BTreeSet<String> = answered.collect();
    let missed: Vec<_> = operations.iter().filter(|name| !answered.iter().any(|answer| answer.starts_with(&format!("{name} ")))).collect();
    assert!(missed.is_empty(), "{missed:?} weren't asked for");
    answered
}

fn assert_answered(answered: &BTreeSet<String>, expected: &[&str]) {
    for answer in expected {
        assert!(answered.contains(*answer), "{answer} in {answered:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_pod_answers_as_its_document_says() {
    let host = host().set("CODIUS_PUBLIC_METRICS", "true").start().await;
    let payer = Payer::connect(host.ilp()).await;
    let pod = payer.run_pod(&host, &Upload::of(host.image()).debug(), 3600).await;
    let answered = try_all(&host, &pod).await;
    for path in ["/", "/healthz", "/info", "/memory", "/metrics", "/openapi.json", "/peers", "/readyz", "/version"] {
        assert_answered(&answered, &[&format!("GET {path} 200")]);
    }
    assert_answered(
        &answered,
        &[
            "GET /peers 400",
            "GET /pods 200",
            "GET /pods 404",
            "GET /pods/{hash}/logs 200",
            "GET /pods/{hash}/logs 404",
            "OPTIONS /pods 200",
            "OPTIONS /pods 400",
            "POST /peers/discover 200",
            "POST /peers/discover 400",
            "POST /pods 400",
            "POST /pods 402",
            "PUT /pods 402",
            "PUT /pods 404",
        ],
    );
    assert_eq!(host.pod(&pod, "/").await.status, StatusCode::OK, "it runs on");
}

/// Where nothing is to be paid, what follows a payment is tried, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_free_host_answers_as_its_document_says() {
    let settings = [("CODIUS_ADMIN_API", "true"), ("CODIUS_ADMIN_PORT", "0"), ("CODIUS_PUBLIC_METRICS", "true")];
    let host = settings.into_iter().fold(host().without_pods(), |host, (key, value)| host.set(key, value)).start().await;
    let free = Request::post("/config").header(header::HOST, "localhost").body(web::full(r#"{"hostCostPerMonth":0}"#));
    assert_eq!(web::send(host.admin(), free.expect("a request")).await.expect("/config").status, StatusCode::NO_CONTENT);
    let upload = Upload::of(host.image()).debug();
    let ran = host.api(Method::POST, "/pods?duration=3600", Some(upload.json()), Some(&pay_token())).await;
    assert_eq!(ran.status, StatusCode::OK, "{}", ran.text());
    let pod = ran.json()["manifestHash"].as_str().expect("a hash").to_owned();
    let answered = try_all(&host, &pod).await;
    assert_answered(&answered, &["GET /pods 200", "GET /pods/{hash}/logs 200", "POST /pods 200", "POST /pods 409", "PUT /pods 200"]);
}
