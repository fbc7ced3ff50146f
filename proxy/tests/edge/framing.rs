//! Where one message ends and the next begins, both ways; and the bounds on heads.

use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::kit::{EdgeFixture, Pod, read_head, within};
use crate::waits::{Bound, Halt};

/// Each probe carries a second request inside; it may be answered as a second request of the client's, but never reaches the pod as
/// part of the first one's connection state, and malformed first requests are never forwarded.
#[tokio::test]
async fn ambiguous_requests_are_refused_or_made_unambiguous() {
    let fixture = EdgeFixture::new().await;
    let (seen, mut heads) = mpsc::unbounded_channel();
    let pod = Pod::raw(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                // An empty chunked body looks like a head to `read_head`.
                if head != "0\r\n\r\n" {
                    seen.send(head).unwrap();
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            }
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let refused = [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "Content-Length: 5, 6\r\n\r\nhello!",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: 0x5\r\n\r\nhello",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 99999999999999999999\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "X: a\r\n folded\r\n\r\n",
        "X : a\r\n\r\n",
        "X: a\rb\r\n\r\n",
        "X\r\n\r\n",
        "X: a\0b\r\n\r\n",
        "Content\x00-Length: 5\r\n\r\nhello",
    ];
    for probe in refused {
        let mut client = fixture.connect().await;
        let answer = client.ask(&format!("POST /probe HTTP/1.1\r\nHost: {name}\r\n{probe}{hidden}")).await;
        assert_eq!(answer.status, 400, "{probe:?}");
        assert_eq!(client.closed().await, "", "{probe:?}");
    }
    let lines =
        ["GET / HTTP/1.1 \r\n", "GET  / HTTP/1.1\r\n", "GET /\r\n", "GET / HTTP/3.0\r\n", "GET / http/1.1\r\n", "G@T / HTTP/1.1\r\n"];
    for line in lines {
        let answer = fixture.ask(&format!("{line}Host: {name}\r\n\r\n")).await;
        assert_eq!(answer.status, 400, "{line:?}");
    }
    let old = fixture.ask(&format!("POST / HTTP/1.0\r\nHost: {name}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")).await;
    assert_eq!(old.status, 400);
    assert!(heads.try_recv().is_err(), "a malformed request reached the pod");
}

#[tokio::test]
async fn a_broken_chunk_never_completes_the_upstream_request() {
    let fixture = EdgeFixture::new().await;
    let (seen, mut bodies) = mpsc::unbounded_channel();
    let pod = Pod::raw(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            let mut all = Vec::new();
            let _reset_counts_too = stream.read_to_end(&mut all).await;
            seen.send(String::from_utf8(all).unwrap()).unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(17 * 1024));
    let long_trailer = format!("0\r\nX: {}\r\n\r\n", "x".repeat(70 * 1024));
    let many_trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(200));
    let chunks = [
        "zz\r\n",
        "5;\r\nhello6\r\n",
        "-1\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffb\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\nX Y: z\r\n\r\n",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\n\n",
        &long_extension,
        &long_trailer,
        &many_trailers,
    ];
    for chunk in chunks {
        let mut client = fixture.connect().await;
        client.send(&format!("POST / HTTP/1.1\r\nHost: {name}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{chunk}")).await;
        client.stream.shutdown().await.unwrap();
        client.closed().await;
        let body = within("the pod's end of stream", bodies.recv()).await.unwrap();
        assert!(!body.ends_with("0\r\n\r\n"), "{chunk:?} became {body:?}");
    }
}

#[tokio::test]
async fn an_answer_with_two_framings_keeps_one() {
    let fixture = EdgeFixture::new().await;
    let pod =
        Pod::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    for _ in 0..2 {
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert_eq!(
            (answer.status, answer.body.as_str(), answer.header("content-length"), answer.header("x-hop")),
            (200, "hello", None, None)
        );
    }
}

#[tokio::test]
async fn head_and_no_content_and_http_1_0_answers_are_framed_right() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let answer = if head.starts_with("HEAD") {
                "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"
            } else if head.contains("/none") {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else if head.contains("/same") {
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\netag: \"x\"\r\n\r\n"
            } else if head.contains("/early") {
                "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            } else {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    let head = client.ask(&format!("HEAD / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1234")));
    assert_eq!(client.ask(&format!("GET /none HTTP/1.1\r\nHost: {name}\r\n\r\n")).await.status, 204);
    let same = client.ask(&format!("GET /same HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    assert_eq!((same.status, same.header("etag")), (304, Some("\"x\"")));
    assert_eq!(client.ask(&format!("GET /early HTTP/1.1\r\nHost: {name}\r\n\r\n")).await.body, "ok");
    assert_eq!(pod.accepted(), 1, "every answer above left the connection usable");
    let mut old = fixture.connect().await;
    let answer = old.ask(&format!("GET / HTTP/1.0\r\nHost: {name}\r\n\r\n")).await;
    assert_eq!((answer.status, answer.body.as_str(), answer.header("transfer-encoding")), (200, "ok", None));
    assert_eq!(old.closed().await, "");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("te: trailers"), "{head}");
        let mut body = Vec::new();
        while !body.ends_with(b"x-up: 1\r\n\r\n") {
            assert!(stream.read_buf(&mut body).await.unwrap() > 0, "no trailer in {:?}", String::from_utf8_lossy(&body));
        }
        let answer = "HTTP/1.1 200 OK\r\ntrailer: x-down\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-down: 2\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let answer = fixture
        .ask(&format!(
            "POST / HTTP/1.1\r\nHost: {name}\r\nTE: trailers\r\nTrailer: x-up\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-up: 1\r\n\r\n"
        ))
        .await;
    assert_eq!(answer.body, "okx-down: 2\r\n");
}

