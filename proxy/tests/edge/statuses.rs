//! Answers that can have no content, whatever their fields say: no client is told of any, and none of what is sent becomes an answer.

use http::Method;
use http::Request;
use http_body_util::BodyExt;
use tokio::process::Command;

use crate::kit::{EdgeFixture, Pod, read_head, within};
use crate::secure::{TlsFixture, empty};
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

/// Method, answer, what the client sees of its length, and whether the pod's connection is used again.
const ANSWERS: &[(&str, &str, Option<&str>, bool)] = &[
    ("GET", "204 No Content\r\n\r\n", None, true),
    ("GET", "204 No Content\r\ncontent-length: 0\r\n\r\n", None, true),
    ("GET", "204 No Content\r\ncontent-length: 4\r\n\r\nnull", None, false),
    ("GET", "204 No Content\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nnull", None, false),
    ("POST", "204 No Content\r\ncontent-length: 1234\r\n\r\n", None, false),
    ("GET", "204 No Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nnull\r\n0\r\n\r\n", None, false),
    ("GET", "204 No Content\r\n\r\nnull", None, false),
    ("HEAD", "204 No Content\r\ncontent-length: 4\r\n\r\n", None, false),
    ("GET", "205 Reset Content\r\ncontent-length: 0\r\n\r\n", Some("0"), true),
    ("GET", "205 Reset Content\r\ncontent-length: 4\r\n\r\nnull", Some("0"), false),
    ("GET", "205 Reset Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nnull\r\n0\r\n\r\n", Some("0"), false),
    ("HEAD", "200 OK\r\ncontent-length: 4\r\n\r\n", Some("4"), true),
    ("HEAD", "200 OK\r\ncontent-length: 4\r\n\r\nnull", Some("4"), false),
    // Over HTTP/1.1 the engine leaves the length out, as it may (RFC 9110 section 8.6).
    ("GET", "304 Not Modified\r\ncontent-length: 4\r\netag: \"x\"\r\n\r\n", None, true),
    ("GET", "304 Not Modified\r\ncontent-length: 4\r\n\r\nnull", None, false),
    ("GET", "103 Early Hints\r\ncontent-length: 4\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some("2"), true),
];

/// Answers the first request of a connection with that answer, later ones with "next".
async fn pod(answer: &'static str) -> Pod {
    Pod::raw(move |_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
        while read_head(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext").await.unwrap();
        }
    })
    .await
}

fn status_of(answer: &str) -> u16 {
    if answer.starts_with("103") { 200 } else { answer[..3].parse().unwrap() }
}

