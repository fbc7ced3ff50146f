//! `codiusd doctor`: well where all is well, and otherwise with a remedy for what isn't.

use std::process::Command;

use codiusd_kit::Host;
use serde_json::Value;

use crate::{
    host,
    self_test::{STEPS, first_report, tested},
    tls::make_certificates,
};

/// Grade, text and remedy of what a check has found.
fn found(report: &Value, check: &str) -> Vec<(String, String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("no findings in {report}"));
    let of_check = findings.iter().filter(|finding| finding["check"] == check);
    let found: Vec<_> = of_check.map(|finding| (text(finding, "grade"), text(finding, "text"), text(finding, "remedy"))).collect();
    assert!(!found.is_empty(), "no {check} in {report}");
    found
}

#[track_caller]
fn assert_found(report: &Value, check: &str, grade: &str, text: &str, remedy: &str) {
    let found = found(report, check);
    let is = |(has, says, help): &(String, String, String)| has == grade && says.contains(text) && help.contains(remedy);
    assert!(found.iter().any(is), "{check}: {found:?}");
}

async fn report(host: &Host) -> (bool, Value) {
    let said = host.run(&["doctor", "--json"]).await;
    let json = said.text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no JSON: {}", said.text));
    (said.status.success(), serde_json::from_str(json).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_runs_well_is_well() {
    let mut host = tested(host()).start().await;
    first_report(&host).await;
    let (well, report_of_it) = report(&host).await;
    assert!(well && report_of_it["well"] == true, "{report_of_it}");
    for check in ["privileges", "namespaces", "seccomp", "control groups", "network policy", "host"] {
        assert_found(&report_of_it, check, "ok", "", "");
    }
    for step in STEPS.into_iter().filter(|step| *step != "certificate") {
        assert_found(&report_of_it, "self-test", "ok", &format!("{step}: "), "");
    }
    let table = host.run(&["doctor"]).await;
    assert!(table.status.success() && table.text.contains("ok    self-test         websocket: "), "{}", table.text);

    host.kill9();
    let (well, report_of_it) = report(&host).await;
    assert!(well, "nothing is wrong with the machine: {report_of_it}");
    assert_found(&report_of_it, "host", "note", "no host is running", "codiusd serve");
}

#[tokio::test(flavor = "multi_thread")]
async fn visitors_who_would_come_to_nothing_are_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let host = host()
        .without_pods()
        .set("CODIUS_TLS_LISTEN", "127.0.0.1:0")
        .set("CODIUS_TLS_CERTS", make_certificates(directory.path()))
        // Nobody can listen there.
        .set("CODIUS_PUBLIC_URI", "https://other.localhost:0")
        .start()
        .await;
    let (well, report) = report(&host).await;
    assert!(!well, "{report}");
    assert_found(&report, "runtime", "note", "noop", "embedded");
    assert_found(&report, "certificate", "BAD", "none covers *.other.localhost", "-d '*.other.localhost'");
    assert_found(&report, "visitors", "ok", "*.other.localhost is 127.0.0.1", "");
    assert_found(&report, "visitors", "BAD", "127.0.0.1:0 refuses connections", "tls.listen");
    assert_found(&report, "self-test", "note", "the self-test is off", "self_test.enabled = true");
    assert_found(&report, "host", "ok", "", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_has_no_ear_for_its_operator_is_visited() {
    let host = host().without_pods().set("CODIUS_SELF_TEST", "on").start().await;
    let (well, report) = report(&host).await;
    assert!(!well, "it runs nothing, and its uploads are closed: {report}");
    assert_found(&report, "self-test", "note", "the admin listener is off", "admin.enabled = true");
    for text in ["*.localhost is 127.0.0.1", "takes connections", "the host's name: a codiusd answers", "names of pods: a codiusd answers"]
    {
        assert_found(&report, "visitors", "ok", text, "");
    }
    assert_found(&report, "host", "BAD", "self-test", "");
}

#[test]
fn a_machine_without_what_it_takes_is_told_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // No resolver is asked for a label as long as this.
    let name = format!("{}.example", "x".repeat(64));
    let output = Command::new(env!("CARGO_BIN_EXE_codiusd"))
        .args(["doctor", "--json"])
        .env("CODIUS_ROOT", directory.path().join("root"))
        .env("CODIUS_PUBLIC_URI", format!("https://{name}"))
        .env("CODIUS_PORT", taken.local_addr().unwrap().port().to_string())
        .env("CODIUS_HYPER_SOCKET", directory.path().join("hyperd.sock"))
        .env("ILP_CREDENTIALS", format!("{{\"server\":\"btp+ws://:s@{nobody}\"}}"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_found(&report, "names", "BAD", "doesn't resolve", &format!("{name}. A "));
    assert_found(&report, "names of pods", "BAD", &format!("*.{name} doesn't resolve"), &format!("*.{name}. A "));
    assert_found(&report, "ports", "BAD", "another program listens", "ss -ltnp");
    assert_found(&report, "hyperd", "BAD", "hyperd.sock", "start hyperd");
    assert_found(&report, "uplink", "BAD", "", "moneyd");
    assert_found(&report, "certificate", "note", "speaks no TLS", "tls.certificates");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(":s@"), "no secret is shown");
}
