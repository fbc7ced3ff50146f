//! Bodies that flow: at once, both ways at the same time, and no further than the reader reads.

use std::time::Duration;

use codiusd_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;

use crate::kit::{EdgeFixture, Pod, read_head, within};
use crate::waits::Bound;

const MEGA: usize = 1024 * 1024;

/// A listener whose connections have socket buffers of a few kilobytes.
fn narrow_listener() -> tokio::net::TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(16).unwrap()
}

#[tokio::test]
async fn a_pod_may_answer_while_it_is_still_being_sent_to() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::on(narrow_listener(), |_, mut stream| async move {
        read_head(&mut stream).await;
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", 50 * MEGA);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut block = [0; 2048];
        loop {
            let read = stream.read(&mut block).await.unwrap();
            if read == 0 {
                return;
            }
            stream.write_all(&block[..read]).await.unwrap();
        }
    });
    let name = fixture.publish(1, pod.address);
    for upgrade in [false, true] {
        echo_through(&fixture, &name, upgrade).await;
    }
}

async fn echo_through(fixture: &EdgeFixture, name: &str, upgrade: bool) {
    let mut client = fixture.connect().await;
    // The pod answers 200 to an Upgrade it does not know: same bytes, other path through the edge.
    let extra = if upgrade { "Connection: upgrade\r\nUpgrade: x\r\n" } else { "" };
    client.send(&format!("POST / HTTP/1.1\r\nHost: {name}\r\n{extra}Content-Length: {}\r\n\r\n", 50 * MEGA)).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    let mut received = client.buffer.len();
    let (mut read, mut write) = client.stream.split();
    let send = async {
        let block = vec![7; MEGA];
        for _ in 0..50 {
            write.write_all(&block).await.unwrap();
        }
    };
    let receive = async {
        let mut block = vec![0; 64 * 1024];
        while received < 50 * MEGA {
            let count = read.read(&mut block).await.unwrap();
            assert!(count > 0 && block[..count].iter().all(|byte| *byte == 7), "closed or changed after {received}");
            received += count;
        }
    };
    within("50 MiB to come back", both(send, receive)).await;
}

/// Different wherever it is cut wrongly.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// The kernel moves the first one; the second one finds no pipe free.
#[tokio::test]
async fn a_large_answer_comes_whole_whoever_moves_it_and_as_far_as_it_came() {
    let fixture = EdgeFixture::with(Limits { pipes: 1, ..Limits::default() }).await;
    let pod = Pod::raw(|_, mut stream| async move {
        let content = pattern(3 * MEGA);
        while let Some(head) = read_head(&mut stream).await {
            let is_whole = head.starts_with("GET /whole ");
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", content.len()).as_bytes()).await.unwrap();
            stream.write_all(&content[..if is_whole { 3 * MEGA } else { 2 * MEGA }]).await.unwrap();
            if !is_whole {
                return;
            }
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n");
    let (mut first, mut second) = (fixture.connect().await, fixture.connect().await);
    for path in ["/whole", "/whole", "/cut"] {
        // Neither is read before both have begun.
        first.send(&ask(path)).await;
        second.send(&ask(path)).await;
        for client in [&mut first, &mut second] {
            assert!(client.head().await.starts_with("HTTP/1.1 200"));
        }
        for client in [&mut first, &mut second] {
            let expected = pattern(if path == "/whole" { 3 * MEGA } else { 2 * MEGA });
            client.fill(expected.len()).await;
            assert!(client.buffer == expected, "{path}: {} bytes, or other ones", client.buffer.len());
            client.buffer.clear();
        }
    }
    for client in [&mut first, &mut second] {
        assert_eq!(client.closed().await, "", "nothing else of an answer that broke off");
    }
    assert_eq!(pod.accepted(), 2, "what is over is used again");
    assert_eq!(fixture.counted("codius_edge_bytes_total", &[("direction", "sent")]), (16 * MEGA) as f64);
}

async fn both(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::join!(one, other);
}

#[tokio::test]
async fn a_tunnel_echoes_more_than_any_buffer_holds() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::on(narrow_listener(), |_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")).await;
    assert_eq!(answer.status, 101);
    let (mut read, mut write) = client.stream.split();
    let send = async {
        let block = vec![7; MEGA];
        for _ in 0..50 {
            write.write_all(&block).await.unwrap();
        }
        write.shutdown().await.unwrap();
    };
    let receive = async {
        let mut sink = tokio::io::sink();
        assert_eq!(tokio::io::copy(&mut read, &mut sink).await.unwrap(), 50 * MEGA as u64);
    };
    within("50 MiB to come back through the tunnel", both(send, receive)).await;
}

#[tokio::test]
async fn events_pass_one_by_one_and_silence_between_them_is_no_error() {
    let fixture = EdgeFixture::with(codiusd_proxy::Limits { first_byte: Duration::from_millis(100), ..Default::default() }).await;
    let (next, events) = mpsc::unbounded_channel::<&'static str>();
    let events = std::sync::Arc::new(tokio::sync::Mutex::new(events));
    let pod = Pod::raw(move |_, mut stream| {
        let events = std::sync::Arc::clone(&events);
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await.unwrap();
            while let Some(event) = events.lock().await.recv().await {
                stream.write_all(event.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    client.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    assert!(client.head().await.contains("text/event-stream"));
    next.send("data: 1\n\n").unwrap();
    client.until(b"data: 1\n\n").await;
    for _ in 0..3 {
        fixture.outlast(Bound::FirstByte).await;
    }
    next.send("data: 2\n\n").unwrap();
    client.until(b"data: 2\n\n").await;
    drop(next);
    client.until(b"0\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_upstream_request_along() {
    let fixture = EdgeFixture::new().await;
    let (saw, mut seen) = mpsc::unbounded_channel();
    let pod = Pod::raw(move |_, mut stream| {
        let saw = saw.clone();
        async move {
            let head = read_head(&mut stream).await.unwrap();
            saw.send("the request").unwrap();
            if head.contains("/begun") {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nbegun").await.unwrap();
            }
            let mut rest = Vec::new();
            let _reset_counts_too = stream.read_to_end(&mut rest).await;
            saw.send("the end").unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    for path in ["/begun", "/unbegun"] {
        let mut client = fixture.connect().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert_eq!(within("the pod to be called", seen.recv()).await, Some("the request"));
        if path == "/begun" {
            client.until(b"begun").await;
        }
        drop(client);
        assert_eq!(within("the pod to see the end", seen.recv()).await, Some("the end"));
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer() {
    let fixture = EdgeFixture::with(Limits { send_stall: Duration::from_millis(500), ..Limits::default() }).await;
    let (wrote, mut written) = mpsc::unbounded_channel();
    let pod = Pod::on(narrow_listener(), move |_, mut stream| {
        let wrote = wrote.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let block = vec![7; 64 * 1024];
            while stream.write_all(&block).await.is_ok() {
                let _ = wrote.send(Some(block.len()));
            }
            let _ = wrote.send(None);
        }
    });
    let name = fixture.publish(1, pod.address);
    let mut client = fixture.connect().await;
    client.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    client.head().await;
    let mut total = 0;
    // Until the edge gives the client up.
    while let Some(count) = within("the pod to write, or to be let go", written.recv()).await.unwrap() {
        total += count;
        assert!(total < 32 * MEGA, "the pod wrote {total} bytes that nobody read");
    }
    assert_eq!(fixture.counted("codius_edge_connections_cut_total", &[("reason", "send_stall")]), 1.0);
}
