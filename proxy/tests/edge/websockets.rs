//! The Autobahn suite, run against a pod directly and through the edge: what the edge does to no byte of a tunnel, it shows in no case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::kit::{read_head, within};
use crate::secure::TlsFixture;

/// All of the protocol, many at once: most of them wait for a second that nothing comes.
const PROTOCOL: (&str, &[&str]) = ("8", &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]);
/// Of limits and compression one of each kind, and few at once: the suite gives a handshake 5 s, and the pod has one thread.
const BULK: (&str, &[&str]) = (
    "2",
    &[
        "9.1.6", "9.2.6", "9.3.4", "9.4.4", "9.5.4", "9.6.4", "9.7.1", "9.8.1", "12.1.1", "12.1.5", "12.3.3", "12.5.4", "13.1.1", "13.3.3",
        "13.5.4", "13.7.2",
    ],
);
/// For one run; it takes about 5 s on an idle machine.
const RUN: Duration = Duration::from_secs(150);

fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/autobahn").join(name);
    assert!(path.exists(), "{} is missing: `make test-setup` installs it", path.display());
    path
}

async fn echo_pod() -> (Child, u16) {
    let mut pod = Command::new(tool(".venv/bin/python"));
    let mut pod = pod.arg(tool("echo.py")).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(pod.stdout.take().unwrap()).lines();
    let port = within("the pod's port", lines.next_line()).await.unwrap().unwrap().parse().unwrap();
    (pod, port)
}

/// By case: the verdict on messages, on the close, and why.
type Verdicts = BTreeMap<String, [String; 3]>;

async fn run(address: &str) -> Verdicts {
    let mut verdicts = run_some(address, PROTOCOL).await;
    verdicts.extend(run_some(address, BULK).await);
    verdicts
}

async fn run_some(address: &str, (parallel, cases): (&str, &[&str])) -> Verdicts {
    let report = tempfile::tempdir().unwrap();
    let mut suite = Command::new(tool(".venv/bin/kosoku"));
    suite.args(["--mode", "fuzzingclient", "--parallelism", parallel, "--outdir"]).arg(report.path());
    for case in cases {
        suite.args(["--include", case]);
    }
    let suite = suite.arg(address).kill_on_drop(true).output();
    let output = tokio::time::timeout(RUN, suite).await.unwrap_or_else(|_| panic!("waited {RUN:?} for the suite")).unwrap();
    let index = std::fs::read(report.path().join("index.json")).unwrap_or_else(|_| panic!("{output:?}"));
    let agents: BTreeMap<String, BTreeMap<String, serde_json::Value>> = serde_json::from_slice(&index).unwrap();
    let field = |case: &serde_json::Value, name| case[name].as_str().unwrap().to_owned();
    let cases = agents.into_values().next().unwrap();
    let verdict = |case: &serde_json::Value| {
        let report = std::fs::read(report.path().join(field(case, "reportfile"))).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        let why = ["result", "resultClose", "wasNotCleanReason"].map(|name| report[name].to_string()).join("; ");
        [field(case, "behavior"), field(case, "behaviorClose"), why]
    };
    cases.iter().map(|(number, case)| (number.clone(), verdict(case))).collect()
}

/// Whether it is a failure: what the suite calls not strict depends on how the bytes of two messages fall into packets.
fn fails([behaviour, close, _why]: &[String; 3]) -> bool {
    [behaviour, close].iter().any(|verdict| !matches!(verdict.as_str(), "OK" | "NON-STRICT" | "INFORMATIONAL"))
}

/// Asks for the pod's host instead of the address the suite knows, and changes nothing else. Returns where it listens.
async fn named<S, F>(name: String, connect: impl Fn() -> F + Clone + Send + 'static) -> String
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = S> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (name, connect) = (name.clone(), connect.clone());
            tokio::spawn(async move {
                let head = read_head(&mut client).await.unwrap();
                let lines = head
                    .split("\r\n")
                    .map(|line| if line.to_ascii_lowercase().starts_with("host:") { format!("Host: {name}") } else { line.into() });
                let mut edge = connect().await;
                edge.write_all(lines.collect::<Vec<_>>().join("\r\n").as_bytes()).await.unwrap();
                // TLS may hold it back otherwise, and both sides would wait.
                edge.flush().await.unwrap();
                let _gone = copy_bidirectional(&mut client, &mut edge).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_passes_whatever_case_of_autobahn_the_pod_passes() {
    let (_pod, port) = echo_pod().await;
    let pod = format!("127.0.0.1:{port}");
    let direct = run(&pod).await;
    let failures = direct.values().filter(|verdict| fails(verdict)).count();
    assert!(direct.len() >= 263 && failures <= 1, "the pod itself fails {failures} of {}", direct.len());

    let fixture =
        std::sync::Arc::new(TlsFixture::with(Limits { requests_per_client: u64::MAX, connect: RUN, ..Limits::default() }, |_| {}).await);
    let name = fixture.publish(1, pod.parse().unwrap());
    let plain = fixture.fixture.edge.address();
    let over_tcp = named(name.clone(), move || async move { TcpStream::connect(plain).await.unwrap() }).await;
    let (secure, host) = (std::sync::Arc::clone(&fixture), name.clone());
    let over_tls = named(name, move || {
        let (fixture, host) = (std::sync::Arc::clone(&secure), host.clone());
        async move { fixture.handshake(&fixture.authority.client(&["http/1.1"]), &host).await.unwrap() }
    })
    .await;
    for address in [over_tcp, over_tls] {
        let through = run(&address).await;
        let missed: Vec<_> = through.iter().filter(|(case, verdict)| fails(verdict) && !fails(&direct[*case])).collect();
        assert!(missed.is_empty() && through.len() == direct.len(), "{missed:?}");
    }
}
