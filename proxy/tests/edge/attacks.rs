//! Clients that hold on to what they get: each ends at a deadline, and everybody else is served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::kit::{Pod, within};
use crate::secure::{TlsFixture, get, text};
use crate::waits::until;

/// What an attacker does, byte by byte or not at all, after what it begins with.
const ATTACKS: [(&str, bool, &str, &str); 8] = [
    ("slow headers", false, "GET / HTTP/1.1\r\nHost: localhost\r\nX: ", "a"),
    ("slow fields", false, "GET / HTTP/1.1\r\nHost: localhost\r\n", "X: a\r\n"),
    ("slow request line", false, "GET /", "a"),
    ("endless empty lines", false, "", "\r\n"),
    ("a slow body", false, "POST / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 100000\r\n\r\n", "a"),
    ("slow chunks", false, "POST / HTTP/1.1\r\nHost: NAME\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n"),
    ("an idle connection", false, "", ""),
    ("a slow handshake", true, "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03", "a"),
];
const EACH: usize = 25;
const BOUND: Duration = Duration::from_millis(800);

/// Goes on until the edge closes the connection; how long that took.
async fn attack(mut stream: TcpStream, begin: String, more: &'static str) -> Duration {
    let begun = Instant::now();
    let _gone = stream.write_all(begin.as_bytes()).await;
    let mut ticks = interval(Duration::from_millis(50));
    let mut block = [0; 1024];
    loop {
        tokio::select! {
            read = stream.read(&mut block) => if !matches!(read, Ok(1..)) { return begun.elapsed() },
            _ = ticks.tick() => { let _gone = stream.write_all(more.as_bytes()).await; }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_end_at_their_deadlines_and_others_are_served() {
    let limits =
        Limits { header_deadline: BOUND, keep_alive: BOUND, handshake: BOUND, body_grace: BOUND, linger: BOUND, ..Limits::default() };
    let fixture = TlsFixture::with(limits, |_| {}).await;
    let pod = Pod::mirror().await;
    // Takes a body for as long as one comes.
    let patient = Pod::raw(|_, mut stream| async move {
        let _gone = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (name, patient_name) = (fixture.publish(1, pod.address), fixture.publish(2, patient.address));
    let mut attackers = JoinSet::new();
    let left = Arc::new(AtomicUsize::new(ATTACKS.len() * EACH));
    for (what, is_tls, begin, more) in ATTACKS {
        for _ in 0..EACH {
            let stream = if is_tls { fixture.tcp().await } else { TcpStream::connect(fixture.fixture.edge.address()).await.unwrap() };
            let (begin, left) = (begin.replace("NAME", &patient_name), Arc::clone(&left));
            attackers.spawn(async move {
                let took = attack(stream, begin, more).await;
                left.fetch_sub(1, Ordering::SeqCst);
                (what, took)
            });
        }
    }
    let (mut served, mut slowest) = (0, Duration::ZERO);
    while left.load(Ordering::SeqCst) > 0 || served == 0 {
        let begun = Instant::now();
        let plain = fixture.fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert_eq!(plain.status, 200);
        let response = within("an answer", fixture.h2(&name).await.send_request(get(&name, "/"))).await.unwrap();
        assert_eq!(response.status(), 200);
        text(response).await;
        (served, slowest) = (served + 1, slowest.max(begun.elapsed()));
    }
    while let Some(ended) = within("the attackers to end", attackers.join_next()).await {
        let (what, took) = ended.unwrap();
        assert!(took >= BOUND / 2, "{what} ended after {took:?}");
    }
    assert!(slowest < Duration::from_secs(5), "a good client waited {slowest:?}");
    for (reason, count) in [("header_deadline", 4.0), ("malformed", 0.0)] {
        assert!(fixture.fixture.counted("codius_edge_connections_cut_total", &[("reason", reason)]) >= count, "{reason}");
    }
    assert_eq!(
        fixture.fixture.counted("codius_edge_faults_total", &[("fault", "client_too_slow")]),
        f64::from(u32::try_from(2 * EACH).unwrap())
    );
    until("the places to be free", async || fixture.fixture.metric("codius_edge_connections") == 0.0).await;
}
