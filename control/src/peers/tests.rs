use std::sync::atomic::{AtomicUsize, Ordering};

use codiusd_kit::{in_time, until};
use codiusd_supervisor::Supervisor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{ask::AskError, *};
use crate::clock::SystemClock;
use crate::persistence;

const WITHIN: Duration = Duration::from_secs(20);

/// A host at `http://localhost:PORT` that sends given answers and counts connections.
struct Stranger {
    uri: PeerUri,
    connections: Arc<AtomicUsize>,
}

impl Stranger {
    /// `answer` builds the whole answer from the stranger's own name and the request.
    async fn speaking(answer: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        let connections = Arc::new(AtomicUsize::new(0));
        let (name, count, answer) = (uri.clone(), connections.clone(), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (name, answer) = (name.clone(), answer.clone());
                tokio::spawn(async move { serve(stream, &name, &*answer).await });
            }
        });
        Self { uri: PeerUri::parse(&uri, Reach::Anywhere).unwrap(), connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Serves one request, then keeps the connection open until the client closes it.
async fn serve(mut stream: TcpStream, name: &str, answer: &(dyn Fn(&str, &str) -> String + Sync)) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(length @ 1..) => request.extend_from_slice(&more[..length]),
            _ => return,
        }
    }
    let answer = answer(name, &String::from_utf8_lossy(&request));
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.read(&mut [0]).await;
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn info(name: &str) -> String {
    // As recorded from the Node codiusd, but for its name.
    ok(&format!(
        r#"{{"fullMem":false,"acceptingUploads":true,"serverFreeMemory":18957385728,"serverUptime":4363,"serviceUptime":2.647,"avgLoad":1.59326171875,"numPeers":3,"currency":"XRP","costPerMonth":10,"uri":"{name}","selfTestSuccess":true,"runningContracts":0}}"#
    ))
}

#[test]
fn one_customers_addresses_are_one() {
    let table = [
        ("11.0.0.1", "11.0.0.1"),
        ("::ffff:11.0.0.1", "11.0.0.1"),
        ("2a00:11:0:1:2:3:4:5", "2a00:11:0:1::"),
        ("2a00:11:0:2::", "2a00:11:0:2::"),
    ];
    for (address, network) in table {
        assert_eq!(network_of(address.parse().unwrap()), network.parse::<IpAddr>().unwrap(), "{address}");
    }
}

fn asker() -> Asker {
    Asker::new(Reach::Anywhere, WITHIN).unwrap()
}

