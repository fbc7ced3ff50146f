//! The rules and the dashboard that are shipped, on a real Prometheus that scrapes a host with a pod, visitors and TLS.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use codiusd_kit::{Host, Payer, Upload, process::Process, until, web};
use http::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use url::form_urlencoded;

use crate::{host, self_test::first_report, tls::make_certificates};

const READY_WITHIN: Duration = Duration::from_secs(30);
/// Until every rule has been evaluated over what was scraped.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// Before the end, so that it can be said what is missing.
const LAST_LOOK: Duration = Duration::from_secs(5);
const CHECKED_WITHIN: Duration = Duration::from_secs(30);

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(shipped(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Runs promtool on files of deploy/prometheus.
async fn promtool(arguments: &[&str]) {
    let directory = tempfile::tempdir().expect("make a directory");
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(shipped("prometheus"));
    let output = Process::run("promtool", &mut command, &directory.path().join("log"), CHECKED_WITHIN).await;
    assert!(output.status.success(), "promtool {arguments:?}: {}", output.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_valid_and_each_alert_is_tried() {
    promtool(&["check", "config", "prometheus.yml"]).await;
    promtool(&["check", "rules", "rules.yml"]).await;
    promtool(&["test", "rules", "rules_test.yml"]).await;
}

/// A Prometheus of its own that scrapes one host very often.
struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _files: TempDir,
}

impl Prometheus {
    async fn start(target: SocketAddr) -> Self {
        let files = tempfile::tempdir().expect("make a directory");
        let as_shipped = [
            ("15s".to_owned(), "250ms".to_owned()),
            ("127.0.0.1:3001".to_owned(), target.to_string()),
            ("- rules.yml".to_owned(), format!("- {}", shipped("prometheus/rules.yml").display())),
        ];
        let config = as_shipped.iter().fold(read("prometheus/prometheus.yml"), |config, (from, to)| {
            assert!(config.contains(from), "{from} in {config}");
            config.replace(from, to)
        });
        let file = files.path().join("prometheus.yml");
        fs::write(&file, config).expect("write a file");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display())).arg("--web.listen-address=127.0.0.1:0");
        command.arg(format!("--storage.tsdb.path={}", files.path().join("data").display()));
        let mut process = Process::spawn("prometheus", &mut command, &files.path().join("log"));
        let address = process.line("its address", READY_WITHIN, |line| {
            let (_, rest) = line.split_once("msg=\"Listening on\"")?;
            rest.split_once("address=")?.1.split_whitespace().next()?.parse().ok()
        });
        let address = address.await;
        Self { address, _process: process, _files: files }
    }

    /// An answer of its API; null while it isn't ready.
    async fn ask(&self, path: &str) -> Value {
        let answer = web::send(self.address, web::get("localhost", path)).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        if answer.status == StatusCode::SERVICE_UNAVAILABLE { Value::Null } else { answer.json() }
    }

    /// The samples of an expression.
    async fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let answer = self.ask(&format!("/api/v1/query?query={encoded}")).await;
        assert_ne!(answer["errorType"], "bad_data", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

/// What the dashboard asks, as Grafana would.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("grafana/codiusd.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.map(|target| target["expr"].as_str().expect("an expression"));
    expressions.map(|expression| expression.replace("$instance", ".*").replace("$__rate_interval", "30s")).collect()
}

/// Names of metrics that codiusd itself has, in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'));
    words.filter(|word| word.starts_with("codius_")).map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect()
}

/// Values of a key of the rules' file, in order.
fn values<'a>(rules: &'a str, key: &str) -> Vec<&'a str> {
    rules.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ")).collect()
}

#[test]
fn every_alert_says_what_to_do() {
    let (rules, document, tests) = (read("prometheus/rules.yml"), read("../docs/operate/monitoring.md"), read("prometheus/rules_test.yml"));
    let alerts = values(&rules, "alert");
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in &alerts {
        assert!(document.contains(&format!("\n### {alert}\n")), "docs/operate/monitoring.md has no section {alert}");
        assert!(tests.contains(&format!("- name: {alert}\n")), "no test of {alert}");
        let anchor = format!("docs/operate/monitoring.md#{}", alert.to_lowercase());
        assert!(values(&rules, "runbook_url").iter().any(|url| url.ends_with(&anchor)), "no link to {anchor}");
    }
    for key in ["summary", "description", "runbook_url"] {
        assert_eq!(values(&rules, key).len(), alerts.len(), "each alert has one {key}");
    }
    assert_eq!(document.matches("\n### Codius").count(), alerts.len(), "no section of an alert that is gone");
}

/// A host of which every metric is there.
async fn seen_host(certificates: &Path) -> Host {
    let setting = make_certificates(certificates);
    let settings = [
        ("CODIUS_ADMIN_API", "true"),
        ("CODIUS_ADMIN_PORT", "0"),
        ("CODIUS_TLS_LISTEN", "127.0.0.1:0"),
        ("CODIUS_TLS_CERTS", &setting),
        ("CODIUS_PUBLIC_METRICS", "true"),
        ("CODIUS_SELF_TEST", "on"),
    ];
    let host = settings.into_iter().fold(host(), |host, (key, value)| host.set(key, value)).start().await;
    // Until then it takes no uploads.
    assert_eq!(first_report(&host).await["selfTestSuccess"], true);
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_has_an_answer_to_every_query_of_the_dashboard() {
    let certificates = tempfile::tempdir().expect("make a directory");
    let host = seen_host(certificates.path()).await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
    let prometheus = Prometheus::start(host.admin()).await;

    let scrape = web::send(host.admin(), web::get(&host.admin().to_string(), "/metrics")).await.expect("a scrape").text();
    let (rules, queries) = (read("prometheus/rules.yml"), queries());
    let told: BTreeSet<&str> = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let asked: BTreeSet<&str> = names(&rules).into_iter().chain(queries.iter().flat_map(|query| names(query))).collect();
    let unknown: Vec<_> = asked.difference(&told).collect();
    assert!(unknown.is_empty(), "no such metric in a scrape: {unknown:?}");
    let public = host.api(http::Method::GET, "/metrics", None, None).await.text();
    assert!(!public.contains("codius_money_") && scrape.contains("codius_money_earned_units_total{"), "{public}");

    let records: Vec<String> = values(&rules, "record").into_iter().map(str::to_owned).collect();
    let mut open: Vec<&String> = queries.iter().chain(&records).collect();
    let deadline = Instant::now() + SEEN_WITHIN;
    until("a round of queries without one that is empty", SEEN_WITHIN, async || {
        assert!(Instant::now() < deadline - LAST_LOOK, "no answer to {open:#?}");
        // Rates need visitors that come while it is watched.
        assert_eq!(host.pod(&hash, "/").await.status, StatusCode::OK);
        let mut empty = Vec::new();
        for query in std::mem::take(&mut open) {
            let samples = prometheus.query(query).await;
            let is_number = |sample: &Value| sample["value"][1].as_str().is_some_and(|value| value != "NaN");
            if !samples.iter().any(is_number) {
                empty.push(query);
            }
        }
        open = empty;
        open.is_empty().then_some(())
    })
    .await;

    let rules = prometheus.ask("/api/v1/rules").await;
    let groups = rules["data"]["groups"].as_array().expect("groups");
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect();
    let sick: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(rules.len() > 15 && sick.is_empty(), "{sick:?}");
    let firing: Vec<_> = rules.iter().filter(|rule| rule["state"] == "firing").map(|rule| &rule["name"]).collect();
    assert!(firing.is_empty(), "an ordinary host raises no alert: {firing:?}");
}
