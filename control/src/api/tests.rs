mod document;
mod host;
mod self_test_gate;

use std::{io::Write, net::SocketAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use codiusd_ilp::{ildcp::Account, stream::receiver::Receiver};
use codiusd_runtime::{NoopRuntime, PodId, Runtime};
use codiusd_supervisor::Supervisor;
use flate2::{Compression, write::GzEncoder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::watch,
};

use super::*;
use crate::{
    capacity::Capacity,
    capacity::CapacityLedger,
    clock::SystemClock,
    manifest::Upload,
    money::{Asset, Payments},
    peers::{PeersConfig, Reach, Rhythm},
    persistence,
    pod_sizes::PodSizes,
    pods::{Pod, PodManager, PodManagerConfig, PodMetrics, PodRecord, Routes, Term, WithdrawReason},
};

/// Hosts the control plane knows, as in the recording.
const PEERS: [&str; 3] = ["https://peer-a.example.com", "https://peer-b.example.com", "https://peer-other.example.com"];
const MIB: usize = 1024 * 1024;

#[derive(Debug)]
struct NoRoutes;

#[async_trait]
impl Routes for NoRoutes {
    fn publish(&self, _: &PodId, _: SocketAddr, _: u64) {}

    async fn withdraw(&self, _: &PodId, _: WithdrawReason) {}

    fn is_quiet(&self, _: &PodId) -> bool {
        true
    }
}

/// Options of an API under test.
#[derive(Default)]
struct Setup {
    metrics: Option<prometheus::Registry>,
    gate: Option<SelfTestGate>,
    reticent: bool,
    account: Option<Account>,
    /// An upload that is running.
    pod: Option<String>,
    memory_bytes: Option<u64>,
}

/// A whole API on a socket. Its peers are never asked.
struct TestApi {
    socket: PathBuf,
    draining: CancellationToken,
    supervisor: Supervisor,
    asset: watch::Sender<Option<Asset>>,
    _files: tempfile::TempDir,
    _account: watch::Sender<Option<Account>>,
}

impl TestApi {
    async fn open() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with(setup: Setup) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (database, snapshot) = persistence::open(&files.path().join("codius.db"), Supervisor::default()).unwrap();
        let supervisor = database.supervisor().clone();
        let (asset, known) = watch::channel(Some(Asset { code: "XRP".to_owned(), scale: 9 }));
        let (account, no_account) = watch::channel(setup.account);
        let clock = SystemClock::shared();
        let capacity = Arc::new(CapacityLedger::new(Capacity::of_memory(setup.memory_bytes.unwrap_or(64 << 30))));
        let payments = Arc::new(Payments::new(Vec::new(), Vec::new(), database.clone(), clock.clone(), known, capacity).unwrap());
        let config = PodManagerConfig::new("http://host.example".parse().unwrap());
        let pods = PodMetrics::register(&prometheus::Registry::new()).unwrap();
        let peers = PeersConfig {
            public_uri: "https://host.example".to_owned(),
            bootstrap: Vec::new(),
            reach: Reach::Public,
            known_max: 100,
            rhythm: Rhythm::default(),
        };
        let peers = Peers::new(peers, &PEERS.map(str::to_owned), database.clone(), clock.clone()).unwrap();
        let runtime = Arc::new(NoopRuntime::new());
        let mut found = Vec::new();
        if let Some(upload) = setup.pod {
            let order = Upload::parse(upload.as_bytes(), &Rules::default()).unwrap().order(&Rules::default(), "http://host.example");
            runtime.start(order.spec.clone()).await.unwrap();
            let expires_at = clock.now() + Duration::from_secs(3600);
            found.push(PodRecord { order, pod: Pod::Running { term: Term { expires_at, bought_seconds: 60 } } });
        }
        let manager = PodManager::new(config, runtime, Arc::new(NoRoutes), payments.clone(), database, clock, pods);
        manager.recover(found).await.unwrap();
        let receiver = Arc::new(Receiver::new(snapshot.server_secret, payments.clone()));
        let cost_per_month = Tariff::new("10".parse().unwrap());
        let paid_requests = PaidRequests::new(cost_per_month.clone(), PodSizes::default(), payments, manager, receiver, no_account);
        let draining = CancellationToken::new();
        let config = ApiConfig {
            draining: draining.clone(),
            gate: setup.gate.unwrap_or_else(SelfTestGate::open),
            metrics: setup.metrics,
            additional_host_info: !setup.reticent,
            public_uri: "http://host.example/?<&".to_owned(),
            cost_per_month,
            rules: Rules::default(),
            duration_default: NonZeroU32::MIN,
            duration_max: NonZeroU32::MAX,
        };
        let socket = files.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(serve(listener, config, paid_requests, peers, std::future::pending()));
        Self { socket, draining, supervisor, asset, _files: files, _account: account }
    }

    /// Sends all of it, then reads the response: head in lower case, and body.
    async fn ask(&self, request: &str, head: &str, body: &[u8]) -> (String, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap_or_else(|error| panic!("{request}: {error}"));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }
}

