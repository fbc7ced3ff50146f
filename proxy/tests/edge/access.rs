//! The access log, as an operator finds it.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use codiusd_proxy::{AccessFormat, AccessLog, Edge, EdgeConfig, RouteTable, StartError};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{EdgeFixture, PATIENCE, Pod, mirror, read_head, within};

fn logging(file: &Path, format: AccessFormat, sample: u32) -> EdgeFixture {
    let log = AccessLog { file: Some(file.to_owned()), format, sample: NonZeroU32::new(sample).unwrap() };
    let fixture = EdgeFixture::shaped(Arc::new(RouteTable::new()), |config| EdgeConfig { access_log: Some(log), ..config });
    fixture.control(|stream| mirror(stream, "control"));
    fixture
}

/// Everything that was logged, once the edge has stopped.
async fn lines(fixture: EdgeFixture, file: &Path) -> Vec<String> {
    within("the drain to end", fixture.edge.drain(PATIENCE / 2)).await;
    std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_request_is_one_line_that_tells_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let fixture = logging(&file, AccessFormat::Json, 1);
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let label = name.split('.').next().unwrap().to_owned();
    let unknown = "b".repeat(51) + "a";
    let secrets = "Pay-Token: secret\r\nCookie: a=secret\r\nAuthorization: Basic secret\r\nReferer: http://x/?secret\r\n";
    let agent = "agent ".repeat(50);
    let answer = fixture
        .ask(&format!(
            "POST /a%20b?Pay-Token=secret HTTP/1.1\r\nHost: {name}\r\n{secrets}User-Agent: {agent}\r\nContent-Length: 5\r\n\r\nhello"
        ))
        .await;
    assert_eq!(answer.status, 200);
    fixture.ask(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{secrets}\r\n")).await;
    fixture.ask(&format!("GET /x?secret HTTP/1.1\r\nHost: {unknown}.localhost\r\n\r\n")).await;
    fixture.ask("TRACE /y HTTP/1.1\r\nHost: localhost\r\n\r\n").await;

    let lines = lines(fixture, &file).await;
    assert!(lines.iter().all(|line| !line.contains("secret")), "{lines:?}");
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut told: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            (text("method"), text("host"), text("path"), line["status"].as_u64().unwrap(), line["received"].as_u64().unwrap())
        })
        .collect();
    // Connections of their own may end in another order.
    told.sort();
    let expected = [
        ("GET", unknown.as_str(), "/x", 404, 0),
        ("GET", "control", "/", 200, 0),
        ("POST", &label, "/a%20b", 200, 5),
        ("TRACE", "none", "/y", 405, 0),
    ]
    .map(|(method, host, path, status, received)| (method.to_owned(), host.to_owned(), path.to_owned(), status, received));
    assert_eq!(told, expected);
    let first = lines.iter().find(|line| line["method"] == "POST").unwrap();
    assert_eq!(first["sent"].as_u64().unwrap(), u64::try_from(answer.body.len()).unwrap());
    assert_eq!((&first["client"], first["agent"].as_str().unwrap()), (&"127.0.0.1".into(), &agent[..100]));
    assert!(first["micros"].as_u64().unwrap() > 0 && first["time"].as_str().unwrap().ends_with('Z'), "{first}");
}

#[tokio::test]
async fn a_tunnel_is_logged_at_its_end_and_a_client_that_left_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let fixture = logging(&file, AccessFormat::Text, 1);
    let pod = Pod::raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        if head.contains("upgrade: x") {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nfour").await.unwrap();
        }
        let mut all = Vec::new();
        let _closed = stream.read_to_end(&mut all).await;
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let label = name.split('.').next().unwrap().to_owned();
    let mut tunnel = fixture.connect().await;
    tunnel.ask(&format!("GET /ws HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")).await;
    assert_eq!(tunnel.until(b"four").await, b"four");
    tunnel.send("sevenup").await;
    tunnel.stream.shutdown().await.unwrap();
    assert_eq!(tunnel.closed().await, "");
    let mut leaving = fixture.connect().await;
    leaving.send(&format!("GET /left HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    within("the request to reach the pod", async {
        while pod.accepted() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(leaving);
    let mut lines = lines(fixture, &file).await;
    lines.sort_by_key(|line| line.contains("/left"));
    let fields: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    assert_eq!(fields.len(), 2, "{lines:?}");
    assert_eq!(fields[0][1..8], ["127.0.0.1", "GET", &label, "\"/ws\"", "101", "7", "4"]);
    assert_eq!(fields[1][1..8], ["127.0.0.1", "GET", &label, "\"/left\"", "499", "0", "0"]);
}

#[tokio::test]
async fn a_sample_is_logged_when_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let fixture = logging(&file, AccessFormat::Text, 4);
    let mut client = fixture.connect().await;
    for _ in 0..12 {
        client.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    }
    assert_eq!(fixture.metric("codius_edge_access_log_dropped_total"), 0.0);
    assert_eq!(lines(fixture, &file).await.len(), 3);
}

