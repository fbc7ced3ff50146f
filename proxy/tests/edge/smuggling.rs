//! Requests that two readers could read in two ways. Each is sent with a second request hidden behind it, to a pod that writes down
//! every byte it gets; then an honest request goes through the same edge, to the same pod. What reached the pod must be one request
//! per request that was taken, written so that it can be read in one way only.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::{EdgeFixture, Pod};

/// A pod that keeps each connection's bytes and answers every message in them, framed by Content-Length or chunks, in turn.
pub(crate) struct Recorder {
    pub(crate) pod: Pod,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    pub(crate) async fn new() -> Recorder {
        let connections = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
        let all = Arc::clone(&connections);
        let pod = Pod::raw(move |_, mut stream| {
            let all = Arc::clone(&all);
            async move {
                let index = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                let (mut pending, mut block) = (Vec::new(), [0; 4096]);
                while let Ok(count @ 1..) = stream.read(&mut block).await {
                    all.lock().unwrap()[index].extend_from_slice(&block[..count]);
                    pending.extend_from_slice(&block[..count]);
                    while let Some(length) = message_length(&pending) {
                        pending.drain(..length);
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\npod").await.unwrap();
                    }
                }
            }
        })
        .await;
        Recorder { pod, connections }
    }

    /// What all connections got since the last time.
    pub(crate) fn taken(&self) -> String {
        let mut all = self.connections.lock().unwrap();
        let text: Vec<u8> = all.iter_mut().flat_map(std::mem::take).collect();
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// How long the first message in `bytes` is, once it is complete.
pub(crate) fn message_length(bytes: &[u8]) -> Option<usize> {
    let find = |mark: &[u8]| bytes.windows(mark.len()).position(|window| window == mark).map(|at| at + mark.len());
    let head_length = find(b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..head_length]);
    if head.contains("transfer-encoding: chunked") {
        let body = &bytes[head_length..];
        let end = body.windows(5).position(|window| window == b"0\r\n\r\n")?;
        return Some(head_length + end + 5);
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
    (bytes.len() >= head_length + length).then_some(head_length + length)
}

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";

/// Sends `probe` (NAME stands for the pod's host) and what is hidden behind it, reads what comes until the edge closes, and asks
/// honestly. Returns the first status and what the pod got of the probe.
async fn probe(fixture: &EdgeFixture, recorder: &Recorder, name: &str, probe: &str) -> (Option<u16>, String) {
    let mut client = fixture.connect().await;
    client.send(&format!("{}{HIDDEN}", probe.replace("NAME", name))).await;
    client.stream.shutdown().await.unwrap();
    let answers = client.closed().await;
    let status = answers.split(' ').nth(1).and_then(|status| status.parse().ok());
    let got = recorder.taken();
    let honest = fixture.ask(&format!("GET /honest HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    assert_eq!((honest.status, honest.body.as_str()), (200, "pod"), "after {probe:?}");
    let after = recorder.taken();
    assert!(after.starts_with("GET /honest HTTP/1.1\r\n") && after.matches("HTTP/1.1").count() == 1, "after {probe:?}: {after:?}");
    assert!(!got.contains("/hidden"), "{probe:?} took it along: {got:?}");
    (status, got)
}

async fn all_refused(line: &str, fields: &[&str]) {
    let fixture = EdgeFixture::new().await;
    let recorder = Recorder::new().await;
    let name = fixture.publish(1, recorder.pod.address);
    let mut taken = Vec::new();
    for field in fields {
        let text = format!("{line} HTTP/1.1\r\nHost: NAME\r\n{field}");
        let (status, got) = probe(&fixture, &recorder, &name, &text).await;
        if !matches!(status, Some(400 | 431)) || !got.is_empty() {
            taken.push(format!("{field:?}: {status:?} {got:?}"));
        }
    }
    assert!(taken.is_empty(), "{taken:#?}");
}

#[tokio::test]
async fn two_lengths_are_refused_and_counted() {
    let fixture = EdgeFixture::new().await;
    let recorder = Recorder::new().await;
    let name = fixture.publish(1, recorder.pod.address);
    let heads = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        "content-length:4\r\nX: y\r\ntransfer-encoding:chunked\r\n\r\n",
        "TRANSFER-ENCODING: Chunked\r\nCONTENT-LENGTH: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: nonsense\r\n\r\n",
        "Content-Length: 4\nTransfer-Encoding: chunked\n\n",
    ];
    for (count, head) in (1..).zip(heads) {
        let text = format!("POST /both HTTP/1.1\r\nHost: NAME\r\n{head}0\r\n\r\n");
        let (status, got) = probe(&fixture, &recorder, &name, &text).await;
        assert_eq!((status, got.as_str()), (Some(400), ""), "{head:?}");
        assert_eq!(fixture.counted("codius_edge_faults_total", &[("fault", "bad_framing")]), f64::from(count));
    }
    // Piece by piece, behind empty lines, behind an honest request, and as the second request of a connection that had a body before.
    let mut client = fixture.connect().await;
    client.send("\r\n").await;
    assert_eq!(client.ask(&format!("POST / HTTP/1.1\r\nHost: {name}\r\nContent-Length: 2\r\n\r\nhi")).await.status, 200);
    let ambiguous = format!("POST /both HTTP/1.1\r\nHost: {name}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    for piece in ambiguous.trim_end_matches("0\r\n\r\n").as_bytes().chunks(7) {
        client.send(std::str::from_utf8(piece).unwrap()).await;
        tokio::task::yield_now().await;
    }
    let answer = client.answer(false).await;
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
    assert_eq!(client.closed().await, "");
    let mut client = fixture.connect().await;
    client.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n{ambiguous}{HIDDEN}")).await;
    assert_eq!((client.answer(false).await.status, client.answer(false).await.status), (200, 400));
    assert_eq!(client.closed().await, "");
    assert!(!recorder.taken().contains("/both"));
    // In one piece with the body of the request before it: that one is answered, and no pod gets both lengths.
    let behind_body = format!("POST / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 2\r\n\r\nhi{}", ambiguous.replace(&name, "NAME"));
    let (status, got) = probe(&fixture, &recorder, &name, &behind_body).await;
    assert!(status == Some(200) && !got.contains("content-length: 4") && got.matches("HTTP/1.1").count() <= 2, "{got}");
}

#[tokio::test]
async fn obfuscated_encodings_are_refused() {
    let fields = [
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
        " Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \x0cchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \0chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: identity\r\n\r\n",
        "Transfer-Encoding: cow\r\n\r\n",
        "Transfer-Encoding:\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: ch\u{fc}nked\r\n\r\n0\r\n\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "X: y\0\r\n\r\n",
        // Any coding before chunked would reach the pod as if the body were bare.
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    all_refused("POST /te", &fields).await;
}

#[tokio::test]
async fn odd_lengths_are_refused() {
    let mut fields = Vec::new();
    let values = [
        "+5",
        "-5",
        "-0",
        "0x5",
        "5_0",
        "5.0",
        "5e0",
        "5 5",
        "5, 5",
        "5, 6",
        "5,",
        ",5",
        "5;",
        "\"5\"",
        "five",
        "",
        "\x0b5",
        "5\0",
        "\u{665}",
        "18446744073709551616",
        "18446744073709551615",
        "36893488147419103237",
        "99999999999999999999999999999999999999",
    ];
    for value in values {
        fields.push(format!("Content-Length: {value}\r\n\r\nhello"));
    }
    for line in [
        "Content-Length : 5",
        "Content-Length\t: 5",
        "Content-Length\0: 5",
        "Content-Length:\r\n 5",
        "Content-Length: 5\r\nContent-Length: 6",
    ] {
        fields.push(format!("{line}\r\n\r\nhello"));
    }
    all_refused("POST /cl", &fields.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn odd_names_and_values_are_refused() {
    let mut fields = Vec::new();
    for name in ["X Y", "X\tY", "X\0Y", "X\x7fY", "X\u{e4}Y", "X(Y)", "X\"Y", "X/Y", "X@Y", "", " X"] {
        fields.push(format!("{name}: z\r\n\r\n"));
    }
    for value in ["a\0b", "a\rb", "a\x01b", "a\x7fb", "a\x08b", "a\x1bb"] {
        fields.push(format!("X: {value}\r\n\r\n"));
    }
    fields.extend(["X\r\n\r\n".to_owned(), "X: a\r\n\tb\r\n\r\n".to_owned(), "\tX: a\r\n\r\n".to_owned(), ": a\r\n\r\n".to_owned()]);
    all_refused("GET /name", &fields.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn odd_request_lines_are_refused() {
    let fixture = EdgeFixture::new().await;
    let recorder = Recorder::new().await;
    let name = fixture.publish(1, recorder.pod.address);
    let lines = [
        "GET\t/\tHTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/2",
        "GET / HTTP/0.9",
        "GET / HTTP/1.",
        "GET / HTTP/1.10",
        "GET / HTTP/01.1",
        "GET / http/1.1",
        "GET / HTTP /1.1",
        "GET / XTTP/1.1",
        "GET /",
        "GET",
        "GET HTTP/1.1",
        "/ HTTP/1.1",
        "G\0T / HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /a\x0bb HTTP/1.1",
        "GET /a\x7fb HTTP/1.1",
        "G(T / HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET http:// HTTP/1.1",
        "GET http:/// HTTP/1.1",
        "GET http://user@NAME/ HTTP/1.1",
        "GET http://user:secret@NAME/ HTTP/1.1",
        "GET http://NAME:81/ HTTP/1.1",
        "GET http://other.localhost/ HTTP/1.1",
        "GET //NAME@other/ HTTP/1.1\r\nHost: other",
        "GET other.localhost:80 HTTP/1.1",
        "GET *x HTTP/1.1",
        "CONNECT NAME:80 HTTP/1.1\r\nX: y",
        "TRACE / HTTP/1.1",
    ];
    for line in lines {
        let (status, got) = probe(&fixture, &recorder, &name, &format!("{line}\r\nHost: NAME\r\n\r\n")).await;
        assert!(matches!(status, Some(400 | 405)) && got.is_empty(), "{line:?}: {status:?} {got:?}");
    }
}

#[tokio::test]
async fn a_host_is_one_name_and_one_port() {
    let fixture = EdgeFixture::new().await;
    let recorder = Recorder::new().await;
    let name = fixture.publish(1, recorder.pod.address);
    let hosts = [
        "",
        " ",
        "NAME,other",
        "NAME, other",
        "NAME/other",
        "NAME/",
        "user@NAME",
        "NAME@other",
        "NAME%2e",
        "NAME%00",
        "NAME\\other",
        "NAME?x",
        "NAME#x",
        "NAME x",
        "NAME\tx",
        "NAME:x",
        "NAME:-1",
        "NAME:+80",
        "NAME:65536",
        "NAME:99999",
        "NAME:80:80",
        "NAME:80@other",
        "[NAME]",
        "[::1",
        "::1",
        "[::1]x",
        "[::1%25lo]",
        "[g::]",
        "NAME\r\nHost: other",
        "NAME\r\nHost: NAME",
        "NAME\r\nhost:",
        "NAM\u{c9}",
        "http://NAME",
    ];
    for host in hosts {
        let (status, got) = probe(&fixture, &recorder, &name, &format!("GET /host HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(status == Some(400) && got.is_empty(), "{host:?}: {status:?} {got:?}");
    }
    for host in ["NAME:", "NAME:0", "NAME:65535", "NAME.", "  NAME\t"] {
        let (status, got) =
            probe(&fixture, &recorder, &name, &format!("GET /host HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        let expected = format!("host: {}\r\n", host.replace("NAME", &name).trim());
        assert!(status == Some(200) && got.contains(&expected), "{host:?}: {status:?} {got:?}");
    }
    for line in ["GET http://NAME/a?b#c HTTP/1.1", "GET HTTP://NAME/a?b HTTP/1.1", "GET https://NAME/a?b HTTP/1.1", "GET /a?b#c HTTP/1.1"] {
        let (status, got) = probe(&fixture, &recorder, &name, &format!("{line}\r\nHost: NAME\r\nConnection: close\r\n\r\n")).await;
        assert!(status == Some(200) && got.starts_with("GET /a?b HTTP/1.1\r\n"), "{line}: {status:?} {got:?}");
    }
}

/// What the pod gets of a request with these fields, its own head aside, sorted.
async fn passed(fixture: &EdgeFixture, recorder: &Recorder, name: &str, fields: &str) -> Vec<String> {
    let (status, got) =
        probe(fixture, recorder, name, &format!("GET /fields HTTP/1.1\r\nHost: NAME\r\n{fields}Connection: close\r\n\r\n")).await;
    assert_eq!(status, Some(200), "{fields:?}");
    let own = ["host: ", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "x-forwarded-host: ", "x-request-id: "];
    let (own, mut rest): (Vec<_>, Vec<_>) = got
        .lines()
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .partition(|line| own.iter().any(|own| line.starts_with(own)));
    assert_eq!(own.len(), 5, "{got}");
    rest.sort();
    rest
}

#[tokio::test]
async fn connection_takes_away_what_is_the_clients_to_give_and_nothing_else() {
    let fixture = EdgeFixture::new().await;
    let recorder = Recorder::new().await;
    let name = fixture.publish(1, recorder.pod.address);
    let table: &[(&str, &[&str])] = &[
        ("Connection: X-A, x-b\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n", &["x-c: 3"]),
        ("Connection: host, content-length, transfer-encoding\r\n", &[]),
        ("Connection: x-forwarded-for, x-forwarded-host, x-forwarded-proto, forwarded\r\nX-Forwarded-For: 6.6.6.6\r\n", &[]),
        ("Connection: cookie, authorization\r\nCookie: a\r\nAuthorization: b\r\n", &[]),
        ("Connection: \r\nConnection: ,,x-a,\r\nX-A: 1\r\n", &[]),
        ("Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", &[]),
        ("Upgrade: websocket\r\n", &[]),
        ("Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nProxy-Authenticate: x\r\n", &[]),
        ("TE: gzip;q=1, trailers;q=0.5\r\n", &[]),
        ("Expect: 200-ok\r\n", &[]),
        (
            "X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX_Forwarded_For: 6.6.6.6\r\nX_Forwarded-Proto: a\r\nX-Real_IP: a\r\nX_Y: z\r\n",
            &["x_y: z"],
        ),
    ];
    for (fields, expected) in table {
        assert_eq!(passed(&fixture, &recorder, &name, fields).await, *expected, "{fields:?}");
    }
}
