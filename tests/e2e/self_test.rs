//! The host as a stranger sees it: its self-test, and each thing that can be wrong with what it is told to do about it.
//!
//! Names, certificates and ports are real ones, on a machine with a resolver of its own (dnsmasq).

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use codiusd_kit::{Host, HostBuilder, Internet, NetMachine, Upload, process::Signal, until, web};
use http::{Method, StatusCode};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use crate::host;

const NAME: &str = "host.example.test";
const WITHIN: Duration = Duration::from_secs(30);
pub(crate) const STEPS: [&str; 11] =
    ["name", "wildcard", "connect", "certificate", "quote", "payer", "upload", "page", "websocket", "log", "stop"];

/// `codiusd certs dev`: the files are in the directory.
fn make_certificate(directory: &Path, names: &[&str]) {
    let mut codiusd = Command::new(env!("CARGO_BIN_EXE_codiusd"));
    codiusd.args(["certs", "dev"]).arg(directory).args(names.iter().flat_map(|name| ["--name", name]));
    let output = codiusd.output().expect("run codiusd");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// One that was good until last year, from the authority in `directory`.
fn make_expired_certificate(directory: &Path) {
    let authority = KeyPair::from_pem(&fs::read_to_string(directory.join("ca-key.pem")).unwrap()).unwrap();
    let mut called = CertificateParams::default();
    called.distinguished_name.push(DnType::CommonName, "codiusd development authority");
    let issuer = Issuer::from_params(&called, authority);
    let mut params = CertificateParams::new([NAME.to_owned(), format!("*.{NAME}")]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2025, 1, 1));
    let pair = KeyPair::generate().unwrap();
    fs::write(directory.join("cert.pem"), params.signed_by(&pair, &issuer).unwrap().pem()).unwrap();
    fs::write(directory.join("key.pem"), pair.serialize_pem()).unwrap();
}

/// The words of a report's steps, and how each went.
fn steps(report: &Value) -> Vec<(String, String)> {
    let text = |step: &Value, name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let steps = report["steps"].as_array().unwrap_or_else(|| panic!("no steps in {report}"));
    steps.iter().map(|step| (text(step, "step"), text(step, "result"))).collect()
}

/// Whether these steps and no others failed, by these problems, and what is said to be done about the first.
#[track_caller]
fn failed(report: &Value, expected: &[(&str, &str)], remedy: &str) {
    let failures: Vec<&Value> = report["steps"].as_array().into_iter().flatten().filter(|found| found["result"] == "failed").collect();
    let text = |found: &Value, key: &str| found[key].as_str().unwrap_or_default().to_owned();
    let told: Vec<_> = failures.iter().map(|found| (text(found, "step"), text(found, "problem"))).collect();
    let expected: Vec<_> = expected.iter().map(|(step, problem)| ((*step).to_owned(), (*problem).to_owned())).collect();
    assert_eq!(told, expected, "{report}");
    assert!(text(failures[0], "remedy").contains(remedy), "{report}");
    assert_eq!(report["selfTestSuccess"], false);
}

/// A host of that name on a machine of the Internet, with the certificate that is in the directory.
struct Tested<'a> {
    host: Host,
    machine: &'a NetMachine,
    certificates: &'a Path,
}

impl<'a> Tested<'a> {
    async fn start(machine: &'a Arc<NetMachine>, certificates: &'a Path) -> Self {
        let file = |name: &str| certificates.join(name).display().to_string();
        let host = host()
            .on(machine)
            .set("CODIUS_PUBLIC_URI", format!("https://{NAME}"))
            .set("CODIUS_TLS_CERTS", format!("{}:{}", file("cert.pem"), file("key.pem")))
            .set("SSL_CERT_FILE", file("ca.pem"))
            .set("CODIUS_SELF_TEST", "on")
            .set("CODIUS_SELF_TEST_INTERVAL", "1")
            .set("CODIUS_SELF_TEST_RETRIES", "100")
            .set("CODIUS_ADMIN_API", "true")
            .set("CODIUS_ADMIN_PORT", "0")
            .start()
            .await;
        Self { host, machine, certificates }
    }

