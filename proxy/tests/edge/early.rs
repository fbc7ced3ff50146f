//! Answers that come before the end of the request: the client gets them, however the upstream ends.

use std::net::Shutdown;
use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::kit::{EdgeFixture, read_head};

const REFUSAL: &[u8] = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 9\r\nconnection: close\r\n\r\ntoo large";
const BODY: usize = 2 * 1024 * 1024;

fn head(host: &str) -> String {
    format!("POST /pods HTTP/1.1\r\nHost: {host}\r\nContent-Length: {BODY}\r\n\r\n")
}

async fn refuse_at_once(mut stream: UnixStream) {
    read_head(&mut stream).await;
    stream.write_all(REFUSAL).await.unwrap();
}

/// The edge cannot write any more, and there is nothing to read yet.
async fn refuse_late(mut stream: UnixStream) {
    read_head(&mut stream).await;
    let stream = stream.into_std().unwrap();
    stream.shutdown(Shutdown::Read).unwrap();
    let mut stream = UnixStream::from_std(stream).unwrap();
    sleep(Duration::from_millis(50)).await;
    stream.write_all(REFUSAL).await.unwrap();
}

#[tokio::test]
async fn an_upstream_that_takes_no_more_is_still_heard() {
    for (refuse_late_too, rounds) in [(false, 50), (true, 5)] {
        let fixture = EdgeFixture::without_control(Limits::default());
        fixture
            .control(move |stream| async move { if refuse_late_too { refuse_late(stream).await } else { refuse_at_once(stream).await } });
        for round in 0..rounds {
            let mut client = fixture.connect().await;
            client.send(&head("localhost")).await;
            client.send(&"x".repeat(BODY)).await;
            let answer = client.answer(false).await;
            assert_eq!((answer.status, answer.body.as_str()), (413, "too large"), "round {round}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_is_still_sending_gets_its_answer() {
    let fixture = EdgeFixture::without_control(Limits::default());
    fixture.control(refuse_at_once);
    let unknown = format!("{}.localhost", "a".repeat(52));
    for (host, status) in [("localhost", 413), (&unknown, 404)] {
        for round in 0..5 {
            let mut client = fixture.connect().await;
            client.send(&head(host)).await;
            sleep(Duration::from_millis(50)).await;
            client.send(&"x".repeat(BODY)).await;
            let answer = client.answer(false).await;
            assert_eq!(answer.status, status, "round {round}: {answer:?}");
            assert_eq!(client.closed().await, "");
        }
    }
}

#[tokio::test]
async fn a_client_that_sends_for_ever_is_closed() {
    let fixture = EdgeFixture::without_control(Limits { linger: Duration::from_millis(100), ..Limits::default() });
    fixture.control(refuse_at_once);
    let mut client = fixture.connect().await;
    client.send(&head("localhost")).await;
    assert_eq!(client.answer(false).await.status, 413);
    assert_eq!(client.closed().await, "");
    sleep(Duration::from_millis(500)).await;
    client.send("x").await;
    sleep(Duration::from_millis(50)).await;
    assert!(client.stream.write_all(b"x").await.is_err(), "the connection is gone, not only its answer's side");
}
