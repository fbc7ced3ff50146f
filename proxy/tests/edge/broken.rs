//! Answers whose bodies break off: the client gets their head and sees that they are cut, so that it doesn't send its request again
//! when the pod has already done what it asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Notify;

use crate::kit::{Client, EdgeFixture, Pod, read_head, within};
use crate::secure::{TlsFixture, full};

/// What follows the status line of a broken answer. All are closed behind it, or reset.
const WAYS: &[(&str, &str, &str)] = &[
    ("no byte of a known length", "content-length: 10\r\n\r\n", ""),
    ("less than a known length", "content-length: 10\r\n\r\n", "hel"),
    ("a byte less than a known length", "content-length: 4\r\n\r\n", "hel"),
    ("no chunk", "transfer-encoding: chunked\r\n\r\n", ""),
    ("no last chunk", "transfer-encoding: chunked\r\n\r\n", "3\r\nhel\r\n"),
    ("half a chunk", "transfer-encoding: chunked\r\n\r\n", "5\r\nhel"),
    ("half an end", "transfer-encoding: chunked\r\n\r\n", "3\r\nhel\r\n0\r\n"),
    ("a chunk size that is none", "transfer-encoding: chunked\r\n\r\n", "zz\r\n"),
    ("no chunk size", "transfer-encoding: chunked\r\n\r\n", "\r\nhel\r\n0\r\n\r\n"),
    ("a negative chunk size", "transfer-encoding: chunked\r\n\r\n", "-1\r\n\r\n0\r\n\r\n"),
    ("a chunk size beyond all bounds", "transfer-encoding: chunked\r\n\r\n", "fffffffffffffffff\r\nhel"),
    ("a bad second chunk size", "transfer-encoding: chunked\r\n\r\n", "3\r\nhel\r\nzz\r\n"),
    ("bare line feeds", "transfer-encoding: chunked\r\n\r\n", "3\nhel\n0\n\n"),
    ("no line end behind a chunk", "transfer-encoding: chunked\r\n\r\n", "3\r\nhelXX0\r\n\r\n"),
    ("an endless chunk extension", "transfer-encoding: chunked\r\n\r\n", "3;LONG\r\nhel\r\n0\r\n\r\n"),
    ("a bad trailer", "transfer-encoding: chunked\r\n\r\n", "3\r\nhel\r\n0\r\nno trailer\r\n\r\n"),
    ("an endless trailer", "transfer-encoding: chunked\r\n\r\n", "3\r\nhel\r\n0\r\nx: LONG\r\n\r\n"),
];

/// Answers `/way/<number>/<when>/<how>` as that way says, and all else with "ok". Counts how often each target was asked for.
struct Breaking {
    pod: Pod,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    /// Lets go of the body of an answer that is broken later.
    go: Arc<Notify>,
}

impl Breaking {
    async fn new() -> Breaking {
        let (asked, go) = (Arc::<Mutex<HashMap<String, usize>>>::default(), Arc::<Notify>::default());
        let (counts, gate) = (Arc::clone(&asked), Arc::clone(&go));
        let pod = Pod::raw(move |_, stream| serve(stream, Arc::clone(&counts), Arc::clone(&gate))).await;
        Breaking { pod, asked, go }
    }

    fn times(&self, target: &str) -> usize {
        self.asked.lock().unwrap().get(target).copied().unwrap_or(0)
    }
}

