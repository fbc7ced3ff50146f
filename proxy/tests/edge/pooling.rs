//! Upstream connections: reused within one incarnation of a pod, never across, and never trusted to be alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::AsyncWriteExt;

use crate::kit::{EdgeFixture, Pod, read_head, within};

fn get(name: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")
}

#[tokio::test]
async fn a_connection_serves_one_incarnation_only() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::mirror().await;
    let mut client = fixture.connect().await;
    let name = fixture.publish(1, pod.address);
    for _ in 0..5 {
        assert_eq!(client.ask(&get(&name)).await.status, 200);
    }
    assert_eq!(pod.accepted(), 1, "requests in a row share a connection");
    let again = fixture.publish(1, pod.address);
    for _ in 0..5 {
        assert_eq!(client.ask(&get(&again)).await.status, 200);
    }
    assert_eq!(pod.accepted(), 2, "a new incarnation on the same address gets its own");
    let other = fixture.publish(2, pod.address);
    assert_eq!(client.ask(&get(&other)).await.status, 200);
    assert_eq!(pod.accepted(), 3, "another pod on the same address gets its own");
    assert_eq!(client.ask(&get(&again)).await.status, 200);
    assert_eq!(pod.accepted(), 3);
}

/// Serves one request per connection, then closes it when the second arrives, before any byte of an answer.
async fn faithless() -> (Pod, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let pod = Pod::raw(move |_, mut stream| {
        let count = Arc::clone(&count);
        async move {
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    (pod, requests)
}

#[tokio::test]
async fn what_is_lost_on_a_reused_connection_is_sent_again_only_when_that_is_safe() {
    let fixture = EdgeFixture::new().await;
    let cases = [
        ("GET / HTTP/1.1\r\nHost: NAME\r\n\r\n", 200, 3),
        ("PUT / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 0\r\n\r\n", 200, 3),
        ("POST / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 0\r\n\r\n", 502, 2),
        ("PUT / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 2\r\n\r\nhi", 502, 2),
    ];
    for (number, (request, status, requests)) in (1..).zip(cases) {
        let (pod, count) = faithless().await;
        let name = fixture.publish(number, pod.address);
        let mut client = fixture.connect().await;
        assert_eq!(client.ask(&get(&name)).await.status, 200);
        assert_eq!(client.ask(&request.replace("NAME", &name)).await.status, status, "{request}");
        assert_eq!(count.load(Ordering::SeqCst), requests, "{request}");
    }
}

#[tokio::test]
async fn a_failure_amid_the_answer_is_not_sent_again() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 20").await.unwrap();
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    assert_eq!(client.ask(&get(&name)).await.status, 200);
    assert_eq!(client.ask(&get(&name)).await.status, 502);
    assert_eq!(pod.accepted(), 1);
}

#[tokio::test]
async fn idle_connections_are_bounded_in_number_and_time() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let pod = Pod::raw(move |_, mut stream| {
        let count = Arc::clone(&count);
        async move {
            while read_head(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let wait_for = |number: usize, what: &'static str| {
        let closed = Arc::clone(&closed);
        within(what, async move {
            while closed.load(Ordering::SeqCst) < number {
                tokio::task::yield_now().await;
            }
        })
    };
    let none = EdgeFixture::with(Limits { idle_upstream: 0, ..Limits::default() }).await;
    let name = none.publish(1, pod.address);
    assert_eq!(none.ask(&get(&name)).await.status, 200);
    wait_for(1, "a connection without a place to be closed").await;
    let brief = EdgeFixture::with(Limits { idle_upstream_timeout: Duration::from_millis(100), ..Limits::default() }).await;
    let name = brief.publish(1, pod.address);
    assert_eq!(brief.ask(&get(&name)).await.status, 200);
    wait_for(2, "an idle connection to be closed").await;
    let fixture = EdgeFixture::new().await;
    let name = fixture.publish(1, pod.address);
    assert_eq!(fixture.ask(&get(&name)).await.status, 200);
    assert!(fixture.routes.withdraw(&name.split('.').next().unwrap().parse().unwrap()));
    wait_for(3, "a withdrawn pod's idle connection to be closed").await;
}

#[tokio::test]
async fn two_edges_share_a_process_and_even_a_route_table() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let second = EdgeFixture::beside(&fixture);
    for _ in 0..10 {
        assert_eq!(fixture.ask(&get(&name)).await.status, 200);
        assert_eq!(second.ask(&get(&name)).await.status, 200);
    }
    assert_eq!(pod.accepted(), 2, "each edge has a connection of its own");
    second.edge.drain(Duration::from_secs(5)).await;
    for _ in 0..10 {
        assert_eq!(fixture.ask(&get(&name)).await.status, 200);
    }
}
