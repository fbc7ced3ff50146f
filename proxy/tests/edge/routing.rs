//! Who gets a request, and what the client gets when nobody can.

use std::time::Duration;

use codiusd_proxy::Limits;

use crate::kit::{EdgeFixture, Pod, dead_address};

#[tokio::test]
async fn names_decide_between_pod_and_control_plane() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let label = name.split('.').next().unwrap();
    let unknown = "a".repeat(52);
    let not_canonical = format!("{}b", "a".repeat(51));
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let cases = [
        (get(&name), 200, "pod"),
        (get(&format!("{}.Example.org:8080", label.to_uppercase())), 200, "pod"),
        (format!("GET http://{name}/x HTTP/1.1\r\nHost: {name}\r\n\r\n"), 200, "pod"),
        (format!("DELETE /x HTTP/1.0\r\nHost: {name}\r\n\r\n"), 200, "pod"),
        (get("localhost"), 200, "control"),
        (get(label), 200, "control"),
        (get(&format!("www.{name}")), 200, "control"),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), 200, "control"),
        (get(&format!("{unknown}.localhost")), 404, ""),
        (get(&format!("{not_canonical}.localhost")), 404, ""),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, ""),
        (get(""), 400, ""),
        (get("user@localhost"), 400, ""),
        (get("localhost, evil"), 400, ""),
        (format!("GET / HTTP/1.1\r\nHost: {name}\r\nHost: {name}\r\n\r\n"), 400, ""),
        (format!("GET http://other/ HTTP/1.1\r\nHost: {name}\r\n\r\n"), 400, ""),
        (format!("GET http://u@{name}/ HTTP/1.1\r\nHost: {name}\r\n\r\n"), 400, ""),
        (format!("CONNECT {name}:80 HTTP/1.1\r\nHost: {name}:80\r\n\r\n"), 405, ""),
        (format!("TRACE / HTTP/1.1\r\nHost: {name}\r\n\r\n"), 405, ""),
        (format!("OPTIONS * HTTP/1.1\r\nHost: {name}\r\n\r\n"), 200, "pod"),
    ];
    for (request, status, who) in &cases {
        let answer = fixture.ask(request).await;
        assert_eq!((answer.status, answer.header("x-who").unwrap_or_default()), (*status, *who), "{request}");
    }
}

#[tokio::test]
async fn an_upstream_sees_a_clean_origin_form_request() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let seen = fixture
        .ask(&format!(
            "GET http://{name}/a?b=c%20d HTTP/1.1\r\nHost: {name}\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=9\r\n\
             Proxy-Connection: close\r\nProxy-Authorization: secret\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\
             X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
             Cookie: kept\r\n\r\n"
        ))
        .await
        .body;
    let mut lines: Vec<&str> = seen.trim_end().lines().filter(|line| !line.starts_with("x-request-id: ")).collect();
    lines[1..].sort_unstable();
    let host = format!("host: {name}");
    let forwarded_host = format!("x-forwarded-host: {name}");
    let expected =
        ["GET /a?b=c%20d HTTP/1.1", "cookie: kept", &host, "x-forwarded-for: 127.0.0.1", &forwarded_host, "x-forwarded-proto: http"];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn failures_have_one_table() {
    let limits = Limits { first_byte: Duration::from_millis(200), ..Limits::default() };
    let fixture = EdgeFixture::without_control(limits);
    let silent = Pod::raw(|_, stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let closing = Pod::answering("").await;
    let cases = [
        (dead_address(), 503, "Service Unavailable"),
        (silent.address, 504, "Gateway Timeout"),
        (closing.address, 502, "Bad Gateway"),
        (Pod::answering("garbage\r\n\r\n").await.address, 502, "Bad Gateway"),
        (Pod::answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!").await.address, 502, "Bad Gateway"),
        (Pod::answering("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await.address, 502, "Bad Gateway"),
    ];
    for (number, (address, status, title)) in (1..).zip(cases) {
        let name = fixture.publish(number, address);
        let json = fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\nAccept: */*\r\n\r\n")).await;
        assert_eq!((json.status, json.header("content-type")), (status, Some("application/json; charset=utf-8")), "{json:?}");
        assert!(json.body.starts_with(&format!("{{\"statusCode\":{status},\"error\":\"{title}\",\"message\":\"")), "{json:?}");
        let html = fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\nAccept: text/html,*/*\r\n\r\n")).await;
        assert_eq!((html.status, html.header("content-type")), (status, Some("text/html; charset=utf-8")));
        assert!(html.body.contains(&format!("<h1>{title}</h1>")), "{html:?}");
        for answer in [&json, &html] {
            assert!(!answer.body.contains(&address.port().to_string()) && !answer.body.contains("127."), "{answer:?}");
        }
        let head = fixture.ask(&format!("HEAD / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(head.status, status);
    }
    let control = fixture.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((control.status, control.header("retry-after")), (503, Some("5")));
    assert!(fixture.metric("codius_edge_faults_total") >= 19.0);
}

#[tokio::test]
async fn a_withdrawn_pod_is_unroutable_at_once() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
    assert_eq!(client.ask(&request).await.status, 200);
    assert!(fixture.routes.withdraw(&name.split('.').next().unwrap().parse().unwrap()));
    assert_eq!(client.ask(&request).await.status, 404);
    fixture.publish(1, pod.address);
    assert_eq!(client.ask(&request).await.status, 200);
}