async fn serve(mut stream: TcpStream, asked: Arc<Mutex<HashMap<String, usize>>>, go: Arc<Notify>) {
    while let Some(head) = read_head(&mut stream).await {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let target = head.split(' ').nth(1).unwrap().to_owned();
        *asked.lock().unwrap().entry(target.clone()).or_default() += 1;
        let parts: Vec<&str> = target.split('/').collect();
        let ["", "way", number, when, how, ..] = parts[..] else {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            continue;
        };
        let (_, fields, rest) = WAYS[number.parse::<usize>().unwrap()];
        let (head, rest) = (format!("HTTP/1.1 201 Created\r\n{fields}"), rest.replace("LONG", &"x".repeat(100_000)));
        if when == "together" {
            let _edge_may_be_gone = stream.write_all(format!("{head}{rest}").as_bytes()).await;
        } else {
            stream.write_all(head.as_bytes()).await.unwrap();
            if when == "later" {
                go.notified().await;
            }
            let _edge_may_be_gone = stream.write_all(rest.as_bytes()).await;
        }
        if how == "reset" {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        return;
    }
}

/// All ways, when the body comes, and how the connection ends.
fn all() -> impl Iterator<Item = (String, &'static str)> {
    let each = |number| ["together", "at-once", "later"].map(|when| ["close", "reset"].map(|how| format!("/way/{number}/{when}/{how}")));
    WAYS.iter().enumerate().flat_map(move |(number, (what, ..))| each(number).into_iter().flatten().map(move |target| (target, *what)))
}

#[tokio::test]
async fn a_broken_answer_of_http_1_has_its_head_and_its_pod_one_request() {
    let (fixture, breaking) = (EdgeFixture::new().await, Breaking::new().await);
    let name = fixture.publish(1, breaking.pod.address);
    for (target, what) in all() {
        for method in ["GET", "POST"] {
            let target = format!("{target}/{method}");
            let request = |target: &str| format!("{method} {target} HTTP/1.1\r\nHost: {name}\r\nContent-Length: 1\r\n\r\nx");
            let mut client = fixture.connect().await;
            assert_eq!(client.ask(&request("/warm")).await.body, "ok");
            client.send(&request(&target)).await;
            let seen = rest_of(&mut client, &target, &breaking.go).await;
            assert!(seen.starts_with("HTTP/1.1 201 Created\r\n") || seen.starts_with("HTTP/1.1 502 "), "{what}, {target}: {seen:?}");
            if let Some((head, body)) = seen.split_once("\r\n\r\n").filter(|_| seen.contains(" 201 ")) {
                let is_cut = if head.contains("transfer-encoding") { !body.contains("0\r\n") } else { body.len() < 4 };
                assert!(is_cut, "{what}, {target}: {seen:?}");
                let (_, _, sent) = WAYS[target.split('/').nth(2).unwrap().parse::<usize>().unwrap()];
                assert!(target.contains("reset") || !sent.contains("3\r\nhel\r\n") || body.contains("hel"), "{what}, {target}: {seen:?}");
            }
            assert_eq!(breaking.times(&target), 1, "{what}, {target}");
        }
    }
}

async fn rest_of(client: &mut Client, target: &str, go: &Notify) -> String {
    if !target.contains("later") {
        return client.closed().await;
    }
    let head = client.head().await;
    go.notify_one();
    format!("{head}{}", client.closed().await)
}

#[tokio::test]
async fn a_broken_answer_of_http_2_has_its_head_before_its_reset() {
    let (fixture, breaking) = (TlsFixture::new().await, Breaking::new().await);
    let name = fixture.publish(1, breaking.pod.address);
    let mut client = fixture.h2(&name).await;
    for (target, what) in all() {
        for method in [Method::GET, Method::POST] {
            let target = format!("{target}/{method}");
            let request = Request::builder().method(&method).uri(format!("https://{name}{target}"));
            let request = request.body(full(Bytes::from_static(b"x"))).unwrap();
            let answer = within("the head", client.send_request(request)).await;
            let answer = answer.unwrap_or_else(|error| panic!("{what}, {target}: {error:?}"));
            let status = answer.status().as_u16();
            if target.contains("later") {
                breaking.go.notify_one();
            }
            let body = within("the end", answer.into_body().collect()).await;
            assert!(status == 201 && body.is_err() || status == 502, "{what}, {target}: {status} {body:?}");
            assert_eq!(breaking.times(&target), 1, "{what}, {target}");
        }
    }
}

#[tokio::test]
async fn what_came_before_the_break_arrives_over_http_2() {
    let fixture = TlsFixture::new().await;
    let pod = Pod::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n").await;
    let name = fixture.publish(1, pod.address);
    for _ in 0..20 {
        let answer = within("the head", fixture.h2(&name).await.send_request(crate::secure::get(&name, "/"))).await.unwrap();
        let mut body = answer.into_body();
        let first = within("a frame", body.frame()).await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "hello");
        assert!(within("the reset", body.frame()).await.unwrap().is_err());
    }
}

