//! HTTP/2 requests that would be something else in HTTP/1.1: what a pod gets is one request, or nothing.

use crate::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Outcome, field, request};
use crate::secure::TlsFixture;
use crate::smuggling::{Recorder, message_length};

struct Probed {
    fixture: TlsFixture,
    recorder: Recorder,
    name: String,
}

impl Probed {
    async fn new() -> Probed {
        let (fixture, recorder) = (TlsFixture::new().await, Recorder::new().await);
        let name = fixture.publish(1, recorder.pod.address);
        Probed { fixture, recorder, name }
    }

    /// What becomes of a request that is nothing but `block`, and what the pod gets of it; the connection stays what it was, if it stays.
    async fn probe(&self, what: &str, block: &[u8]) -> (Outcome, String) {
        let mut client = Frames::open(&self.fixture, &self.name).await;
        let outcome = client.ask(block).await;
        let got = self.recorder.taken();
        if outcome != Outcome::Closed {
            assert_eq!(client.ask(&request(&self.name, &[(":path", "/honest")])).await, Outcome::Ok, "after {what}");
        }
        self.honest(what).await;
        (outcome, got)
    }

    /// The pod's connections are as they should be.
    async fn honest(&self, what: &str) {
        self.recorder.taken();
        let mut client = Frames::open(&self.fixture, &self.name).await;
        assert_eq!(client.ask(&request(&self.name, &[(":path", "/honest")])).await, Outcome::Ok, "after {what}");
        let got = self.recorder.taken();
        assert!(got.starts_with("GET /honest HTTP/1.1\r\n") && got.matches("HTTP/1.1").count() == 1, "after {what}: {got:?}");
    }
}

#[tokio::test]
async fn fields_that_http_2_forbids_never_reach_a_pod() {
    let probed = Probed::new().await;
    let fields = [
        ("connection", "close"),
        ("connection", "x-forwarded-for"),
        ("keep-alive", "5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("X-Upper", "a"),
        ("x y", "a"),
        ("x:y", "a"),
        ("x\r\ny", "a"),
        ("x\0", "a"),
        ("", "a"),
        (":unknown", "a"),
        (":status", "200"),
        (":protocol", "websocket"),
        ("x", "a\r\nx-smuggled: b"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("content-length", "5"),
        ("content-length", "+0"),
        ("content-length", "0, 0"),
        ("content-length", "x"),
        ("host", "other.localhost"),
        ("host", "NAME:81"),
        (":method", "G ET"),
        (":method", "GET / HTTP/1.1\r\nx: y\r\n\r\nGET"),
        (":method", ""),
        (":path", ""),
        (":path", "relative"),
        (":path", "http://other.localhost/"),
        (":path", "*x"),
        (":path", "/ HTTP/1.1\r\nx-smuggled: y"),
        (":path", "/a b"),
        (":path", "/\0"),
        (":scheme", "ht tp"),
        (":scheme", ""),
        (":authority", ""),
        (":authority", "user@NAME"),
        (":authority", "NAME/path"),
        (":authority", "NAME,other"),
        (":authority", "NAME:99999"),
        (":authority", "NAME\r\nx-smuggled: y"),
    ];
    let mut passed = Vec::new();
    for (name, value) in fields {
        let block = request(&probed.name, &[(name, &value.replace("NAME", &probed.name))]);
        let (outcome, got) = probed.probe(&format!("{name:?}: {value:?}"), &block).await;
        if outcome == Outcome::Ok || !got.is_empty() {
            passed.push(format!("{name:?}: {value:?}: {outcome:?} {got:?}"));
        }
    }
    assert!(passed.is_empty(), "{passed:#?}");
}

#[tokio::test]
async fn pseudo_fields_come_once_and_first() {
    let probed = Probed::new().await;
    let name = probed.name.as_str();
    let own = [(":method", "GET"), (":scheme", "https"), (":authority", name), (":path", "/")];
    let block =
        |fields: &[(&str, &str)]| -> Vec<u8> { fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect() };
    let mut blocks = Vec::new();
    for (index, pseudo) in own.iter().enumerate() {
        let without: Vec<_> = own.iter().copied().filter(|other| other != pseudo).collect();
        let last: Vec<_> = without.iter().chain([&("x", "y"), pseudo]).copied().collect();
        let twice: Vec<_> = own.iter().chain([pseudo]).copied().collect();
        blocks.extend([(format!("{pseudo:?} last"), block(&last)), (format!("{pseudo:?} twice"), block(&twice))]);
        // Without an authority there may be a Host; here there is none.
        blocks.push((format!("no {pseudo:?} ({index})"), block(&without)));
    }
    let two_hosts: Vec<_> = own.iter().chain([&("host", name), &("host", name)]).copied().collect();
    blocks.push(("two hosts".into(), block(&two_hosts)));
    let mut passed = Vec::new();
    for (what, block) in &blocks {
        let (outcome, got) = probed.probe(what, block).await;
        if outcome == Outcome::Ok || !got.is_empty() {
            passed.push(format!("{what}: {outcome:?} {got:?}"));
        }
    }
    assert!(passed.is_empty(), "{passed:#?}");
    let (outcome, got) = probed.probe("te: trailers", &request(name, &[("te", "trailers"), ("host", name)])).await;
    assert!(outcome == Outcome::Ok && got.matches("HTTP/1.1").count() == 1 && got.matches("host: ").count() == 2, "{outcome:?} {got}");
}

#[tokio::test]
async fn a_body_of_another_length_than_said_is_no_request_and_spoils_no_connection() {
    let probed = Probed::new().await;
    let post = |length: &str| request(&probed.name, &[(":method", "POST"), ("content-length", length)]);
    let hidden = b"GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n";
    for (length, sent) in [("5", &hidden[..]), ("0", hidden), ("1000", hidden), ("34", hidden)] {
        let mut client = Frames::open(&probed.fixture, &probed.name).await;
        let number = client.number();
        client.send(HEADERS, END_HEADERS, number, &post(length)).await;
        client.send(DATA, 0, number, &sent[..3]).await;
        client.send(DATA, END_STREAM, number, &sent[3..]).await;
        let outcome = client.outcome(number).await;
        // A request of no length is complete, and may be answered, before the first byte that it should not have.
        assert!(length == "0" || matches!(outcome, Outcome::Reset | Outcome::Bad | Outcome::Other), "length {length}: {outcome:?}");
        let got = probed.recorder.taken();
        assert!(length == "0" || message_length(got.as_bytes()).is_none(), "{length}: {got:?}");
        assert!(!got.contains("\r\n\r\nGET /hidden HTTP/1.1\r\nhost: x\r\n\r\n") || length == "1000", "{length}: {got:?}");
        probed.honest(length).await;
    }
    // Trailers are fields, too.
    let mut client = Frames::open(&probed.fixture, &probed.name).await;
    let number = client.number();
    client
        .send(HEADERS, END_HEADERS, number, &request(&probed.name, &[(":method", "POST"), ("trailer", "x-sum, host, x-forwarded-for")]))
        .await;
    client.send(DATA, 0, number, b"hello").await;
    let trailers = [field(b"x-sum", b"1"), field(b"host", b"evil"), field(b"x-forwarded-for", b"6.6.6.6")].concat();
    client.send(HEADERS, END_HEADERS | END_STREAM, number, &trailers).await;
    let got = loop {
        let got = probed.recorder.taken();
        if !got.is_empty() {
            break got;
        }
        tokio::task::yield_now().await;
    };
    assert!(!got.contains("evil") && !got.contains("6.6.6.6"), "{got}");
}
