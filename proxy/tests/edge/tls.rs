//! Certificates, handshakes, and what https means for a request.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use codiusd_proxy::{CertificateFiles, Certificates, Limits};
use hyper_util::rt::TokioIo;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::interval;

use crate::kit::{Pod, read_head, within};
use crate::secure::{Authority, TlsFixture, empty, get, get_h1, in_file, shown, text};
use crate::waits::until;

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let authority = Authority::new();
    let names: [(&str, &[&str]); 3] = [("first", &["first.localhost"]), ("wild", &["*.wild.localhost"]), ("One", &["One.wild.localhost"])];
    let files: Vec<_> = names.iter().map(|(stem, names)| authority.issue(stem, names)).collect();
    let fixture = TlsFixture::of(authority, files.clone(), Limits::default(), |_| {}).await;
    let client = fixture.authority.client(&[]);
    for (name, index) in [("first.localhost", 0), ("a.wild.localhost", 1), ("one.wild.localhost", 2), ("ONE.wild.localhost", 2)] {
        let stream = fixture.handshake(&client, name).await.unwrap();
        assert!(shown(&stream) == in_file(&files[index].chain), "{name}");
    }
    // Two labels are more than a wildcard stands for; the first certificate is shown, and not believed.
    for name in ["b.a.wild.localhost", "elsewhere", "127.0.0.1"] {
        let refused = fixture.handshake(&client, name).await.unwrap_err();
        assert!(refused.to_string().contains("first.localhost"), "{name}: {refused}");
    }
}

#[tokio::test]
async fn both_versions_and_both_protocols_are_spoken() {
    let fixture = TlsFixture::new().await;
    for version in [&TLS12, &TLS13] {
        for (offered, chosen) in
            [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1", "h2"], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
        {
            let client = fixture.authority.client_with(&[version], offered);
            let stream = fixture.handshake(&client, "localhost").await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.alpn_protocol(), chosen.map(str::as_bytes), "{offered:?}");
        }
        let client = fixture.authority.client_with(&[version], &["spdy/3"]);
        assert!(fixture.handshake(&client, "localhost").await.is_err());
    }
}