    /// What the operator's listener answers.
    fn operator(&self, arguments: &[&str], path: &str) -> Value {
        let url = format!("http://{}{path}", self.host.admin());
        let answer = self.machine.run("curl", &[&["--silent", "--max-time", "100"], arguments, &[&url]].concat(), "");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"))
    }

    /// Has it test itself now.
    fn test(&self) -> Value {
        self.operator(&["--request", "POST"], "/self-test")
    }

    /// The same with other files for its certificate.
    async fn test_with(&mut self, names: Option<&[&str]>) -> Value {
        if let Some(names) = names {
            make_certificate(self.certificates, names);
        }
        self.host.running().signal(Signal::SIGHUP);
        self.test()
    }

    async fn upload(&self) -> codiusd_kit::web::Answer {
        self.host.api(Method::POST, "/pods", Some(&json!({})), None).await
    }

    async fn info(&self) -> Value {
        self.host.api(Method::GET, "/info", None, None).await.json()
    }
}

#[test]
fn a_host_opens_when_strangers_can_use_it_and_says_what_keeps_them_from_it() {
    Internet::run(async |internet| {
        let machine = Arc::new(internet.machine(1));
        let (files, address) = (tempfile::tempdir().unwrap(), machine.v4());
        make_certificate(files.path(), &[NAME, "*.host.example.test"]);
        let mut tested = Tested::start(&machine, files.path()).await;

        // Closed, until there are names for all.
        failed(&tested.test(), &[("name", "name_unresolved"), ("wildcard", "wildcard_unresolved")], "add a DNS record");
        let refused = tested.upload().await;
        assert_eq!((refused.status, &refused.json()["stats"]["selfTestSuccess"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)));
        internet.name([(NAME, vec![address.into()])]);
        failed(&tested.test(), &[("wildcard", "wildcard_unresolved")], "*.host.example.test");
        internet.wildcards(&[(NAME, internet.addresses(200)[0])]).await;
        failed(&tested.test(), &[("connect", "connection_refused")], "tls.listen");

        // It opens without a restart.
        internet.wildcards(&[(NAME, address.into())]).await;
        let report = until("the self-test to be passed", WITHIN, async || {
            let report = tested.operator(&[], "/self-test");
            (report["selfTestSuccess"] == true).then_some(report)
        })
        .await;
        assert_eq!(steps(&report), STEPS.map(|step| (step.to_owned(), "ok".to_owned())), "{report}");
        assert_eq!(tested.upload().await.status, StatusCode::BAD_REQUEST);
        let info = tested.info().await;
        assert_eq!((&info["selfTestSuccess"], &info["acceptingUploads"]), (&json!(true), &json!(true)), "{info}");
        assert_eq!(tested.host.books().earned, 228_311, "the minute was paid for");
        assert_eq!(tested.operator(&[], "/pods")["pods"], json!([]), "the pod is gone");

        // What is wrong later is said, and closes nothing.
        failed(&tested.test_with(Some(&[])).await, &[("certificate", "certificate_wrong_name")], "a wildcard");
        make_expired_certificate(files.path());
        failed(&tested.test_with(None).await, &[("certificate", "certificate_expired")], "renew");
        let stranger = files.path().join("stranger");
        make_certificate(&stranger, &[NAME, "*.host.example.test"]);
        for file in ["cert.pem", "key.pem"] {
            fs::copy(stranger.join(file), files.path().join(file)).expect("put another certificate there");
        }
        failed(&tested.test_with(None).await, &[("certificate", "certificate_untrusted")], "whole chain");
        assert_eq!(tested.upload().await.status, StatusCode::BAD_REQUEST);
        assert_eq!(tested.info().await["selfTestSuccess"], false);
        assert_eq!(tested.test_with(Some(&[NAME, "*.host.example.test"])).await["selfTestSuccess"], true);

        // The pods' network is cut off by a firewall of the machine.
        let cut = "add table ip cut; add chain ip cut out { type filter hook output priority 0; }; add rule ip cut out ip daddr 10.213.0.0/16 reject";
        machine.run("nft", &[cut], "");
        let report = tested.test();
        let went = steps(&report);
        for (step, result) in [("page", "failed"), ("websocket", "failed"), ("stop", "ok")] {
            assert!(went.contains(&(step.to_owned(), result.to_owned())), "{step}: {report}");
        }
        assert!(report.to_string().contains("pods.subnet"), "{report}");
        let status = tested.host.terminate().await;
        assert!(status.success(), "codiusd ended with {status}");
        assert!(tested.host.running().log().contains("self-test passed"));
    });
}

