//! The host as a stranger sees it: its self-test, each thing that can be wrong with what it is told to do about it, and the doctor.
//!
//! Names, certificates and ports are real ones, in a network and mount namespace with a resolver of its own (dnsmasq).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use codiusd_kit::{
    Host, Upload,
    process::{Process, Signal},
    until,
};
use http::{Method, StatusCode};
use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host;

const NAME: &str = "host.example";
const WITHIN: Duration = Duration::from_secs(30);
const ALL: [&str; 11] = ["name", "wildcard", "connect", "certificate", "quote", "payer", "upload", "page", "websocket", "log", "stop"];

/// A network of its own, and a resolver that knows what it is told.
struct Net {
    resolver: Option<Process>,
    holder: Process,
    files: TempDir,
}

impl Net {
    async fn make() -> Self {
        let files = tempfile::tempdir().expect("make a directory");
        let resolvers = files.path().join("resolv.conf");
        fs::write(&resolvers, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").expect("write resolv.conf");
        let script =
            format!("mount --bind {} /etc/resolv.conf && ip link set lo up && echo up && exec sleep infinity", resolvers.display());
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "--propagation=private", "sh", "-c", &script]);
        let mut holder = Process::spawn("the namespace", &mut unshare, &files.path().join("namespace.log"));
        holder.line("the namespace", WITHIN, |line| (line == "up").then_some(())).await;
        Self { resolver: None, holder, files }
    }

    /// A command in there.
    fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.pid())).args(["--net", "--mount", "--", program]);
        command
    }

    /// From now on names resolve so.
    async fn names(&mut self, records: &[&str]) {
        self.resolver = None;
        let log = self.files.path().join(format!("dnsmasq-{:016x}.log", rand::random::<u64>()));
        let mut dnsmasq = self.enter("dnsmasq");
        dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file"]);
        dnsmasq.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-", "--local=/example/"]).args(records);
        let mut resolver = Process::spawn("dnsmasq", &mut dnsmasq, &log);
        resolver.line("its start", WITHIN, |line| line.contains("started").then_some(())).await;
        self.resolver = Some(resolver);
    }

    /// `POST path` or `GET path` of something that listens there: status and body.
    fn curl(&self, arguments: &[&str]) -> (u16, Value) {
        let output = self.enter("curl").args(["--silent", "--max-time", "60", "--write-out", "\n%{http_code}"]).args(arguments).output();
        let output = String::from_utf8(output.expect("run curl").stdout).expect("text");
        let (body, status) = output.rsplit_once('\n').expect("a status");
        (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

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
    let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(directory.join("ca.pem")).unwrap(), authority).unwrap();
    let mut params = CertificateParams::new([NAME.to_owned(), format!("*.{NAME}")]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2025, 1, 1));
    let pair = KeyPair::generate().unwrap();
    fs::write(directory.join("cert.pem"), params.signed_by(&pair, &issuer).unwrap().pem()).unwrap();
    fs::write(directory.join("key.pem"), pair.serialize_pem()).unwrap();
}

fn admin_of(host: &Host) -> String {
    format!("http://{}", host.admin())
}

/// The words of a report's steps, and how each went.
fn steps(report: &Value) -> Vec<(String, String)> {
    let text = |step: &Value, name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let steps = report["steps"].as_array().unwrap_or_else(|| panic!("no steps in {report}"));
    steps.iter().map(|step| (text(step, "step"), text(step, "result"))).collect()
}

/// Whether this and nothing else is wrong, and what is said to be done about it.
fn failed(report: &Value, step: &str, problem: &str, remedy: &str) {
    let failures: Vec<&Value> = report["steps"].as_array().into_iter().flatten().filter(|found| found["result"] == "failed").collect();
    let [failure] = failures[..] else { panic!("{problem} in {report}") };
    assert_eq!((&failure["step"], &failure["problem"]), (&json!(step), &json!(problem)), "{report}");
    assert!(failure["remedy"].as_str().is_some_and(|text| text.contains(remedy)), "{failure}");
    assert_eq!(report["selfTestSuccess"], false);
}

struct Tls {
    directory: PathBuf,
    _files: TempDir,
}

impl Tls {
    fn make() -> Self {
        let files = tempfile::tempdir().expect("make a directory");
        let directory = files.path().join("certs");
        make_certificate(&directory, &[NAME, "*.host.example"]);
        Self { directory, _files: files }
    }
}