#[tokio::test]
async fn sessions_are_resumed_after_400_others() {
    let fixture = TlsFixture::new().await;
    for version in [&TLS12, &TLS13] {
        let client = fixture.authority.client_with(&[version], &["http/1.1"]);
        // The ticket comes with the first bytes of an answer.
        let kind = async || {
            let mut stream = fixture.handshake(&client, "localhost").await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
            within("the answer", stream.read_to_end(&mut Vec::new())).await.unwrap();
            stream.get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!(kind().await, HandshakeKind::Full);
        for _ in 0..400 {
            let stranger = fixture.authority.client_with(&[version], &["http/1.1"]);
            let stream = fixture.handshake(&stranger, "localhost").await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        }
        assert_eq!(kind().await, HandshakeKind::Resumed, "{version:?}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_used_without_one_failed_request() {
    let fixture = Arc::new(TlsFixture::new().await);
    let files = CertificateFiles { chain: fixture.authority.path("main.pem"), key: fixture.authority.path("main-key.pem") };
    let before = in_file(&files.chain);
    let mut old = fixture.h1("localhost").await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|worker| {
            let (fixture, stop, done) = (Arc::clone(&fixture), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let (mut kept, mut kept_h2) = (fixture.h1("localhost").await, fixture.h2("localhost").await);
                while !stop.load(Ordering::Relaxed) {
                    let mut sender = fixture.h1("localhost").await;
                    for sender in [&mut sender, &mut kept] {
                        let response = within("an answer", sender.send_request(get_h1("localhost", "/"))).await.unwrap();
                        assert_eq!(response.status(), 200, "worker {worker}");
                        text(response).await;
                    }
                    for sender in [&mut fixture.h2("localhost").await, &mut kept_h2] {
                        let response = within("an answer", sender.send_request(get("localhost", "/"))).await.unwrap();
                        assert_eq!(response.status(), 200, "worker {worker}");
                        text(response).await;
                    }
                    done.fetch_add(4, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let client = fixture.authority.client(&[]);
    let mut used = before;
    for round in 0..20 {
        let so_far = done.load(Ordering::Relaxed);
        let is_broken = round % 7 == 3;
        if is_broken {
            fs::write(&files.chain, "half a certificate").unwrap();
        } else {
            fixture.authority.issue("main", &["localhost"]);
        }
        // The first two are found by looking, which takes seconds; the others are said to be there, as by SIGHUP.
        if round > 1 {
            fixture.certificates.reload();
        }
        let expected = if is_broken { used } else { in_file(&files.chain) };
        until("the right certificate, and requests before and after", async || {
            shown(&fixture.handshake(&client, "localhost").await.unwrap()) == expected && done.load(Ordering::Relaxed) >= so_far + 30
        })
        .await;
        used = expected;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        within("the load to end", worker).await.unwrap();
    }
    let response = within("an answer", old.send_request(get_h1("localhost", "/"))).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing() {
    let fixture = TlsFixture::new().await;
    let files = CertificateFiles { chain: fixture.authority.path("main.pem"), key: fixture.authority.path("main-key.pem") };
    let (chain, key) = (fs::read(&files.chain).unwrap(), fs::read(&files.key).unwrap());
    let used = in_file(&files.chain);
    let client = fixture.authority.client(&[]);
    fixture.authority.issue("other", &["localhost"]);
    let (other_chain, other_key) =
        (fs::read(fixture.authority.path("other.pem")).unwrap(), fs::read(fixture.authority.path("other-key.pem")).unwrap());
    let broken: [(&str, &[u8], &[u8]); 5] = [
        ("the key of another", &chain, &other_key),
        ("the certificate of another", &other_chain, &key),
        ("half a certificate", &other_chain[..other_chain.len() / 2], &other_key),
        ("no certificate", b"", &key),
        ("no key", &other_chain, b"nothing"),
    ];
    for (what, chain, key) in broken {
        fs::write(&files.chain, chain).unwrap();
        fs::write(&files.key, key).unwrap();
        fixture.certificates.reload();
        assert!(shown(&fixture.handshake(&client, "localhost").await.unwrap()) == used, "{what}");
    }
    fs::remove_file(&files.chain).unwrap();
    fixture.certificates.reload();
    assert!(shown(&fixture.handshake(&client, "localhost").await.unwrap()) == used);
    fs::write(&files.chain, &other_chain).unwrap();
    fs::write(&files.key, &other_key).unwrap();
    fixture.certificates.reload();
    assert!(shown(&fixture.handshake(&client, "localhost").await.unwrap()) == in_file(&files.chain));
}

#[test]
fn a_certificate_that_cannot_be_used_is_named() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one", &["one"]), authority.issue("other", &["other"]));
    let mismatch = CertificateFiles { chain: one.chain.clone(), key: other.key.clone() };
    let swapped = CertificateFiles { chain: one.key.clone(), key: one.chain.clone() };
    let keyless = CertificateFiles { chain: one.chain.clone(), key: one.chain.clone() };
    let missing = CertificateFiles { chain: authority.path("missing.pem"), key: one.key.clone() };
    let table = [
        (mismatch, format!("{}: isn't the key of the certificate in {}", other.key.display(), one.chain.display())),
        (swapped, format!("{}: holds no certificate", one.key.display())),
        (keyless, format!("{}: holds no private key in PEM, or one with a passphrase", one.chain.display())),
        (missing.clone(), format!("{}: can't be read: No such file or directory (os error 2)", missing.chain.display())),
    ];
    for (files, expected) in table {
        assert_eq!(Certificates::load(vec![one.clone(), files]).unwrap_err().to_string(), expected);
    }
}

#[tokio::test]
async fn a_handshake_ends_in_time() {
    let fixture = TlsFixture::with(Limits { handshake: Duration::from_millis(300), ..Limits::default() }, |_| {}).await;
    let (begun, mut silent) = (Instant::now(), fixture.tcp().await);
    // A client that goes on and on, a byte at a time, is as late as a silent one.
    let (mut reading, mut writing) = fixture.tcp().await.into_split();
    let trickle = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(20));
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".iter().cycle() {
            ticks.tick().await;
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(within("the silent one to be closed", silent.read(&mut [0; 8])).await.unwrap_or(0), 0);
    let _closed_or_reset = within("the slow one to be closed", reading.read_to_end(&mut Vec::new())).await;
    assert!((300..5_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    trickle.abort();
    let mut plain = fixture.tcp().await;
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _closed_or_reset = within("plain HTTP to be turned away", plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_request_over_tls_is_said_to_be() {
    let fixture = TlsFixture::with(Limits::default(), |tls| tls.hsts_seconds = 3600).await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let mut sender = fixture.h1(&name).await;
    let mut request = get_h1(&format!("{name}:443"), "/");
    request.headers_mut().insert("x-forwarded-proto", "http".parse().unwrap());
    let response = within("an answer", sender.send_request(request)).await.unwrap();
    assert_eq!(response.headers()["strict-transport-security"], "max-age=3600");
    let seen = text(response).await;
    for line in ["x-forwarded-proto: https\r\n", &format!("x-forwarded-host: {name}:443\r\n"), "x-forwarded-for: 127.0.0.1\r\n"] {
        assert!(seen.contains(line), "{line} in {seen}");
    }
    let plain = fixture.fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    assert!(plain.body.contains("x-forwarded-proto: http\r\n"), "{plain:?}");
    assert_eq!(plain.header("strict-transport-security"), None);
}

#[tokio::test]
async fn a_pods_own_transport_security_stands() {
    let fixture = TlsFixture::with(Limits::default(), |tls| tls.hsts_seconds = 3600).await;
    let pod = Pod::answering("HTTP/1.1 200 OK\r\nstrict-transport-security: max-age=1\r\ncontent-length: 0\r\n\r\n").await;
    let name = fixture.publish(1, pod.address);
    let response = within("an answer", fixture.h1(&name).await.send_request(get_h1(&name, "/"))).await.unwrap();
    assert_eq!(response.headers().get_all("strict-transport-security").iter().collect::<Vec<_>>(), ["max-age=1"]);
}

#[tokio::test]
async fn a_host_other_than_the_server_name_is_misdirected() {
    let fixture = TlsFixture::new().await;
    let (one, other) = (Pod::mirror().await, Pod::mirror().await);
    let (one_name, other_name) = (fixture.publish(1, one.address), fixture.publish(2, other.address));
    for (asked, host, status) in [
        (one_name.as_str(), one_name.as_str(), 200),
        (&one_name, &format!("{}:8443", one_name.to_uppercase()), 200),
        (&one_name, &format!("{one_name}."), 200),
        (&one_name, &other_name, 421),
        (&one_name, "localhost", 421),
        ("localhost", &one_name, 421),
        ("localhost", "127.0.0.1", 421),
        // Who connects by address has named nobody.
        ("127.0.0.1", &one_name, 200),
    ] {
        let response = within("an answer", fixture.h1(asked).await.send_request(get_h1(host, "/"))).await.unwrap();
        assert_eq!(response.status(), status, "{host} over a connection to {asked}");
    }
    assert_eq!(other.accepted(), 0);
}

#[tokio::test]
async fn http_is_sent_to_https_but_for_challenges() {
    let fixture = TlsFixture::with(Limits::default(), |tls| (tls.redirect, tls.public_port) = (true, Some(443))).await;
    let mut client = fixture.fixture.connect().await;
    let mut ask = async |request: &str| client.ask(request).await;
    let answer = ask("POST /pods?duration=60 HTTP/1.1\r\nHost: localhost:80\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://localhost/pods?duration=60")));
    let answer = ask("GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("x-who")), (200, Some("control")));
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: local host\r\n\r\n").await.status, 400);
    let mut sender = fixture.h1("localhost").await;
    assert_eq!(within("an answer", sender.send_request(get_h1("localhost", "/"))).await.unwrap().status(), 200);

    let fixture = TlsFixture::with(Limits::default(), |tls| tls.redirect = true).await;
    let answer = fixture.fixture.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let expected = format!("https://localhost:{}/", fixture.fixture.edge.tls_addresses()[0].port());
    assert_eq!(answer.header("location"), Some(expected.as_str()));
}

#[tokio::test]
async fn a_websocket_passes_through_tls() {
    let fixture = TlsFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello").await.unwrap();
        let (mut reading, mut writing) = stream.split();
        tokio::io::copy(&mut reading, &mut writing).await.unwrap();
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut request = get_h1(&name, "/");
    *request.body_mut() = empty();
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let response = within("an answer", fixture.h1(&name).await.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut tunnel = TokioIo::new(within("the upgrade", hyper::upgrade::on(response)).await.unwrap());
    tunnel.write_all(b" world").await.unwrap();
    let mut echoed = [0; 11];
    within("the echo", tunnel.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"hello world");
}

#[tokio::test]
async fn several_listeners_serve_and_drain_together() {
    // An address of its own: other tests may listen at freed ports of the usual one.
    let fixture = TlsFixture::with(Limits::default(), |tls| tls.listen = vec!["127.77.77.77:0".parse().unwrap(); 2]).await;
    assert_eq!(fixture.fixture.edge.tls_addresses().len(), 2);
    let mut sender = fixture.h1("localhost").await;
    assert_eq!(within("an answer", sender.send_request(get_h1("localhost", "/"))).await.unwrap().status(), 200);
    let addresses = fixture.fixture.edge.tls_addresses().to_vec();
    let stalled = fixture.tcp().await;
    let begun = Instant::now();
    within("the drain to end", fixture.fixture.edge.drain(Duration::from_millis(500))).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for address in addresses {
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }
    drop(stalled);
}