/// A client that has sent more than is read must not lose the head in a reset of its connection.
#[tokio::test]
async fn a_client_that_is_still_sending_gets_the_head_of_a_broken_answer() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::answering("HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\nhel").await;
    let name = fixture.publish(1, pod.address);
    for _ in 0..20 {
        let mut client = fixture.connect().await;
        client.send(&format!("POST / HTTP/1.1\r\nHost: {name}\r\nContent-Length: 300000\r\n\r\n")).await;
        let _edge_may_be_gone = client.stream.write_all(&vec![b'x'; 300_000]).await;
        let seen = client.closed().await;
        assert!(seen.starts_with("HTTP/1.1 201 Created\r\n") && seen.ends_with("\r\n\r\nhel"), "{seen:?}");
    }
}

/// Such as browsers and libraries, which send a request again on a new connection when a reused one ends without a byte.
#[tokio::test]
async fn clients_that_try_again_dont() {
    let (fixture, breaking) = (EdgeFixture::new().await, Breaking::new().await);
    let name = fixture.publish(1, breaking.pod.address);
    let targets: Vec<String> = all().map(|(target, _)| target).filter(|target| !target.contains("later")).collect();
    let url = |target: &str| format!("http://{}{target}", fixture.edge.address());
    for target in &targets {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--http1.1", "-m", "20", "-d", "x", "-H", &format!("Host: {name}"), "-w", "%{http_code} "]);
        curl.args(["-o", "/dev/null", "-o", "/dev/null", &url("/warm"), &url(&format!("{target}/curl"))]);
        let told = within("curl", curl.output()).await.unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert!(["200 201 ", "200 502 "].contains(&told.as_str()), "{target}: {told:?}");
        assert_eq!(breaking.times(&format!("{target}/curl")), 1, "{target}");
    }
    let mut node = Command::new("node");
    node.args(["-e", NODE, &fixture.edge.address().port().to_string(), &name]).args(targets.iter().map(|target| format!("{target}/node")));
    let told = within("node", node.output()).await.unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told.lines().count(), targets.len(), "{told}");
    for (target, told) in targets.iter().zip(told.lines()) {
        assert!(["201", "502"].contains(&told), "{target}: {told}");
        assert_eq!(breaking.times(&format!("{target}/node")), 1, "{target}");
    }
}

/// Posts to a good target and then to each broken one, over connections that are kept.
const NODE: &str = r#"
const http = require("http");
const [port, name, ...targets] = process.argv.slice(1);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const post = (path) => new Promise((done) => {
  const request = http.request({ port, path, agent, method: "POST", headers: { Host: name, "Content-Length": 1 } }, (answer) => {
    answer.on("error", () => {});
    answer.on("close", () => done(answer.statusCode));
    answer.resume();
  });
  request.on("error", (error) => done(error.code));
  request.end("x");
});
(async () => {
  for (const target of targets) {
    await post("/warm");
    console.log(await post(target));
  }
  process.exit();
})();
"#;

#[tokio::test]
async fn what_comes_behind_a_whole_answer_changes_nothing() {
    let fixture = EdgeFixture::new().await;
    let garbage = "HTTP/1.1 500 x\r\n\r\n";
    let answers = [
        "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nokGARBAGE",
        "HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok\0\0\0\0GARBAGE",
        "HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nGARBAGE",
        "HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n0\r\n\r\n",
    ];
    for (number, answer) in (1..).zip(answers) {
        let answer: &'static str = answer.replace("GARBAGE", garbage).leak();
        let pod = Pod::answering(answer).await;
        let name = fixture.publish(number, pod.address);
        let mut client = fixture.connect().await;
        for round in 1..=3 {
            let seen = client.ask(&format!("POST / HTTP/1.1\r\nHost: {name}\r\nContent-Length: 1\r\n\r\nx")).await;
            assert_eq!((seen.status, seen.body.as_str()), (201, "ok"), "{answer:?}");
            assert_eq!(pod.accepted(), round, "{answer:?}");
        }
    }
}