#[tokio::test]
async fn the_pod_decides_whether_an_expected_body_is_sent() {
    let refusing = Pod::raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("expect: 100-Continue"), "{head}");
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _reset_counts_too = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
    })
    .await;
    let welcoming = Pod::raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"hello");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
    })
    .await;
    let silent = Pod::mirror().await;
    for (pod, accepts, continue_wait) in [(&refusing, false, 600), (&welcoming, true, 600), (&silent, true, 0)] {
        let fixture = EdgeFixture::with(Limits { continue_wait: Duration::from_secs(continue_wait), ..Limits::default() }).await;
        let name = fixture.publish(1, pod.address);
        let mut client = fixture.connect().await;
        client.send(&format!("POST / HTTP/1.1\r\nHost: {name}\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n")).await;
        if accepts {
            assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
            let answer = client.ask("hello").await;
            assert!(answer.status == 200 && answer.body.ends_with("hello"), "{answer:?}");
        } else {
            assert_eq!(client.answer(false).await.status, 413);
            assert_eq!(client.closed().await, "");
        }
    }
}

#[tokio::test]
async fn client_connections_outlive_the_pods_and_pipelined_requests_are_answered_in_order() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|number, mut stream| async move {
        read_head(&mut stream).await;
        let body = number.to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
    client.send(&request.repeat(3)).await;
    for number in ["0", "1", "2"] {
        let answer = client.answer(false).await;
        assert_eq!((answer.status, answer.body.as_str(), answer.header("connection")), (200, number, None));
    }
}

#[tokio::test]
async fn heads_are_bounded_in_size_count_and_time() {
    let limits = Limits { header_bytes: 16 * 1024, header_deadline: Duration::from_millis(300), ..Limits::default() };
    let fixture = EdgeFixture::with(limits).await;
    let start = "GET / HTTP/1.1\r\nHost: localhost\r\n";
    assert_eq!(fixture.ask(&format!("{start}X: {}\r\n\r\n", "a".repeat(8 * 1024))).await.status, 200);
    assert_eq!(fixture.ask(&format!("{start}X: {}\r\n\r\n", "a".repeat(20 * 1024))).await.status, 431);
    assert_eq!(fixture.ask(&format!("{start}{}\r\n", "X: a\r\n".repeat(1200))).await.status, 431);
    for slow in ["", "GET / HT", start] {
        let mut client = fixture.connect().await;
        client.send(slow).await;
        client.closed().await;
    }
    let mut second = fixture.connect().await;
    assert_eq!(second.ask(&format!("{start}\r\n")).await.status, 200);
    second.send("GET / HT").await;
    second.closed().await;
    within("the slots to be free", async {
        while fixture.metric("codius_edge_connections") > 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_idle_client_is_closed_and_a_busy_one_is_not() {
    let limits = Limits { keep_alive: Duration::from_millis(200), header_deadline: Duration::from_millis(200), ..Limits::default() };
    let fixture = EdgeFixture::with(limits).await;
    let halt = Halt::default();
    let stops = halt.clone();
    let pod = Pod::raw(move |_, mut stream| {
        let halt = stops.clone();
        async move {
            read_head(&mut stream).await;
            halt.stop().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    client.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    halt.reached().await;
    for bound in [Bound::KeepAlive, Bound::HeaderDeadline, Bound::KeepAlive] {
        fixture.outlast(bound).await;
    }
    halt.let_go();
    assert_eq!(client.answer(false).await.body, "ok");
    assert_eq!(client.closed().await, "");
}

#[tokio::test]
async fn a_client_that_stops_sending_its_body_is_told_so() {
    let fixture = EdgeFixture::with(Limits { first_byte: Duration::from_millis(200), ..Limits::default() }).await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let answer = fixture.ask(&format!("POST / HTTP/1.1\r\nHost: {name}\r\nContent-Length: 50\r\n\r\nhel")).await;
    assert_eq!(answer.status, 408);
}
