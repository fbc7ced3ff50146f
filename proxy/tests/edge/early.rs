//! Answers that come before the end of the request: the client gets them, however the upstream ends.

use std::net::Shutdown;
use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::interval;

use crate::kit::{EdgeFixture, Pod, read_head, within};
use crate::waits::Halt;

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
async fn refuse_late(mut stream: UnixStream, halt: Halt) {
    read_head(&mut stream).await;
    let stream = stream.into_std().unwrap();
    stream.shutdown(Shutdown::Read).unwrap();
    let mut stream = UnixStream::from_std(stream).unwrap();
    halt.stop().await;
    stream.write_all(REFUSAL).await.unwrap();
}

#[tokio::test]
async fn an_upstream_that_takes_no_more_is_still_heard() {
    let fixture = EdgeFixture::without_control(Limits::default());
    fixture.control(refuse_at_once);
    for round in 0..50 {
        let mut client = fixture.connect().await;
        client.send(&head("localhost")).await;
        client.send(&"x".repeat(BODY)).await;
        let answer = client.answer(false).await;
        assert_eq!((answer.status, answer.body.as_str()), (413, "too large"), "round {round}: {answer:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_has_taken_no_more_for_a_while_is_still_heard() {
    let (fixture, halt) = (EdgeFixture::without_control(Limits::default()), Halt::default());
    let stops = halt.clone();
    fixture.control(move |stream| refuse_late(stream, stops.clone()));
    let name = fixture.publish(1, Pod::mirror().await.address);
    let (begin, rest) = (1024, BODY - 1024);
    for round in 0..5 {
        let mut client = fixture.connect().await;
        client.send(&head("localhost")).await;
        halt.reached().await;
        client.send(&"x".repeat(begin)).await;
        // Nothing tells that the edge has tried to pass it on: it has had the time when others that came later are answered.
        for _ in 0..5 {
            assert_eq!(fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await.status, 200);
        }
        halt.let_go();
        client.send(&"x".repeat(rest)).await;
        let answer = client.answer(false).await;
        assert_eq!((answer.status, answer.body.as_str()), (413, "too large"), "round {round}: {answer:?}");
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
            // The answer is there, unread.
            assert!(within("the answer to come", client.stream.peek(&mut [0])).await.unwrap() > 0);
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
    let mut ticks = interval(Duration::from_millis(5));
    within("the connection to be gone, not only its answer's side", async {
        while client.stream.write_all(b"x").await.is_ok() {
            ticks.tick().await;
        }
    })
    .await;
}
