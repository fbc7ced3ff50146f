//! Documents that are generated from the code: tables of settings, limits, metrics, commands, requests and errors, and the settings file. `make docs` writes
//! them; the test compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    sync::Arc,
};

use codiusd::{
    command_reference,
    config::{
        key::Key,
        keys::{self, KEYS},
        limits::LIMITS,
    },
    host_metrics::HostMetrics,
    host_snapshot::{Disk, HostSnapshot},
    self_test::SelfTestMetrics,
};
use codiusd_control::{
    capacity::{CapacityUsage, Resources},
    money::{Asset, Totals},
    pods::{PodMetrics, PodPhase},
};
use codiusd_proxy::{CertificateFiles, Certificates, Edge, EdgeConfig, RouteTable, TlsConfig};
use codiusd_runtime::{HyperdConfig, HyperdRuntime, network::restored_counter};
use prometheus::{Registry, proto::MetricFamily};

use crate::{api_tables, assert_none, read, root};

/// Set by `make docs`: writes what differs.
const WRITE: &str = "CODIUSD_WRITE_DOCS";

/// A file, the section of it that is generated (none: all of it), and what it should be.
fn generated() -> Vec<(&'static str, Option<&'static str>, String)> {
    let table = |head: &str, rows: Vec<String>| {
        let columns = head.matches('|').count() - 1;
        format!("{head}\n|{}\n{}\n", "---|".repeat(columns), rows.join("\n"))
    };
    let document = |document: utoipa::openapi::OpenApi| serde_json::to_value(document).expect("an OpenAPI document is JSON");
    let (public, admin) = (document(codiusd_control::api::openapi()), document(codiusd::admin_openapi()));
    let (requests, errors) = ("| request | what it does | answer |", "| status | when | of which requests |");
    let settings = "| key | environment | default | what it is for |";
    vec![
        ("deploy/codiusd.toml", None, keys::default_file()),
        ("docs/operate/configuration.md", Some("settings"), table(settings, KEYS.iter().map(row_of).collect())),
        ("docs/operate/limits.md", Some("limits"), table(settings, LIMITS.iter().map(|limit| row_of(&limit.key)).collect())),
        (
            "docs/operate/monitoring.md",
            Some("metrics"),
            table("| metric | type | labels | what it counts |", registry().gather().iter().map(metric_row).collect()),
        ),
        ("docs/operate/cli.md", Some("commands"), command_reference()),
        ("docs/use/http-api.md", Some("requests"), table(requests, api_tables::requests(&public))),
        ("docs/use/http-api.md", Some("errors"), table(errors, api_tables::errors(&public))),
        ("docs/operate/administration.md", Some("requests"), table(requests, api_tables::requests(&admin))),
    ]
}

#[test]
fn generated_documents_are_those_of_the_code() {
    let mut wrong = Vec::new();
    for (file, section, expected) in generated() {
        let path = root().join(file);
        let text = read(&path);
        let (before, rest) = match section {
            None => ("", ""),
            Some(name) => {
                let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end of generated -->".to_owned());
                let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{file} has no {begin}"));
                let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{file} has no {end}"));
                (&text[..before.len() + begin.len()], &text[text.len() - after.len() - end.len()..])
            }
        };
        let should_be = format!("{before}{expected}{rest}");
        if should_be == text {
            continue;
        }
        if env::var_os(WRITE).is_some() {
            fs::write(&path, should_be).unwrap_or_else(|error| panic!("{file}: {error}"));
        } else {
            wrong.push(file.to_owned());
        }
    }
    assert_none(&wrong, "these differ from the code; make docs writes them");
}

fn row_of(key: &Key) -> String {
    let secret = |name: &str| if key.secret { format!("`{name}` or `{name}_FILE`") } else { format!("`{name}`") };
    let environment: Vec<String> = key.environment.iter().map(|name| secret(name)).collect();
    let default = key.default.map(|default| format!("`{}`", key.kind.toml_of(default))).unwrap_or_default();
    let path = if key.secret { format!("`{0}` or `{0}_file`", key.path) } else { format!("`{}`", key.path) };
    format!("| {path} | {} | {default} | {} |", environment.join(", "), key.help)
}

/// A host of which all is known.
fn facts() -> HostSnapshot {
    let shares = Resources::default();
    HostSnapshot {
        started: 0,
        asset: Some(Asset { code: "XRP".to_owned(), scale: 9 }),
        store: true,
        draining: false,
        pods: vec![PodPhase::Running],
        room: CapacityUsage { max: shares, held: shares, pod_overhead: codiusd_runtime::MemoryOverhead::default() },
        isolation: codiusd_runtime::Isolation::None,
        disk: Some(Disk { size: 1, free: 1 }),
        totals: vec![(Asset { code: "XRP".to_owned(), scale: 9 }, Totals::default())],
        peers: 0,
        panics: 0,
    }
}

/// Everything that counts, on one registry.
fn registry() -> Registry {
    let directory = tempfile::tempdir().expect("make a directory");
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("make a certificate");
    let files = CertificateFiles { chain: directory.path().join("cert.pem"), key: directory.path().join("key.pem") };
    fs::write(&files.chain, signed.cert.pem()).expect("write a file");
    fs::write(&files.key, signed.signing_key.serialize_pem()).expect("write a file");
    let tls = TlsConfig {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        certificates: Arc::new(Certificates::load(vec![files]).expect("load the certificate")),
        redirect: false,
        public_port: None,
        hsts_seconds: 0,
    };
    let edge =
        EdgeConfig { tls: Some(tls), ..EdgeConfig::new("127.0.0.1:0".parse().expect("an address"), directory.path().join("control.sock")) };
    let registry = Registry::new();
    Edge::start(edge, Arc::new(RouteTable::new()), &registry).expect("start an edge");
    PodMetrics::register(&registry).expect("register the pods' metrics");
    HostMetrics::register(&registry, facts).expect("register the host's figures");
    HostMetrics::register_money(&registry, facts).expect("register the host's money");
    SelfTestMetrics::register(&registry).expect("register the self-test's metrics");
    registry.register(Box::new(restored_counter())).expect("register the policy's metric");
    HyperdRuntime::new(HyperdConfig::new(directory.path().join("hyper.sock")), &registry).expect("register hyperd's metrics");
    registry
}

/// The values of a label are a closed set, but for names of certificates and assets, and releases.
fn metric_row(family: &MetricFamily) -> String {
    let mut labels = BTreeMap::<&str, BTreeSet<&str>>::new();
    for pair in family.get_metric().iter().flat_map(|metric| metric.get_label()) {
        labels.entry(pair.name()).or_default().insert(pair.value());
    }
    let told = labels.iter().map(|(label, values)| match *label {
        "asset" | "name" | "release" | "scale" => format!("`{label}`"),
        _ => format!("`{label}`: {}", values.iter().copied().collect::<Vec<_>>().join(", ")),
    });
    let (kind, labels) = (format!("{:?}", family.get_field_type()).to_lowercase(), told.collect::<Vec<_>>().join("; "));
    format!("| `{}` | {kind} | {labels} | {} |", family.name(), family.help())
}