#[tokio::test]
async fn an_early_answer_takes_the_rest_of_its_request() {
    let api = TestApi::open().await;
    let body = vec![b'x'; 8 * MIB];
    let json = "Content-Type: application/json\r\n";
    let table = [
        ("POST /pods", json, "413", "Payload content length greater than maximum allowed: 1048576"),
        ("OPTIONS /pods", json, "413", "Payload content length greater than maximum allowed: 1048576"),
        ("PUT /pods", "", "413", "Payload content length greater than maximum allowed: 1048576"),
        ("POST /pods", "Content-Type: text/plain\r\n", "415", "Unsupported Media Type"),
        ("POST /pods", "Content-Type: x\r\n", "400", "Invalid content-type header"),
        ("POST /version", json, "405", "Method Not Allowed"),
        ("POST /nowhere", json, "404", "Not Found"),
    ];
    for (request, head, status, message) in table {
        let length = format!("{head}Content-Length: {}\r\n", body.len());
        let (head, answer) = api.ask(request, &length, &body).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{request}: {head}");
        assert!(answer.contains(message), "{request}: {answer}");
    }
}

#[tokio::test]
async fn who_waits_to_be_asked_for_a_body_is_not_asked() {
    let api = TestApi::open().await;
    let (head, _) = api.ask("POST /pods", "Expect: 100-continue\r\nContent-Length: 8000000\r\n", b"").await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
}

#[tokio::test]
async fn errors_are_pages_for_people_and_json_for_programs() {
    let api = TestApi::open().await;
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let table = [
        ("GET /nowhere", browser, "404", true),
        ("POST /version", browser, "405", true),
        ("GET /nowhere", "application/json, text/html;q=0.1", "404", false),
        ("GET /nowhere", "application/json;q=0.1, text/html; q=0.2", "404", true),
        ("GET /nowhere", "text/html;q=0", "404", false),
        ("GET /nowhere", "*/*", "404", false),
        ("POST /version", "", "405", false),
        ("GET /", "", "200", true),
        ("GET /", "application/json", "200", true),
        ("GET /version", browser, "200", false),
    ];
    for (request, accept, status, page) in table {
        let (head, body) = api.ask(request, &format!("Accept: {accept}\r\n"), b"").await;
        let kind = if page { "text/html; charset=utf-8" } else { "application/json; charset=utf-8" };
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{request} {accept}: {head}");
        assert!(head.contains(&format!("\r\ncontent-type: {kind}\r\n")), "{request} {accept}: {head}");
        assert!(head.contains("\r\nserver: codiusd\r\n"), "{request} {accept}: {head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{request} {accept}: {head}");
        assert_eq!(head.contains("\r\nallow: get,head"), status == "405", "{head}");
        assert_eq!(body.starts_with("<!doctype html>"), page, "{body}");
    }
    let (_, body) = api.ask("GET /pods?manifestHash=%3Cscript%3E", &format!("Accept: {browser}\r\n"), b"").await;
    assert!(body.contains("&lt;script&gt;") && !body.contains("<script"), "{body}");
}

