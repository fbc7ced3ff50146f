//! Documents say what is true: paths and links lead somewhere, tables are those of the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use codiusd::{
    config::{
        keys::{KEYS, Key},
        limits::LIMITS,
    },
    figures::{Disk, HostFacts, HostFigures},
    self_test::SelfTestMetrics,
};
use codiusd_control::{
    pay::Asset,
    pods::{Doing, PodMetrics, Room, Shares},
    store::Totals,
};
use codiusd_proxy::{CertificateFiles, Certificates, Edge, EdgeConfig, RouteTable, TlsConfig};
use codiusd_runtime::{HyperdConfig, HyperdRuntime, network::restored_counter};
use prometheus::{Registry, proto::MetricFamily};

use crate::{assert_none, files, read, root, sources};

/// First parts of paths in this repository, by which a path in a text is told from others.
const TOP: &[&str] = &[".ci", "certs", "control", "demo", "deploy", "docs", "own", "proxy", "src", "supervisor", "tests"];
/// Bytes of the README.
const README_MAX: usize = 6_500;

#[test]
fn paths_in_texts_exist() {
    let documents = files(Path::new(""), "md").into_iter().map(|path| (path, false));
    let mut wrong = Vec::new();
    for (path, is_source) in documents.chain(sources().into_iter().map(|path| (path, true))) {
        let text = read(&root().join(&path));
        let lines = text.lines().filter(|line| !is_source || line.trim_start().starts_with("//"));
        for word in lines.flat_map(|line| line.split(['`', '(', ')', '[', ']', ' ', ',', ';'])) {
            let word = word.trim_end_matches(['.', ':', '/']);
            let is_path = word.split_once('/').is_some_and(|(first, rest)| TOP.contains(&first) && !rest.is_empty());
            let is_file = !is_source && !word.contains('/') && word.ends_with(".md");
            if (is_path || is_file) && !exists(&path, word) {
                wrong.push(format!("{} names {word}", path.display()));
            }
        }
    }
    assert_none(&wrong, "texts name only files that exist");
}

/// Whether a path is there from the root, or from the crate of the file that names it.
fn exists(named_in: &Path, path: &str) -> bool {
    let mut bases = named_in.ancestors().skip(1).map(|base| root().join(base));
    bases.any(|base| base.join(path).exists())
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for document in files(Path::new(""), "md") {
        let text = read(&root().join(&document));
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
            let file = if path.is_empty() { root().join(&document) } else { root().join(document.with_file_name(path)) };
            let has_anchor = |anchor: &str| read(&file).lines().any(|line| line.starts_with('#') && anchor_of(line) == anchor);
            if !file.exists() || anchor.is_some_and(|anchor| !has_anchor(anchor)) {
                wrong.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert_none(&wrong, "links lead to files and headings that exist");
}

/// As forges make it of a heading.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn the_readme_is_read_in_a_minute() {
    let size = read(&root().join("README.md")).len();
    assert!(size <= README_MAX, "README.md has {size} bytes: what of it belongs to docs/?");
}

#[test]
fn the_tables_of_settings_have_every_one_and_no_other() {
    let limits = LIMITS.iter().map(|limit| &limit.key).collect();
    for (page, table, keys) in [("configuration.md", "| key |", KEYS.iter().collect::<Vec<_>>()), ("limits.md", "| limit |", limits)] {
        let text = read(&root().join("docs/operate").join(page));
        let lines = text.lines().skip_while(|line| !line.starts_with(table));
        let rows: BTreeSet<&str> = lines.skip(2).take_while(|line| line.starts_with('|')).collect();
        let expected: Vec<String> = keys.into_iter().map(row_of).collect();
        let same = rows.len() == expected.len() && expected.iter().all(|row| rows.contains(row.as_str()));
        assert!(same, "the table of docs/operate/{page} should be:\n{}\n", expected.join("\n"));
    }
}

fn row_of(key: &Key) -> String {
    let environment: Vec<String> = key.environment.iter().map(|name| format!("`{name}`")).collect();
    let default = match key.default {
        Some("") => "empty".to_owned(),
        Some(default) => format!("`{default}`"),
        None => String::new(),
    };
    format!("| `{}` | {} | {default} | {} |", key.name, environment.join(", "), key.help)
}

/// A host of which all is known.
fn facts() -> HostFacts {
    let shares = Shares::default();
    HostFacts {
        started: 0,
        uplink: true,
        store: true,
        draining: false,
        pods: vec![Doing::Running],
        room: Room { max: shares, held: shares },
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
    HostFigures::register(&registry, facts).expect("register the host's figures");
    HostFigures::register_money(&registry, facts).expect("register the host's money");
    SelfTestMetrics::register(&registry).expect("register the self-test's metrics");
    registry.register(Box::new(restored_counter())).expect("register the policy's metric");
    HyperdRuntime::new(HyperdConfig::new(directory.path().join("hyper.sock")), &registry).expect("register hyperd's metrics");
    registry
}

#[test]
fn the_document_of_metrics_has_every_one_and_no_other() {
    let document = read(&root().join("docs/operate/monitoring.md"));
    let rows: Vec<&str> = document.lines().skip_while(|line| !line.starts_with("| metric |")).skip(2).collect();
    let rows: Vec<&str> = rows.into_iter().take_while(|line| line.starts_with('|')).collect();
    let expected: Vec<String> = registry().gather().iter().map(metric_row).collect();
    assert!(rows == expected, "the table of metrics in docs/operate/monitoring.md should be:\n{}\n", expected.join("\n"));
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