#[tokio::test]
async fn answers_without_content_are_that_over_http_1() {
    let fixture = EdgeFixture::new().await;
    for (number, (method, answer, length, again)) in (1..).zip(ANSWERS) {
        let pod = pod(answer).await;
        let name = fixture.publish(number, pod.address);
        let mut client = fixture.connect().await;
        let seen = client.ask(&format!("{method} / HTTP/1.1\r\nHost: {name}\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(
            (seen.status, seen.header("content-length"), seen.header("transfer-encoding")),
            (status_of(answer), *length, None),
            "{answer:?}"
        );
        let next = client.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert!(next.status == status_of(answer) || next.body == "next", "{answer:?}: {next:?}");
        assert_eq!(pod.accepted(), if *again { 1 } else { 2 }, "{answer:?}");
    }
}

#[tokio::test]
async fn answers_without_content_are_that_over_http_2() {
    let fixture = TlsFixture::new().await;
    for (number, (method, answer, length, again)) in (1..).zip(ANSWERS) {
        let pod = pod(answer).await;
        let name = fixture.publish(number, pod.address);
        let mut client = fixture.h2(&name).await;
        for _ in 0..2 {
            let request =
                Request::builder().method(method.parse::<Method>().unwrap()).uri(format!("https://{name}/")).body(empty()).unwrap();
            let seen = within("the head", client.send_request(request)).await.unwrap_or_else(|error| panic!("{answer:?}: {error:?}"));
            let (head, body) = seen.into_parts();
            assert!([200, status_of(answer)].contains(&head.status.as_u16()), "{answer:?}: {head:?}");
            if head.status == 204 {
                assert_eq!(head.headers.get("content-length"), None, "{answer:?}");
            } else if head.status == 205 {
                assert!(head.headers.get("content-length").is_none_or(|told| Some(told.to_str().unwrap()) == *length), "{answer:?}");
            }
            within("the end", body.collect()).await.unwrap_or_else(|error| panic!("{answer:?}: {error:?}"));
        }
        assert_eq!(pod.accepted(), if *again { 1 } else { 2 }, "{answer:?}");
    }
}

#[tokio::test]
async fn curl_and_node_take_them_over_http_2() {
    let fixture = TlsFixture::new().await;
    for (number, (method, answer, _, _)) in (1..).zip(ANSWERS) {
        let pod = pod(answer).await;
        let name = fixture.publish(number, pod.address);
        let address = fixture.fixture.edge.tls_addresses()[0];
        let url = format!("https://{name}:{}/", address.port());
        let mut curl = Command::new("curl");
        let resolve = format!("{name}:{}:127.0.0.1", address.port());
        curl.args([
            "-sk",
            "-m",
            "20",
            "--http2",
            "--resolve",
            &resolve,
            "-o",
            "/dev/null",
            "-w",
            "%{http_version} %{http_code} %{exitcode}",
        ]);
        if *method == "HEAD" {
            curl.arg("-I")
        } else {
            curl.args(["-X", method])
        };
        curl.arg(&url);
        let told = within("curl", curl.output()).await.unwrap();
        assert_eq!(String::from_utf8(told.stdout).unwrap(), format!("2 {} 0", status_of(answer)), "{answer:?}");
        let mut node = Command::new("node");
        node.args(["-e", NODE, &format!("https://127.0.0.1:{}", address.port()), &name, method]);
        let told = within("node", node.output()).await.unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert!([status_of(answer).to_string(), "200".to_owned()].contains(&told.trim().to_owned()), "{answer:?}: {told:?}");
    }
}

/// Prints the status of one answer when it has come to its end, or what went wrong.
const NODE: &str = r#"
const http2 = require("http2");
const [origin, name, method] = process.argv.slice(1);
const client = http2.connect(origin, { rejectUnauthorized: false, servername: name });
client.on("error", (error) => { console.log(error.code); process.exit(); });
const stream = client.request({ ":method": method, ":path": "/", ":authority": name });
let status;
stream.on("response", (head) => { status = head[":status"]; });
stream.on("error", (error) => { console.log(error.code); process.exit(); });
stream.on("close", () => { console.log(status); process.exit(); });
stream.resume();
stream.end();
"#;

/// The pod says the next thing only when the client has heard the last one.
#[tokio::test]
async fn informational_answers_pass_as_they_come_over_http_1() {
    let fixture = EdgeFixture::new().await;
    let heard = Arc::new(Notify::new());
    let next = Arc::clone(&heard);
    let pod = Pod::raw(move |_, mut stream| {
        let next = Arc::clone(&next);
        async move {
            while read_head(&mut stream).await.is_some() {
                for answer in ["102 Processing\r\n\r\n", "103 Early Hints\r\nlink: </a>\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n"] {
                    stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
                    next.notified().await;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    for _ in 0..2 {
        client.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert_eq!(client.head().await, "HTTP/1.1 102 Processing\r\n\r\n");
        heard.notify_one();
        assert_eq!(client.head().await, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        heard.notify_one();
        assert_eq!(client.answer(false).await.body, "ok");
    }
    assert_eq!(pod.accepted(), 1);
    let mut old = fixture.connect().await;
    old.send(&format!("GET / HTTP/1.0\r\nHost: {name}\r\n\r\n")).await;
    // Nothing tells when the edge has taken them.
    let second = async {
        loop {
            heard.notify_one();
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::select! {
        head = old.head() => head,
        () = second => unreachable!("it never ends"),
    };
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "HTTP/1.0 knows no other: {answer}");
}

#[tokio::test]
async fn endless_informational_answers_are_none() {
    let fixture = EdgeFixture::new().await;
    let hints: &'static str = Box::leak("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100).into_boxed_str());
    let name = fixture.publish(1, Pod::answering(hints).await.address);
    assert_eq!(fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await.status, 502);
}

#[tokio::test]
async fn raw_targets_reach_the_pod_as_they_are_over_http_1() {
    let fixture = EdgeFixture::new().await;
    let name = fixture.publish(1, Pod::mirror().await.address);
    for target in ["/\"<>{}|\\^`", "/a?b=\"<>{}|\\^`", "/\u{e4}?\u{df}", "/%zz?%"] {
        let answer = fixture.ask(&format!("GET {target} HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{target}");
        assert!(answer.body.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target}: {}", answer.body);
    }
    let mut client = fixture.connect().await;
    client.stream.write_all(b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let answer = client.answer(false).await;
    assert_eq!((answer.status, answer.header("server")), (400, Some("codiusd")));
    assert!(answer.body.contains("The request is malformed."), "{}", answer.body);
}
