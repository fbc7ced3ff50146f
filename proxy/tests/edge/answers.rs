//! What a pod may answer and what it may not: nothing it sends becomes a second answer, a field of another, or part of the next one.

use tokio::io::AsyncWriteExt;

use crate::kit::{EdgeFixture, Pod, mirror, read_head};
use crate::secure::{TlsFixture, get, text};

/// A pod whose first connection answers the first request with `answer` and is then open and silent; the others mirror.
async fn once(answer: impl Into<Vec<u8>>) -> Pod {
    let answer = std::sync::Arc::new(answer.into());
    Pod::raw(move |number, mut stream| {
        let answer = std::sync::Arc::clone(&answer);
        async move {
            if number > 0 {
                return mirror(stream, "pod").await;
            }
            read_head(&mut stream).await;
            stream.write_all(&answer).await.unwrap();
            // Whoever sends another request here is answered with what that one is not.
            while read_head(&mut stream).await.is_some() {
                let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned").await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_none() {
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(70 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x: y\r\n".repeat(1200));
    let answers = [
        "garbage\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx y: a\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nset-cookie\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        &large,
        &many,
    ];
    let fixture = EdgeFixture::new().await;
    let mut passed = Vec::new();
    for (number, answer) in (1..).zip(answers) {
        let pod = once(answer).await;
        let name = fixture.publish(number, pod.address);
        let mut client = fixture.connect().await;
        let first = client.ask(&format!("GET /first HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        if first.status != 502 {
            passed.push(format!("{:.80?}: {first:?}", answer));
        }
        let next = client.ask(&format!("GET /next HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert!(next.status == 200 && next.body.starts_with("GET /next "), "after {answer:.80?}: {next:?}");
    }
    assert!(passed.is_empty(), "{passed:#?}");
}

#[tokio::test]
async fn what_follows_an_answer_is_no_answer() {
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let answers = [
        ("GET", 200, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok"),
        ("GET", 200, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
        ("GET", 200, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
        ("GET", 204, "HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("GET", 204, "HTTP/1.1 204 No Content\r\ncontent-length: 45\r\n\r\n", ""),
        ("GET", 204, "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", ""),
        ("GET", 304, "HTTP/1.1 304 Not Modified\r\ncontent-length: 45\r\n\r\n", ""),
        ("GET", 304, "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", ""),
        ("HEAD", 200, "HTTP/1.1 200 OK\r\ncontent-length: 45\r\n\r\n", ""),
        ("HEAD", 200, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", ""),
        ("GET", 200, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok"),
    ];
    let fixture = EdgeFixture::new().await;
    for (number, (method, status, answer, body)) in (1..).zip(answers) {
        for round in 0..10 {
            let pod = once(format!("{answer}{evil}")).await;
            let name = fixture.publish(number, pod.address);
            let mut client = fixture.connect().await;
            let first = client.ask(&format!("{method} /first HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
            assert_eq!((first.status, first.body.as_str()), (status, body), "{answer:?}");
            assert!(first.header("content-length").is_none() || first.header("transfer-encoding").is_none(), "{answer:?}: {first:?}");
            let next = client.ask(&format!("GET /next HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
            assert!(next.status == 200 && next.body.starts_with("GET /next "), "after {answer:?}, round {round}: {next:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_complete() {
    let fixture = TlsFixture::new().await;
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhelXX0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n-1\r\n\r\n0\r\n\r\n",
    ];
    for (number, answer) in (1..).zip(answers) {
        let pod = Pod::answering(answer).await;
        let name = fixture.publish(number, pod.address);
        let mut client = fixture.fixture.connect().await;
        client.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        let seen = client.closed().await;
        let cut = !seen.ends_with("0\r\n\r\n") && !seen.ends_with("hello");
        let has_head = seen.starts_with("HTTP/1.1 200 OK\r\n") && seen.contains("\r\n\r\n");
        assert!(seen.starts_with("HTTP/1.1 502") || has_head && cut && !seen.contains("content-length: 3"), "{answer:?}: {seen:?}");
        let over_h2 = fixture.h2(&name).await.send_request(get(&name, "/")).await.unwrap();
        let complete = over_h2.status() == 200 && http_body_util::BodyExt::collect(over_h2.into_body()).await.is_ok();
        assert!(!complete, "{answer:?} over HTTP/2");
    }
    let pod = Pod::answering(
        "HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\nproxy-authenticate: x\r\n\r\nto the end",
    )
    .await;
    let name = fixture.publish(99, pod.address);
    let answer = fixture.h2(&name).await.send_request(get(&name, "/")).await.unwrap();
    for gone in ["connection", "x-hop", "keep-alive", "proxy-authenticate", "transfer-encoding"] {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
    assert_eq!(text(answer).await, "to the end");
}

#[tokio::test]
async fn clients_of_http_1_0_are_kept_when_they_ask_for_it() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
            let answer = if head.starts_with("GET /chunked") { chunked } else { "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    for _ in 0..3 {
        let kept = client.ask(&format!("GET / HTTP/1.0\r\nHost: {name}\r\nConnection: keep-alive\r\n\r\n")).await;
        assert_eq!((kept.status, kept.body.as_str(), kept.header("connection")), (200, "ok", Some("keep-alive")));
    }
    let last = client.ask(&format!("GET /chunked HTTP/1.0\r\nHost: {name}\r\nConnection: keep-alive\r\n\r\n")).await;
    assert_eq!((last.body.as_str(), last.header("transfer-encoding")), ("ok", None), "its end is the connection's");
    assert_eq!(client.closed().await, "");
    let mut client = fixture.connect().await;
    assert_eq!(client.ask(&format!("GET / HTTP/1.0\r\nHost: {name}\r\n\r\n")).await.body, "ok");
    assert_eq!(client.closed().await, "");
    // It does not know 100 Continue, and its body is not waited for.
    let answer = fixture.ask(&format!("POST / HTTP/1.0\r\nHost: {name}\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
}

#[tokio::test]
async fn an_answer_has_one_date() {
    let fixture = TlsFixture::new().await;
    let bare = Pod::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let dated = Pod::answering("HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n").await;
    let (bare, dated) = (fixture.publish(1, bare.address), fixture.publish(2, dated.address));
    for (name, is_ours) in [(bare.as_str(), true), (dated.as_str(), false), ("localhost", true)] {
        let answer = fixture.fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        let dates: Vec<_> = answer.head.lines().filter_map(|line| line.strip_prefix("date: ")).collect();
        let [date] = &dates[..] else { panic!("{name} has {dates:?}") };
        assert!(date.ends_with(" GMT") && date.contains(" 1994 ") != is_ours, "{name} has {date}");
        let answer = fixture.h2(name).await.send_request(get(name, "/")).await.unwrap();
        let dates: Vec<_> = answer.headers().get_all("date").iter().collect();
        assert!(dates.len() == 1 && (dates[0].to_str().unwrap().contains(" 1994 ") != is_ours), "{name} has {dates:?}");
    }
}