#[tokio::test]
async fn what_is_no_request_is_answered_counted_and_logged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let fixture = logging(&file, AccessFormat::Text, 1);
    let large = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let good = "GET /good HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (request, status, reason) in [("GET / HTTP/1.1\r\nX : a\r\n\r\n", 400, "malformed"), (&large, 431, "header_too_large")] {
        let mut client = fixture.connect().await;
        assert_eq!(client.ask(good).await.status, 200);
        let answer = client.ask(request).await;
        assert_eq!((answer.status, answer.header("server"), answer.header("connection")), (status, Some("codiusd"), Some("close")));
        assert_eq!((answer.head.matches("server:").count(), client.closed().await.as_str()), (1, ""));
        within("it to be counted", async {
            while fixture.counted("codius_edge_connections_cut_total", &[("reason", reason)]) < 1.0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    // Both at once: what is refused comes behind an answer.
    let mut client = fixture.connect().await;
    client.send(&format!("{good}GET / HTTP/1.1\r\nX : a\r\n\r\n")).await;
    assert_eq!((client.answer(false).await.status, client.answer(false).await.status), (200, 400));
    let lines = lines(fixture, &file).await;
    let refused = |status| lines.iter().filter(|line| line.contains(&format!(" 127.0.0.1 - none \"\" {status} 0 0 "))).count();
    assert_eq!((refused(400), refused(431), lines.len()), (2, 1, 6), "{lines:?}");
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (file, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let fixture = logging(&file, AccessFormat::Text, 1);
    let ask = async |path: &str| {
        assert_eq!(fixture.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await.status, 200);
    };
    let logged = async |file: &Path, path: &str| {
        within(path, async {
            while !std::fs::read_to_string(file).is_ok_and(|text| text.contains(path)) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    ask("/before").await;
    logged(&file, "/before").await;
    std::fs::rename(&file, &moved).unwrap();
    ask("/meanwhile").await;
    logged(&moved, "/meanwhile").await;
    fixture.edge.reopen_access_log();
    within("the new file", async {
        while !file.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    ask("/after").await;
    logged(&file, "/after").await;
    // Where it can't be opened again it goes on where it is.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    fixture.edge.reopen_access_log();
    ask("/late").await;
    assert_eq!(fixture.metric("codius_edge_access_log_dropped_total"), 0.0);
    within("the drain to end", fixture.edge.drain(PATIENCE / 2)).await;
    assert_eq!(std::fs::read_to_string(&moved).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn the_drain_waits_for_the_log() {
    const REQUESTS: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.pipe");
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    // Open both ways, opening it waits for nobody; it holds less than what is logged.
    let pipe = OpenOptions::new().read(true).write(true).open(&file).unwrap();
    let fixture = logging(&file, AccessFormat::Text, 1);
    let mut client = fixture.connect().await;
    let request = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1_500));
    for _ in 0..REQUESTS {
        assert_eq!(client.ask(&request).await.status, 200);
    }
    drop(client);
    let drained = tokio::spawn(fixture.edge.drain(PATIENCE / 2));
    // Others that have no log begin only now, and are through.
    for _ in 0..3 {
        within("another's drain to end", EdgeFixture::new().await.edge.drain(PATIENCE / 2)).await;
    }
    assert!(!drained.is_finished(), "nobody has read the log");
    let read = tokio::task::spawn_blocking(move || BufReader::new(pipe).lines().take(REQUESTS).filter(Result::is_ok).count());
    assert_eq!(within("all lines", read).await.unwrap(), REQUESTS);
    within("the drain to end", drained).await.unwrap();
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_prevents_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = AccessLog { file: Some(dir.path().to_owned()), format: AccessFormat::Text, sample: NonZeroU32::MIN };
    let config = EdgeConfig { access_log: Some(log), ..EdgeConfig::new("127.0.0.1:0".parse().unwrap(), "/nonexistent".into()) };
    let started = Edge::start(config, Arc::new(RouteTable::new()), &prometheus::Registry::new());
    assert!(matches!(started, Err(StartError::AccessLog(_))), "{started:?}");
}