#[tokio::test]
async fn a_host_is_who_its_info_says() {
    let honest = Stranger::speaking(|name, _| info(name)).await;
    assert!(asker().look(&honest.uri).await.unwrap().is_loopback());
    let slash = Stranger::speaking(|name, _| info(&format!("{name}/"))).await;
    assert!(asker().look(&slash.uri).await.is_ok(), "the same name, as some hosts write it");

    let victim = Stranger::speaking(|name, _| info(name)).await;
    let target = victim.uri.clone();
    let redirect =
        Stranger::speaking(move |_, _| format!("HTTP/1.1 302 Found\r\nlocation: {target}/info\r\ncontent-length: 0\r\n\r\n")).await;
    assert!(matches!(asker().look(&redirect.uri).await, Err(AskError::Status(_))));
    assert_eq!(victim.connections(), 0, "a redirect isn't followed");

    let other = victim.uri.clone();
    let liar = Stranger::speaking(move |_, _| info(other.as_str())).await;
    assert!(matches!(asker().look(&liar.uri).await, Err(AskError::SomebodyElse)));
    let garbage = Stranger::speaking(|_, _| ok("\u{0}{{{")).await;
    assert!(matches!(asker().look(&garbage.uri).await, Err(AskError::Odd(_))));
    let no_http = Stranger::speaking(|_, _| "SSH-2.0-OpenSSH\r\n".to_owned()).await;
    assert!(matches!(asker().look(&no_http.uri).await, Err(AskError::Request(_))));
    let long = Stranger::speaking(|name, _| ok(&format!("{{\"uri\":\"{name}\",\"x\":\"{}\"}}", "x".repeat(300 * 1024)))).await;
    assert!(matches!(asker().look(&long.uri).await, Err(AskError::Long)));
    let refuses = Stranger::speaking(|_, _| "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
    assert!(matches!(asker().look(&refuses.uri).await, Err(AskError::Status(_))));

    let endless = Stranger::speaking(|_, _| "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned()).await;
    let hasty = Asker::new(Reach::Anywhere, Duration::from_millis(100)).unwrap();
    let looked = in_time("an answer that never ends to be given up", WITHIN, hasty.look(&endless.uri)).await;
    assert!(matches!(looked, Err(AskError::Request(error)) if error.is_timeout()));
}

#[tokio::test]
async fn peers_are_exchanged_as_the_node_codiusd_does() {
    let answer = r#"{"name":"Codiusd (JavaScript)","version":"1.2.5","peers":["https://peer-a.example.com","https://peer-b.example.com","not a url",7]}"#;
    let node = Stranger::speaking(move |_, request| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /peers/discover HTTP/1.1"), "{head}");
        assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
        assert_eq!(body, r#"{"peers":["https://codius.example.com"]}"#);
        ok(answer)
    })
    .await;
    let own = PeerUri::parse("https://codius.example.com/", Reach::Public).unwrap();
    let theirs = asker().exchange(&node.uri, &[own]).await.unwrap();
    assert_eq!(theirs.iter().map(PeerUri::as_str).collect::<Vec<_>>(), ["https://peer-a.example.com", "https://peer-b.example.com"]);

    let many = Stranger::speaking(|_, _| {
        let names: Vec<String> = (0..5000).map(|number| format!("\"https://p{number}.example\"")).collect();
        ok(&format!("{{\"peers\":[{}]}}", names.join(",")))
    })
    .await;
    assert_eq!(asker().exchange(&many.uri, &[]).await.unwrap().len(), 1000, "no more than a thousand of one answer");
}

#[tokio::test]
async fn no_name_leads_to_this_machine_or_its_network() {
    let victim = Stranger::speaking(|name, _| info(name)).await;
    let public = Asker::new(Reach::Public, WITHIN).unwrap();
    // Addresses a stranger's DNS might return for a harmless name, and names refused before resolution.
    for uri in [victim.uri.as_str().replace("http:", "https:"), victim.uri.to_string()] {
        let uri = PeerUri::parse(&uri, Reach::Anywhere).unwrap();
        assert!(matches!(public.look(&uri).await, Err(AskError::Request(_))), "{uri}");
        assert!(public.exchange(&uri, &[]).await.is_err(), "{uri}");
    }
    assert_eq!(victim.connections(), 0);
}

fn peers(config: PeersConfig, root: &std::path::Path) -> Peers {
    let (database, snapshot) = persistence::open(&root.join("codius.db"), Supervisor::default()).unwrap();
    Peers::new(config, &snapshot.peers, database, SystemClock::shared()).unwrap()
}

fn config(bootstrap: &[&PeerUri]) -> PeersConfig {
    PeersConfig {
        public_uri: "http://localhost:1".to_owned(),
        bootstrap: bootstrap.iter().copied().cloned().collect(),
        reach: Reach::Anywhere,
        known_max: 10,
        rhythm: Rhythm { ask_every: Duration::from_millis(20), retry_after: Duration::from_millis(20), ..Rhythm::DEVELOPMENT },
    }
}

#[tokio::test]
async fn hosts_are_learned_kept_and_dropped() {
    let second = Stranger::speaking(|name, _| info(name)).await;
    let liar = Stranger::speaking(|_, _| info("https://somebody.example")).await;
    let told = format!(r#"{{"peers":["{}","{}","http://localhost:1"]}}"#, second.uri, liar.uri);
    let first = Stranger::speaking(move |name, request| if request.starts_with("GET /info") { info(name) } else { ok(&told) }).await;
    let root = tempfile::tempdir().unwrap();
    let known = |peers: &Peers| {
        let mut known = peers.sample(10);
        known.sort();
        known
    };
    let mut both = vec![first.uri.clone(), second.uri.clone()];
    both.sort();
    {
        let peers = peers(config(&[&first.uri]), root.path());
        let running = tokio::spawn({
            let peers = peers.clone();
            async move { peers.run().await }
        });
        until("both hosts to be known", WITHIN, async || (known(&peers) == both).then_some(())).await;
        until("the liar to be looked at", WITHIN, async || (liar.connections() > 0).then_some(())).await;
        running.abort();
        let _ = running.await;
        peers.0.database.barrier().await.unwrap();
        assert_eq!(known(&peers), both, "neither the liar nor ourselves");
    }
    let peers = peers(config(&[]), root.path());
    assert_eq!(known(&peers), both, "from before the start");
    // A port nobody listens on: the stranger that had it has released it.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = format!("http://localhost:{}", gone.port());
    peers.0.database.reserve().await.unwrap().send(vec![PeerChange::Add(gone.clone())]).await.unwrap();
    drop(peers);
    let again = self::peers(config(&[]), root.path());
    assert!(known(&again).iter().any(|peer| peer.as_str() == gone));
    let running = tokio::spawn({
        let peers = again.clone();
        async move { peers.run().await }
    });
    until("the host that is gone to be dropped", WITHIN, async || (known(&again) == both).then_some(())).await;
    running.abort();
}
