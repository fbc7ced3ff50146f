//! Connections that give up what they need only for requests while they have none, and what must not be lost by that.

use std::sync::Arc;
use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::kit::{Client, EdgeFixture, PATIENCE, Pod, read_head, within};
use crate::secure::TlsFixture;

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Connections rest as soon as they may.
fn tired() -> Limits {
    Limits::default()
}

async fn rests(fixture: &EdgeFixture, count: f64) {
    let is_so = async {
        while fixture.metric("codius_edge_connections_parked") != count {
            tokio::task::yield_now().await;
        }
    };
    within(&format!("{count} connections to rest"), is_so).await;
}

#[tokio::test]
async fn the_next_request_may_come_in_any_shape() {
    let fixture = EdgeFixture::with(tired()).await;
    let mut client = fixture.connect().await;
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    for request in [GET, GET, &long, "\r\nGET / HTTP/1.0\r\nConnection: keep-alive\r\nHost: localhost\r\n\r\n"] {
        assert_eq!(client.ask(request).await.status, 200, "{request}");
        rests(&fixture, 1.0).await;
    }
    let (last, most) = GET.as_bytes().split_last().unwrap();
    for byte in most {
        client.stream.write_all(&[*byte]).await.unwrap();
    }
    rests(&fixture, 0.0).await;
    client.stream.write_all(&[*last]).await.unwrap();
    assert_eq!(client.answer(false).await.status, 200);
    rests(&fixture, 1.0).await;
    let post = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.ask(post).await.status, 200);
    assert_eq!(client.ask(GET).await.status, 200);
    rests(&fixture, 1.0).await;
    let both = "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(client.ask(both).await.status, 400, "what is looked for in heads is looked for after a rest");
}

#[tokio::test]
async fn what_has_come_of_the_next_request_is_kept() {
    let fixture = EdgeFixture::with(tired()).await;
    for split in 1..GET.len() {
        let (begun, rest) = GET.split_at(split);
        let mut client = fixture.connect().await;
        assert_eq!(client.ask(&format!("{GET}{begun}")).await.status, 200, "{begun:?}");
        assert_eq!(client.ask(rest).await.status, 200, "{begun:?}");
    }
    let mut client = fixture.connect().await;
    client.send(&GET.repeat(20)).await;
    for number in 0..20 {
        assert_eq!(client.answer(false).await.status, 200, "answer {number}");
    }
}

#[tokio::test]
async fn an_answer_is_given_whole_to_who_is_slow_to_take_it() {
    const LENGTH: usize = 8 * 1024 * 1024;
    const PART: usize = 256 * 1024;
    let fixture = EdgeFixture::with(tired()).await;
    let under_way = Arc::new(Notify::new());
    let begun = Arc::clone(&under_way);
    let pod = Pod::raw(move |_, mut stream| {
        let begun = Arc::clone(&begun);
        async move {
            while read_head(&mut stream).await.is_some() {
                stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").as_bytes()).await.unwrap();
                stream.write_all(&vec![b'a'; PART]).await.unwrap();
                begun.notify_one();
                stream.write_all(&vec![b'a'; LENGTH - PART]).await.unwrap();
            }
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    client.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").repeat(3)).await;
    for _ in 0..3 {
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
        within("bytes to be on their way before any is taken", under_way.notified()).await;
        client.fill(LENGTH).await;
        client.buffer.drain(..LENGTH);
    }
    rests(&fixture, 1.0).await;
}

#[tokio::test]
async fn rest_ends_where_idleness_does() {
    let fixture = EdgeFixture::with(Limits { keep_alive: Duration::from_millis(300), ..tired() }).await;
    let mut client = fixture.connect().await;
    assert_eq!(client.ask(GET).await.status, 200);
    assert_eq!(client.closed().await, "", "after the time that an idle connection gets");
    rests(&fixture, 0.0).await;

    let fixture = EdgeFixture::with(tired()).await;
    let mut leaves = fixture.connect().await;
    assert_eq!(leaves.ask(GET).await.status, 200);
    rests(&fixture, 1.0).await;
    drop(leaves);
    rests(&fixture, 0.0).await;

    let mut stays = fixture.connect().await;
    assert_eq!(stays.ask(GET).await.status, 200);
    rests(&fixture, 1.0).await;
    within("the drain, which no connection at rest holds up", fixture.edge.drain(PATIENCE)).await;
    assert_eq!(stays.closed().await, "");
}

#[tokio::test]
async fn rest_under_tls_ends_with_a_goodbye() {
    let fixture = TlsFixture::with(tired(), |_| {}).await;
    let config = fixture.authority.client(&["http/1.1"]);
    let stream = fixture.handshake(&config, "localhost").await.unwrap();
    let mut client = Client { stream, buffer: Vec::new() };
    for _ in 0..3 {
        assert_eq!(client.ask(GET).await.status, 200);
        rests(&fixture.fixture, 1.0).await;
    }
    let TlsFixture { fixture, .. } = fixture;
    within("the drain", fixture.edge.drain(PATIENCE)).await;
    assert_eq!(client.ended().await.unwrap(), 0, "close_notify, not just an end");
}
