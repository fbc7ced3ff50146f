//! Which fields of a client get to a pod, and how many.

use codiusd_proxy::{Limits, Policy};
use http::{HeaderName, HeaderValue, Request};

use crate::kit::{EdgeFixture, Pod, read_head, within};
use crate::secure::{TlsFixture, get, text};
use tokio::io::AsyncWriteExt;

/// What only a proxy may send.
const A_PROXYS: &[(&str, &str)] = &[
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Host", "evil"),
    ("X-Forwarded-Proto", "ftp"),
    ("X-Forwarded-Port", "6666"),
    ("X-Forwarded-Ssl", "on"),
    ("X-Forwarded-Scheme", "evil"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-Server", "evil"),
    ("X-Forwarded-User", "evil"),
    ("X-Forwarded-Client-Cert", "evil"),
    ("X-Forwarded-Whatever-Comes-Next", "evil"),
    ("X-Forwarded", "for=6.6.6.6"),
    ("Forwarded", "for=6.6.6.6;proto=https"),
    ("X-Original-URL", "/evil"),
    ("X-Original-Host", "evil"),
    ("X-Rewrite-URL", "/evil"),
    ("X-Client-IP", "6.6.6.6"),
    ("True-Client-IP", "6.6.6.6"),
    ("X-Cluster-Client-IP", "6.6.6.6"),
    ("Front-End-Https", "on"),
];

/// What nobody may send, trusted or not.
const NOBODYS: &[(&str, &str)] = &[
    ("X-Real-IP", "6.6.6.6"),
    ("Proxy", "http://evil"),
    ("X-Request-Id", "evil"),
    ("X_Forwarded_For", "6.6.6.6"),
    ("X_Forwarded-Port", "6666"),
    ("X-FORWARDED_PROTO", "evil"),
    ("X_Real_IP", "6.6.6.6"),
    ("X_Request_Id", "evil"),
    ("X_Original_URL", "evil"),
    ("Content_Length", "6666"),
    ("Transfer_Encoding", "evil"),
    ("Proxy_Authorization", "evil"),
];

/// What is anybody's.
const ANYBODYS: &[(&str, &str)] =
    &[("X-Forward", "kept"), ("Proxy-Hint", "kept"), ("X_Y", "kept"), ("X-Original-Filename", "kept"), ("X-Requested-With", "kept")];

const EVIL: [&str; 3] = ["6.6.6.6", "evil", "6666"];

fn lines(fields: &[(&str, &str)], spell: impl Fn(&str) -> String) -> String {
    fields.iter().map(|(name, value)| format!("{}: {value}\r\n", spell(name))).collect()
}

#[tokio::test]
async fn what_only_a_proxy_may_say_is_taken_from_strangers() {
    let fixture = TlsFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let all = [A_PROXYS, NOBODYS, ANYBODYS].concat();
    let check = |seen: &str, how: &str| {
        for (field, _) in A_PROXYS.iter().chain(NOBODYS).skip(3) {
            let still = seen.lines().any(|line| line.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case(field)));
            assert!(!still || *field == "X-Request-Id", "{how}, {field}: {seen}");
        }
        assert!(!EVIL.iter().any(|evil| seen.contains(evil)), "{how}: {seen}");
        assert_eq!(seen.matches(": kept").count() % ANYBODYS.len(), 0, "{how}: {seen}");
        assert!(seen.contains(": kept"), "{how}: {seen}");
        assert!(seen.contains("x-forwarded-for: 127.0.0.1"), "{how}: {seen}");
    };
    type Spelling = (&'static str, fn(&str) -> String);
    let spellings: [Spelling; 3] = [("as is", str::to_owned), ("lower", str::to_ascii_lowercase), ("upper", str::to_ascii_uppercase)];
    for (how, spell) in spellings {
        for times in [1, 3] {
            let fields = lines(&all, spell).repeat(times);
            let seen = fixture.fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n{fields}\r\n")).await.body;
            check(&seen, how);
        }
    }
    let mut request = get(&name, "/");
    for (field, value) in &all {
        request.headers_mut().append(field.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        request.headers_mut().append(field.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
    }
    let seen = text(within("an answer", fixture.h2(&name).await.send_request(request)).await.unwrap()).await;
    check(&seen, "HTTP/2");
}

#[tokio::test]
async fn what_a_believed_proxy_says_once_is_kept() {
    let fixture =
        EdgeFixture::under(Limits::default(), Policy { trusted_proxies: vec!["127.0.0.1".parse().unwrap()], ..Policy::default() });
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let said = lines(&[A_PROXYS, NOBODYS, ANYBODYS].concat(), str::to_owned);
    let seen = fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n{said}\r\n")).await.body;
    for (field, value) in A_PROXYS {
        let expected = match *field {
            "X-Forwarded-For" => "6.6.6.6, 127.0.0.1".to_owned(),
            "Forwarded" => format!("{value}, for=127.0.0.1"),
            "X-Forwarded-Proto" => "http".to_owned(),
            _ => (*value).to_owned(),
        };
        assert!(seen.contains(&format!("{}: {expected}\r\n", field.to_ascii_lowercase())), "{field}: {seen}");
    }
    for (field, value) in NOBODYS {
        assert!(!seen.contains(&format!("{}: {value}\r\n", field.to_ascii_lowercase())), "{field}: {seen}");
    }
    let twice = fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Port: 2\r\n\r\n")).await.body;
    assert!(!twice.contains("x-forwarded-port"), "{twice}");
}

#[tokio::test]
async fn no_trailer_brings_them() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        let mut body = String::new();
        while !body.contains("x-good: 1") || !body.ends_with("\r\n\r\n") {
            body.push_str(&read_head(&mut stream).await.unwrap());
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let all = [A_PROXYS, NOBODYS].concat();
    let announced: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let seen = fixture
        .ask(&format!(
            "POST / HTTP/1.1\r\nHost: {name}\r\nTE: trailers\r\nTrailer: x-good, {}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{}X-Good: 1\r\n\r\n",
            announced.join(", "),
            lines(&all, str::to_owned),
        ))
        .await
        .body;
    assert_eq!(seen, "2\r\nhi\r\n0\r\nx-good: 1\r\n\r\n");
}

/// `count` fields, with other names and with one.
fn many(count: usize) -> [String; 2] {
    [(0..count).map(|number| format!("x-{number}: {number}\r\n")).collect(), "x-a: 1\r\n".repeat(count)]
}

#[tokio::test]
async fn the_number_of_fields_is_the_same_both_ways_and_in_both_versions() {
    for (limit, count, passes) in [(1000, 120, true), (1000, 900, true), (1000, 1100, false), (200, 120, true), (200, 250, false)] {
        let limits = Limits { header_fields: limit, ..Limits::default() };
        let fixture = TlsFixture::with(limits, |_| {}).await;
        let mirror = Pod::mirror().await;
        let name = fixture.publish(1, mirror.address);
        for fields in many(count) {
            let what = format!("{count} of {limit}: {fields:.20?}");
            let status = fixture.fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n{fields}\r\n")).await.status;
            assert_eq!(status, if passes { 200 } else { 431 }, "a request, {what}");
            let answer: &'static str = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok").leak();
            let answering = fixture.publish(2, Pod::answering(answer).await.address);
            let status = fixture.fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {answering}\r\n\r\n")).await.status;
            assert_eq!(status, if passes { 200 } else { 502 }, "an answer, {what}");
            let tls = fixture.authority.client(&["h2"]);
            let (mut client, driver) = h2::client::handshake(fixture.handshake(&tls, &name).await.unwrap()).await.unwrap();
            tokio::spawn(driver);
            let mut request = Request::get(format!("https://{name}/")).body(()).unwrap();
            for (field, value) in fields.lines().filter_map(|line| line.split_once(": ")) {
                request.headers_mut().append(field.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            let (answer, _) = client.send_request(request, true).unwrap();
            let status = within("the head", answer).await.unwrap().status().as_u16();
            assert_eq!(status, if passes { 200 } else { 431 }, "a request over HTTP/2, {what}");
        }
    }
}

/// The id in an echoed head.
fn id_in(seen: &str) -> &str {
    let ids: Vec<&str> = seen.lines().filter_map(|line| line.strip_prefix("x-request-id: ")).collect();
    assert!(ids.len() == 1 && ids[0].len() == 32 && ids[0].bytes().all(|byte| byte.is_ascii_hexdigit()), "{seen}");
    ids[0]
}

#[tokio::test]
async fn each_request_has_an_id_that_whoever_answers_and_the_client_know() {
    let fixture = TlsFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let forged = "X-Request-Id: 00000000000000000000000000000000\r\nx-request-id: 1\r\n";
    let mut client = fixture.fixture.connect().await;
    let first = client.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n{forged}\r\n")).await;
    let second = client.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    assert_ne!(id_in(&first.body), id_in(&second.body));
    assert!(!first.body.contains("00000000000000000000000000000000"), "{first:?}");
    assert_eq!(first.header("x-request-id"), None, "what a pod answers is the pod's");

    let control = client.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(control.header("x-request-id"), Some(id_in(&control.body)));
    let over_h2 = fixture.h2("localhost").await.send_request(get("localhost", "/")).await.unwrap();
    let told = over_h2.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(id_in(&text(over_h2).await), told);

    let unknown = format!("{}.localhost", "a".repeat(52));
    let json = client.ask(&format!("GET / HTTP/1.1\r\nHost: {unknown}\r\n{forged}\r\n")).await;
    let told: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!(told["requestId"].as_str(), json.header("x-request-id"));
    assert_eq!(told["requestId"].as_str().map(str::len), Some(32));
    let page = client.ask(&format!("GET / HTTP/1.1\r\nHost: {unknown}\r\nAccept: text/html\r\n\r\n")).await;
    assert!(page.body.contains(page.header("x-request-id").unwrap()), "{page:?}");
}