async fn host_inside(net: &Net, tls: &Tls) -> Host {
    let file = |name: &str| tls.directory.join(name).display().to_string();
    host()
        .inside(net.holder.pid())
        .set("CODIUS_PUBLIC_URI", format!("https://{NAME}"))
        .set("CODIUS_TLS_LISTEN", "127.0.0.1:443")
        .set("CODIUS_TLS_CERTS", format!("{}:{}", file("cert.pem"), file("key.pem")))
        .set("SSL_CERT_FILE", file("ca.pem"))
        .set("CODIUS_SELF_TEST", "on")
        .set("CODIUS_SELF_TEST_INTERVAL", "1")
        .set("CODIUS_SELF_TEST_RETRIES", "100")
        .set("CODIUS_ADMIN_API", "true")
        .set("CODIUS_ADMIN_PORT", "0")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_opens_when_strangers_can_use_it_and_says_what_keeps_them_from_it() {
    let (mut net, tls) = (Net::make().await, Tls::make());
    net.names(&[]).await;
    let mut host = host_inside(&net, &tls).await;
    let admin = admin_of(&host);
    let ask = |net: &Net| {
        let (status, report) = net.curl(&["--request", "POST", &format!("{admin}/self-test")]);
        assert_eq!(status, 200, "{report}");
        report
    };
    let local = ["--insecure", "--resolve", "host.example:443:127.0.0.1"];
    let upload = |net: &Net| net.curl(&[&local[..], &["--request", "POST", "https://host.example/pods"]].concat());

    // Closed, until there are names for all.
    failed(&ask(&net), "name", "name_unresolved", "add a DNS record");
    let (status, body) = upload(&net);
    assert_eq!((status, body["stats"]["selfTestSuccess"].as_bool()), (503, Some(false)), "{body}");
    net.names(&["--host-record=host.example,127.0.0.1"]).await;
    failed(&ask(&net), "wildcard", "wildcard_unresolved", "*.host.example");
    net.names(&["--address=/host.example/127.0.0.2"]).await;
    failed(&ask(&net), "connect", "connection_refused", "tls_listen");

    // It opens without a restart.
    net.names(&["--address=/host.example/127.0.0.1"]).await;
    let report = until("the self-test to be passed", WITHIN, async || {
        let (_, report) = net.curl(&[&format!("{admin}/self-test")]);
        (report["selfTestSuccess"] == true).then_some(report)
    })
    .await;
    assert_eq!(steps(&report), ALL.map(|step| (step.to_owned(), "ok".to_owned())), "{report}");
    let (status, body) = upload(&net);
    assert_eq!(status, 400, "{body}");
    let (_, info) = net.curl(&[&local[..], &["https://host.example/info"]].concat());
    assert_eq!((&info["selfTestSuccess"], &info["acceptingUploads"]), (&json!(true), &json!(true)), "{info}");
    assert_eq!(host.books().earned, 228_311, "the minute was paid for");
    let (_, pods) = net.curl(&[&format!("{admin}/pods")]);
    assert_eq!(pods["pods"], json!([]), "the pod is gone");

    // What is wrong later is said, and closes nothing.
    let mut with_certificate = |net: &Net| {
        host.running().signal(Signal::SIGHUP);
        ask(net)
    };
    make_certificate(&tls.directory, &[]);
    failed(&with_certificate(&net), "certificate", "certificate_wrong_name", "a wildcard");
    make_expired_certificate(&tls.directory);
    failed(&with_certificate(&net), "certificate", "certificate_expired", "renew");
    let stranger = tls.directory.join("stranger");
    make_certificate(&stranger, &[NAME, "*.host.example"]);
    for file in ["cert.pem", "key.pem"] {
        fs::copy(stranger.join(file), tls.directory.join(file)).expect("put another certificate there");
    }
    failed(&with_certificate(&net), "certificate", "certificate_untrusted", "whole chain");
    assert_eq!(upload(&net).0, 400);
    let (_, info) = net.curl(&[&local[..], &["https://host.example/info"]].concat());
    assert_eq!(info["selfTestSuccess"], false, "{info}");
    make_certificate(&tls.directory, &[NAME, "*.host.example"]);

    // The pods' network is cut off by a firewall of the machine.
    assert_eq!(with_certificate(&net)["selfTestSuccess"], true);
    let cut = net.enter("nft").arg("add table ip cut; add chain ip cut out { type filter hook output priority 0; }; add rule ip cut out ip daddr 10.213.0.0/16 reject").status();
    assert!(cut.expect("run nft").success());
    let report = ask(&net);
    let went = steps(&report);
    assert!(
        went.contains(&("page".to_owned(), "failed".to_owned())) && went.contains(&("websocket".to_owned(), "failed".to_owned())),
        "{report}"
    );
    assert!(went.contains(&("stop".to_owned(), "ok".to_owned())), "{report}");
    assert!(report.to_string().contains("pod_subnet"), "{report}");
    let status = host.terminate().await;
    assert!(status.success(), "codiusd ended with {status}");
    assert!(host.running().log().contains("self-test passed"));
}

/// The report of a host of localhost, when its first test is over.
async fn first_report(host: &Host) -> Value {
    let admin = host.admin();
    until("the first self-test to be over", WITHIN, async || {
        let answer = codiusd_kit::web::send(admin, codiusd_kit::web::get(&admin.to_string(), "/self-test")).await.expect("an answer");
        (answer.status == StatusCode::OK).then(|| answer.json())
    })
    .await
}

fn tested(builder: codiusd_kit::HostBuilder) -> codiusd_kit::HostBuilder {
    builder.set("CODIUS_SELF_TEST", "on").set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_paid_or_runs_nothing_is_told_so() {
    let nobody = "127.0.0.1:9".parse().expect("an address");
    let unpaid = tested(host().without_pods()).uplink(nobody).start().await;
    failed(&first_report(&unpaid).await, "quote", "no_uplink", "ilp_credentials");

    let mut idle = tested(host().without_pods()).set("CODIUS_SELF_TEST_RETRIES", "0").start().await;
    failed(&first_report(&idle).await, "quote", "noop", "embedded or hyperd");
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
    let metrics = codiusd_kit::web::send(idle.admin(), codiusd_kit::web::get(&idle.admin().to_string(), "/metrics")).await.unwrap().text();
    for line in ["codius_self_test_success 0\n", "codius_self_test_failures_total{step=\"quote\"} 1\n"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    idle.terminate().await;
    idle.set("CODIUS_SELF_TEST", "off");
    idle.start_again().await;
    assert_eq!(idle.api(Method::POST, "/pods", Some(Upload::of(idle.image()).json()), None).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_room_or_websockets_is_told_so() {
    let mut host = tested(host()).set("CODIUS_EDGE_TUNNELS_PER_POD", "0").start().await;
    failed(&first_report(&host).await, "websocket", "websocket_failed", "edge_tunnels_per_pod");
    host.terminate().await;
    host.set("CODIUS_MAX_MEMORY_FRACTION", "0.0001");
    host.start_again().await;
    failed(&first_report(&host).await, "quote", "full", "max_memory_fraction");
}

/// What the doctor says, and its exit code.
fn doctor(environment: &[(&str, &str)], user: Option<&str>) -> (Value, Option<i32>) {
    let binary = env!("CARGO_BIN_EXE_codiusd");
    let mut command = match user {
        None => Command::new(binary),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups", binary]);
            command
        }
    };
    command.args(["doctor", "--json"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir("/");
    let output = command.envs(environment.iter().copied()).output().expect("run codiusd");
    let said = serde_json::from_slice(&output.stdout);
    (said.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr))), output.status.code())
}

/// The result of the first check with this name.
fn result<'a>(said: &'a Value, name: &str) -> &'a str {
    let checks = said["checks"].as_array().unwrap_or_else(|| panic!("no checks in {said}"));
    let check = checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no {name} in {said}"));
    assert_eq!(check["result"] == "ok", check["remedy"].is_null(), "{check}");
    check["result"].as_str().unwrap_or_default()
}

#[test]
fn the_doctor_looks_at_a_machine_without_a_host() {
    let files = tempfile::tempdir().unwrap();
    let root = files.path().join("root").display().to_string();
    let usual = [("CODIUS_DEV", "true"), ("CODIUS_PORT", "0"), ("CODIUS_ILP_LISTEN", "127.0.0.1:0"), ("CODIUS_ROOT", root.as_str())];
    let (said, code) = doctor(&usual, None);
    assert_eq!((code, &said["ok"]), (Some(0), &json!(true)), "{said}");
    for name in ["kernel", "namespaces", "seccomp", "cgroups", "nftables", "settings", "DNS", "uplink", "runtime"] {
        assert_eq!(result(&said, name), "ok", "{name}: {said}");
    }
    assert_eq!(result(&said, "self-test"), "skipped");
    assert!(!Path::new(&root).exists(), "nothing is changed");

    let (said, code) = doctor(&[&usual[..], &[("CODIUS_MACHINES", "huge")]].concat(), None);
    assert_eq!((code, result(&said, "settings")), (Some(1), "FAIL"), "{said}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let unlucky = [("CODIUS_PORT", port.as_str()), ("CODIUS_PUBLIC_URI", "https://nowhere.invalid"), ("CODIUS_ILP", "uplink")];
    let unlucky = [&usual[..], &unlucky, &[("ILP_CREDENTIALS", r#"{"server":"btp+ws://:x@127.0.0.1:9"}"#)]].concat();
    let (said, code) = doctor(&unlucky, None);
    assert_eq!(code, Some(1));
    for name in ["ports", "DNS", "uplink"] {
        assert_eq!(result(&said, name), "FAIL", "{said}");
    }
    assert_eq!(result(&said, "certificates"), "warn");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_lets_a_host_that_runs_test_itself() {
    let host = tested(host()).start().await;
    let output = host.run(&["doctor"]).await;
    assert!(output.status.success(), "{}", output.text);
    for step in ALL.into_iter().filter(|step| *step != "certificate") {
        let line = output.text.lines().find(|line| line.starts_with(&format!("self-test {step} ")));
        assert!(line.is_some_and(|line| line.contains("  ok  ")), "{step}: {}", output.text);
    }

    let root = host.root().display().to_string();
    let (said, code) = doctor(
        &[("CODIUS_DEV", "true"), ("CODIUS_ROOT", &root), ("CODIUS_PORT", "0"), ("CODIUS_ILP_LISTEN", "127.0.0.1:0")],
        Some("65534"),
    );
    assert_eq!(code, Some(0), "{said}");
    for name in ["cgroups", "nftables", "runtime", "self-test"] {
        assert_eq!(result(&said, name), "skipped", "{name}: {said}");
    }
}
