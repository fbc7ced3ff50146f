//! References that would make this host talk to its own network. The control rows have a listener hear of them: the operator
//! has named it.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use codiusd_runtime::image::{ImageConfig, ImageLimits, ImageStore, RegistryConfig, RegistryCredential};

use crate::kit::Report;

/// Somebody who listens on loopback, and what they heard.
struct Listener {
    port: u16,
    heard: Arc<AtomicUsize>,
    logins: Arc<AtomicUsize>,
}

impl Listener {
    /// Answers every request with this, `{port}` being its own.
    fn new(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = format!("HTTP/1.1 {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", answer.replace("{port}", &port.to_string()));
        let (heard, logins) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (hears, sees) = (heard.clone(), logins.clone());
        // Ends with the process.
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                hears.fetch_add(1, Ordering::SeqCst);
                // A handshake for TLS has no end of a line for a while: it is heard, and not answered.
                let mut lines =
                    BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                if lines.any(|line| line.to_ascii_lowercase().starts_with("authorization: basic")) {
                    sees.fetch_add(1, Ordering::SeqCst);
                }
                stream.write_all(answer.as_bytes()).ok(); // they may have gone
            }
        });
        Self { port, heard, logins }
    }

    fn heard(&self) -> usize {
        self.heard.swap(0, Ordering::SeqCst)
    }
}

pub(crate) async fn run(report: &mut Report) {
    let target = Listener::new("404 Not Found");
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let address = format!("{host}:{}", target.port);
        let attack = pull(&address, &target, RegistryConfig::default()).await;
        let control = pull(&address, &target, RegistryConfig { private: vec![address.clone()], ..RegistryConfig::default() }).await;
        let control = if host.starts_with('[') { Err("references don't hold such addresses") } else { Ok(&*control) };
        report.row(&format!("a registry at {host}"), "addresses of the internet only", &attack, control);
    }
    let insecure = |listener: &Listener| vec![format!("127.0.0.1:{}", listener.port)];
    for (name, scheme, defence) in
        [("a redirect to this machine", "https", "addresses of the internet only"), ("a redirect without TLS", "http", "TLS")]
    {
        let redirecting =
            Listener::new(&format!("307 Temporary Redirect\r\nLocation: {scheme}://localhost:{}/latest/meta-data", target.port));
        let address = format!("127.0.0.1:{}", redirecting.port);
        let config = RegistryConfig { insecure: insecure(&redirecting), ..RegistryConfig::default() };
        let attack = pull(&address, &target, config.clone()).await;
        let named = format!("localhost:{}", target.port);
        let named = if scheme == "https" {
            RegistryConfig { private: vec![named], ..config }
        } else {
            RegistryConfig { insecure: [config.insecure.clone(), vec![named]].concat(), ..config }
        };
        report.row(name, defence, &attack, Ok(&pull(&address, &target, named).await));
    }
    let realm = Listener::new(&format!(
        "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"https://localhost:{}/token\",service=\"s\"",
        target.port
    ));
    let address = format!("127.0.0.1:{}", realm.port);
    let config = RegistryConfig { insecure: insecure(&realm), ..RegistryConfig::default() };
    let attack = pull(&address, &target, config.clone()).await;
    let named = RegistryConfig { private: vec![format!("localhost:{}", target.port)], ..config };
    report.row("a place for tokens on this machine", "addresses of the internet only", &attack, Ok(&pull(&address, &target, named).await));
    others_logins(report).await;
    denied(report, &target).await;
}

/// Pulls from a registry; whether the target heard of it.
async fn pull(registry: &str, target: &Listener, registries: RegistryConfig) -> String {
    target.heard();
    let dir = tempfile::tempdir().unwrap();
    let limits = ImageLimits { unpacked_bytes_max: 1 << 20, blob_bytes_max: 1 << 20, seconds_max: 10, ..ImageLimits::default() };
    let store = ImageStore::open(ImageConfig { root: dir.path().join("images"), layouts: Vec::new(), registries, limits }).unwrap();
    let error = store.ensure(&format!("{registry}/some/thing@sha256:{}", "0".repeat(64))).await.expect_err("there is no image").to_string();
    let why = error.rsplit(": ").next().unwrap_or_default().to_owned();
    if target.heard() > 0 { format!("done it was heard ({why})") } else { format!("refused {why}") }
}

/// A login is for the registry it is named for.
async fn others_logins(report: &mut Report) {
    let basic = Listener::new("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"");
    let address = format!("127.0.0.1:{}", basic.port);
    let with_login = |registry: &str| RegistryConfig {
        insecure: vec![address.clone()],
        credentials: vec![RegistryCredential {
            registry: registry.to_owned(),
            username: "operator".to_owned(),
            password: "secret".to_owned(),
        }],
        ..RegistryConfig::default()
    };
    let verdict = |why: String| {
        if basic.logins.swap(0, Ordering::SeqCst) > 0 { "done it has the login".to_owned() } else { format!("refused {why}") }
    };
    pull(&address, &basic, with_login("another.example")).await;
    let attack = verdict("it was asked, and got none".to_owned());
    let control = verdict(pull(&address, &basic, with_login(&address)).await);
    report.row("asking for another registry's login", "logins by registry", &attack, Ok(&control));
}

async fn denied(report: &mut Report, target: &Listener) {
    let address = format!("127.0.0.1:{}", target.port);
    let named = RegistryConfig { insecure: vec![address.clone()], ..RegistryConfig::default() };
    let control = pull(&address, target, named.clone()).await;
    let deny = RegistryConfig { deny: vec![format!("{address}/some")], ..named.clone() };
    report.row("a registry that is denied", "images.deny", &pull(&address, target, deny).await, Ok(&control));
    let allow = RegistryConfig { allow: vec!["ghcr.io".to_owned(), format!("{address}/so")], ..named };
    report.row("a registry that isn't allowed", "images.allow", &pull(&address, target, allow).await, Ok(&control));
}