/// The report of a host of localhost, when its first test is over.
pub(crate) async fn first_report(host: &Host) -> Value {
    let admin = host.admin();
    until("the first self-test to be over", WITHIN, async || {
        let answer = web::send(admin, web::get(&admin.to_string(), "/self-test")).await.expect("an answer");
        (answer.status == StatusCode::OK).then(|| answer.json())
    })
    .await
}

pub(crate) fn tested(builder: HostBuilder) -> HostBuilder {
    builder.set("CODIUS_SELF_TEST", "on").set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_paid_or_runs_nothing_is_told_so() {
    let nobody = "127.0.0.1:9".parse().expect("an address");
    let unpaid = tested(host().without_pods()).uplink(nobody).start().await;
    failed(&first_report(&unpaid).await, &[("quote", "no_uplink")], "uplink.url");

    let mut idle = tested(host().without_pods()).set("CODIUS_SELF_TEST_RETRIES", "0").start().await;
    failed(&first_report(&idle).await, &[("quote", "noop")], "embedded or hyperd");
    let answer = until("the host to have given up", WITHIN, async || {
        let answer = idle.api(Method::POST, "/pods", Some(Upload::of(idle.image()).json()), None).await;
        (answer.json()["message"] == "Self Test Failed").then_some(answer)
    })
    .await;
    let stats = r#"{"selfTestSuccess":false,"uploadSuccess":false,"httpSuccess":false,"wsSuccess":false,"running":false}"#;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::SERVICE_UNAVAILABLE, format!(r#"{{"message":"Self Test Failed","stats":{stats}}}"#))
    );
    assert_eq!(idle.api(Method::GET, "/readyz", None, None).await.status, StatusCode::OK);
    let metrics = web::send(idle.admin(), web::get(&idle.admin().to_string(), "/metrics")).await.unwrap().text();
    for line in ["codius_self_test_success 0\n", "codius_self_test_failures_total{step=\"quote\"} 1\n"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    idle.terminate().await;
    idle.set("CODIUS_SELF_TEST", "off");
    idle.start_again().await;
    assert_eq!(idle.api(Method::POST, "/pods", Some(Upload::of(idle.image()).json()), None).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_stopped_in_the_middle_of_its_test_leaves_nothing_of_it() {
    let mut host = tested(host()).start().await;
    host.running().line("the start of the test's pod", WITHIN, |line| line.contains("pod running").then_some(())).await;
    let status = host.terminate().await;
    assert!(status.success(), "codiusd ended with {status}");
    assert!(host.traces().is_empty(), "left behind: {:?}", host.traces());
    let log = host.running().log();
    assert!(!log.contains("couldn't be stopped in time"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_room_or_websockets_is_told_so() {
    let mut host = tested(host()).set("CODIUS_EDGE_TUNNELS_PER_POD", "0").start().await;
    failed(&first_report(&host).await, &[("websocket", "websocket_failed")], "limits.tunnels_per_pod");
    host.terminate().await;
    host.set("CODIUS_MAX_MEMORY_FRACTION", "0.0001");
    host.start_again().await;
    failed(&first_report(&host).await, &[("upload", "full")], "capacity.memory_fraction");
}