#[tokio::test]
async fn what_is_asked_for_in_odd_ways_is_answered_as_otherwise() {
    let api = TestApi::open().await;
    let token = "Pay-Token: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    for hash in ["abc", &"a".repeat(52)] {
        let (head, body) = api.ask(&format!("PUT /pods?manifestHash={hash}"), token, b"").await;
        assert!(head.starts_with("http/1.1 404 "), "{head}");
        assert!(body.contains(&format!(r#""no pod found with id. id={hash}""#)), "{body}");
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(b"[]").unwrap();
    let body = gzip.finish().unwrap();
    for encoding in ["gzip", "GZip", "X-GZIP"] {
        let (head, answer) =
            api.ask("OPTIONS /pods", &format!("Content-Encoding: {encoding}\r\nContent-Length: {}\r\n", body.len()), &body).await;
        assert!(head.starts_with("http/1.1 400 ") && answer.contains("body: must be an object"), "{encoding}: {head} {answer}");
    }
}

#[tokio::test]
async fn metrics_are_shown_only_if_that_is_wanted() {
    let registry = prometheus::Registry::new();
    PodMetrics::register(&registry).unwrap();
    for (metrics, get, post) in [(None, "404", "404"), (Some(registry), "200", "405")] {
        let api = TestApi::with(Setup { metrics, ..Setup::default() }).await;
        let (head, body) = api.ask("GET /metrics", "", b"").await;
        assert!(head.starts_with(&format!("http/1.1 {get} ")), "{head}");
        assert_eq!(body.contains("codius_pods_restarted_total{reason=\"lost\"} 0\n"), get == "200", "{body}");
        let (head, _) = api.ask("POST /metrics", "", b"").await;
        assert!(head.starts_with(&format!("http/1.1 {post} ")), "{head}");
    }
}

/// Requests whose responses differ from the Node codiusd's on purpose: `(id, our status, why)`.
const DIFFERENT: &[(&str, u16, &str)] =
    &[("discover-proto", 400, "an unknown key is refused, whatever its name"), ("discover-get", 405, "only / is a page")];

#[tokio::test]
async fn peers_are_told_as_the_node_codiusd_tells_them() {
    let api = TestApi::open().await;
    let path = format!("{}/tests/data/http-peers.json", env!("CARGO_MANIFEST_DIR"));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(rows.len(), 43);
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let body = text("body");
        let kind = row.get("contentType").map_or("application/json", |kind| kind.as_str().unwrap());
        let mut head = if row.get("body").is_some() { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        if !kind.is_empty() {
            head += &format!("Content-Type: {kind}\r\n");
        }
        let (answer, said) = api.ask(&format!("{} {}", text("method"), text("path")), &head, body.as_bytes()).await;
        let expected = match DIFFERENT.iter().find(|(id, ..)| *id == text("id")) {
            Some((_, status, _)) => u64::from(*status),
            None => row["status"].as_u64().unwrap(),
        };
        assert!(answer.starts_with(&format!("http/1.1 {expected} ")), "{row}: {answer} {said}");
        if expected != row["status"] || expected != 200 {
            continue;
        }
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        let (ours, theirs) = (said.as_object().unwrap(), row["answer"].as_object().unwrap());
        let missing: Vec<_> = theirs.keys().filter(|key| !ours.contains_key(*key)).collect();
        assert!(missing.is_empty() && (ours.contains_key("peers") == theirs.contains_key("peers")), "{row}: {missing:?} {said}");
        if let Some(peers) = theirs.get("peers") {
            // The recorded newcomer hasn't been verified here.
            let count = peers.as_array().unwrap().len().min(PEERS.len());
            let told = said["peers"].as_array().unwrap();
            assert!(told.len() == count && told.iter().all(|peer| PEERS.contains(&peer.as_str().unwrap())), "{row}: {said}");
        }
    }
}
