//! HTTP/2 to the edge, HTTP/1.1 from it to pods.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use codiusd_proxy::Limits;
use futures::future::join_all;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Outcome, first_field, request};
use crate::kit::{Pod, read_head, within};
use crate::secure::{Body, TlsFixture, empty, full, get, text};
use crate::waits::{Halt, until};

/// Sends back the bytes of each request's body as they come; they are as many as Content-Length says.
async fn echo() -> Pod {
    Pod::raw(|_, mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse::<u64>().unwrap());
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await.unwrap();
            let (mut reading, mut writing) = stream.split();
            if tokio::io::copy(&mut (&mut reading).take(length), &mut writing).await.unwrap() < length {
                return;
            }
        }
    })
    .await
}

/// `count` pieces of a body, each filled with its number.
fn pieces(count: u8, size: usize) -> Body {
    let frames = (0..count).map(move |number| Ok(Frame::data(Bytes::from(vec![number; size]))));
    BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))
}

#[tokio::test]
async fn a_pod_sees_a_request_of_http_1() {
    let fixture = TlsFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let request = Request::get(format!("https://{name}:8443/path?query"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-forwarded-for", "6.6.6.6")
        .header("expect", "100-continue")
        .header("te", "trailers")
        .body(empty())
        .unwrap();
    let response = within("an answer", fixture.h2(&name).await.send_request(request)).await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (Version::HTTP_2, 200));
    let seen = text(response).await;
    let mut lines: Vec<&str> = seen.trim_end().split("\r\n").filter(|line| !line.starts_with("x-request-id: ")).collect();
    lines[1..].sort_unstable();
    let host = format!("{name}:8443");
    let expected = [
        "GET /path?query HTTP/1.1",
        "connection: te",
        "cookie: a=1; b=2",
        &format!("host: {host}"),
        "te: trailers",
        "x-forwarded-for: 127.0.0.1",
        &format!("x-forwarded-host: {host}"),
        "x-forwarded-proto: https",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_large_body_goes_there_and_back() {
    const PIECE: usize = 256 * 1024;
    let fixture = TlsFixture::new().await;
    let pod = echo().await;
    let name = fixture.publish(1, pod.address);
    let mut sender = fixture.h2(&name).await;
    let request = Request::post(format!("https://{name}/")).header("content-length", 64 * PIECE).body(pieces(64, PIECE)).unwrap();
    let response = within("an answer", sender.send_request(request)).await.unwrap();
    let echoed = within("the echo", response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(echoed.len(), 64 * PIECE);
    assert!(echoed.chunks(PIECE).enumerate().all(|(number, piece)| piece.iter().all(|byte| usize::from(*byte) == number)));
}

#[tokio::test]
async fn many_requests_share_a_connection_and_no_bytes() {
    const REQUESTS: usize = 1000;
    let fixture = TlsFixture::new().await;
    let pod = echo().await;
    let name = fixture.publish(1, pod.address);
    let sender = fixture.h2(&name).await;
    let asked = (0..REQUESTS).map(|number| {
        let (mut sender, name) = (sender.clone(), &name);
        async move {
            let body = format!("request {number}; ").repeat(number % 50 * 50 + 1);
            let request = Request::post(format!("https://{name}/{number}")).body(full(body.clone())).unwrap();
            let response = within("an answer", sender.send_request(request)).await.unwrap();
            assert_eq!(text(response).await, body);
        }
    });
    join_all(asked).await;
    // Only one connection's worth of requests was ever under way.
    assert!(pod.accepted() <= 100, "{}", pod.accepted());
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let fixture = TlsFixture::with(Limits { h2_streams: 3, ..Limits::default() }, |_| {}).await;
    let (there, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (count, go) = (Arc::clone(&there), Arc::clone(&release));
    let pod = Pod::raw(move |_, mut stream| {
        let (count, go) = (Arc::clone(&count), Arc::clone(&go));
        async move {
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
            go.acquire().await.unwrap().forget();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut sender = fixture.h2(&name).await;
    // The client knows the limit once it has seen the settings, which come before any answer.
    release.add_permits(1);
    assert_eq!(within("an answer", sender.send_request(get(&name, "/"))).await.unwrap().status(), 200);
    let mut requests: JoinSet<_> = (0..6).map(|_| sender.send_request(get(&name, "/"))).collect();
    until("three requests to arrive", async || there.load(Ordering::SeqCst) >= 4).await;
    // A fourth would have arrived before what others ask for on connections that they open only now; and while one after the other ends.
    let other = Pod::mirror().await;
    let other = fixture.publish(2, other.address);
    for arrived in 4..10 {
        for _ in 0..3 {
            assert_eq!(within("an answer", fixture.h2(&other).await.send_request(get(&other, "/"))).await.unwrap().status(), 200);
        }
        assert!(there.load(Ordering::SeqCst) <= arrived, "{arrived} may have arrived");
        release.add_permits(1);
        assert_eq!(within("an answer", requests.join_next()).await.unwrap().unwrap().unwrap().status(), 200);
    }
    assert_eq!(there.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn what_http_2_does_not_offer_is_refused() {
    let fixture = TlsFixture::with(Limits { header_bytes: 16 * 1024, ..Limits::default() }, |_| {}).await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let mut sender = fixture.h2(&name).await;
    let mut ask = async |request: Request<Body>| within("an answer", sender.send_request(request)).await.unwrap().status().as_u16();
    let request = |method: Method, target: String| Request::builder().method(method).uri(target).body(empty()).unwrap();
    assert_eq!(ask(request(Method::CONNECT, format!("{name}:443"))).await, 405);
    assert_eq!(ask(request(Method::TRACE, format!("https://{name}/"))).await, 405);
    let mut two_names = get(&name, "/");
    two_names.headers_mut().insert("host", "localhost".parse().unwrap());
    assert_eq!(ask(two_names).await, 400);
    let mut large = get(&name, "/");
    large.headers_mut().insert("x-large", "x".repeat(20 * 1024).parse().unwrap());
    assert_eq!(ask(large).await, 431);
    assert_eq!(pod.accepted(), 0);
    assert_eq!(ask(get(&name, "/")).await, 200);
}

#[tokio::test]
async fn a_connection_is_for_one_host() {
    let fixture = TlsFixture::new().await;
    let (one, other) = (Pod::mirror().await, Pod::mirror().await);
    let (one_name, other_name) = (fixture.publish(1, one.address), fixture.publish(2, other.address));
    let mut sender = fixture.h2(&one_name).await;
    for (host, status) in [(one_name.as_str(), 200), (&other_name, 421), ("localhost", 421), (&one_name, 200)] {
        assert_eq!(within("an answer", sender.send_request(get(host, "/"))).await.unwrap().status(), status, "{host}");
    }
    assert_eq!(other.accepted(), 0);
}

#[tokio::test]
async fn trailers_pass() {
    let fixture = TlsFixture::new().await;
    let pod =
        Pod::answering("HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n").await;
    let name = fixture.publish(1, pod.address);
    let mut request = get(&name, "/");
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let response = within("an answer", fixture.h2(&name).await.send_request(request)).await.unwrap();
    let body = within("the body", response.into_body().collect()).await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "42");
    assert_eq!(body.to_bytes(), "hello");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_arrives() {
    let fixture = TlsFixture::new().await;
    let pod = Pod::answering("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    let name = fixture.publish(1, pod.address);
    let mut sender = fixture.h2(&name).await;
    let endless = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
    let request = Request::post(format!("https://{name}/")).body(BodyExt::boxed(endless)).unwrap();
    let response = within("an answer", sender.send_request(request)).await.unwrap();
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (403, "no"));
    assert_eq!(within("an answer", sender.send_request(get("localhost", "/"))).await.unwrap().status(), 421);
}

#[tokio::test]
async fn who_takes_back_all_it_asks_for_is_cut_off() {
    let fixture = TlsFixture::with(Limits { h2_cancelled: 20, ..Limits::default() }, |_| {}).await;
    let pod = Pod::raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        if head.starts_with("GET /slow") {
            let _gone = stream.read_to_end(&mut Vec::new()).await;
        } else {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut sender = fixture.h2(&name).await;
    // As many as have finished may be taken back, and twenty more.
    for _ in 0..10 {
        assert_eq!(within("an answer", sender.send_request(get(&name, "/"))).await.unwrap().status(), 200);
    }
    for number in 0.. {
        assert!(number <= 60, "still served");
        if within("the connection to take a request", sender.ready()).await.is_err() {
            assert!(number >= 30, "cut off after {number}");
            break;
        }
        let asked = pod.accepted();
        let mut answer = Box::pin(sender.send_request(get(&name, "/slow")));
        let closed = tokio::select! {
            answer = &mut answer => answer.is_err(),
            () = until("the request to arrive", async || pod.accepted() > asked) => false,
        };
        if closed {
            assert!(number >= 30, "cut off after {number}");
            break;
        }
    }
    assert_eq!(within("an answer", fixture.h2(&name).await.send_request(get(&name, "/"))).await.unwrap().status(), 200);
    assert_eq!(fixture.fixture.counted("codius_edge_connections_cut_total", &[("reason", "abusive")]), 1.0);
}

#[tokio::test]
async fn what_is_no_http_2_is_counted() {
    let fixture = TlsFixture::new().await;
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    // Not its preface; a frame that no stream 0 may have.
    let table = [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), {
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), settings, b"\0\0\x01\0\0\0\0\0\0x"].concat()
    }];
    for (number, bytes) in (1_u8..).zip(&table) {
        let mut stream = fixture.handshake(&fixture.authority.client(&["h2"]), "localhost").await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let _closed_or_reset = within("the connection to be closed", stream.read_to_end(&mut Vec::new())).await;
        within("it to be counted", async {
            while fixture.fixture.counted("codius_edge_connections_cut_total", &[("reason", "malformed")]) < f64::from(number) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    // Leaving is no fault.
    drop(fixture.h2("localhost").await);
    assert_eq!(fixture.fixture.metric("codius_edge_connections_cut_total"), 2.0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let limits = Limits { keep_alive: Duration::from_millis(300), header_deadline: Duration::from_millis(600), ..Limits::default() };
    let fixture = TlsFixture::with(limits, |_| {}).await;
    let halt = Halt::default();
    let stops = halt.clone();
    let pod = Pod::raw(move |_, mut stream| {
        let halt = stops.clone();
        async move {
            read_head(&mut stream).await;
            halt.stop().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let closed = async |sender: &SendRequest<Body>| {
        let begun = Instant::now();
        until("the connection to be closed", async || sender.is_closed()).await;
        begun.elapsed().as_millis()
    };
    let mut busy = fixture.h2(&name).await;
    let answer = tokio::spawn(busy.send_request(get(&name, "/")));
    halt.reached().await;
    // While the busy one waits, others come and are closed for being idle: the times that bound them pass, one after the other.
    let late = closed(&fixture.h2(&name).await).await;
    assert!((400..3000).contains(&late), "without a request after {late} ms");
    assert_eq!(fixture.fixture.counted("codius_edge_connections_cut_total", &[("reason", "header_deadline")]), 1.0);
    for _ in 0..2 {
        let mut sender = fixture.h2("localhost").await;
        assert_eq!(within("an answer", sender.send_request(get("localhost", "/"))).await.unwrap().status(), 200);
        let idle = closed(&sender).await;
        assert!((200..3000).contains(&idle), "idle for {idle} ms");
    }
    halt.let_go();
    assert_eq!(within("an answer", answer).await.unwrap().unwrap().status(), 200);
    let idle = closed(&busy).await;
    assert!((200..3000).contains(&idle), "idle for {idle} ms after a long request");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let limits = Limits { send_stall: Duration::from_millis(400), header_deadline: Duration::from_millis(100), ..Limits::default() };
    let fixture = TlsFixture::with(limits, |_| {}).await;
    let pod = Pod::raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").as_bytes()).await.unwrap();
        // The deaf client's is closed before all is sent.
        let _gone = stream.write_all(&vec![b'x'; LENGTH]).await;
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut slow = fixture.h2_narrow(&name, 64 * 1024).await;
    let mut body = within("an answer", slow.send_request(get(&name, "/"))).await.unwrap().into_body();
    let mut piece = async || within("a piece", body.frame()).await.map_or(0, |frame| frame.unwrap().into_data().unwrap().len());
    let mut deaf = fixture.h2(&name).await;
    let response = within("an answer", deaf.send_request(get(&name, "/"))).await.unwrap();
    // The slow one takes a little at a time for longer than the deaf one may take nothing.
    let (mut length, mut turns) = (0, interval(Duration::from_millis(20)));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !deaf.is_closed() {
        turns.tick().await;
        length += piece().await;
        assert!(length < LENGTH, "the deaf client is still connected");
    }
    assert!(within("what had come", response.into_body().collect()).await.is_err());
    loop {
        match piece().await {
            0 => break,
            more => length += more,
        }
    }
    assert_eq!(length, LENGTH);
}

#[tokio::test]
async fn drain_finishes_requests_under_way() {
    const PIECE: usize = 64 * 1024;
    let fixture = TlsFixture::new().await;
    let (arrived, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (here, go) = (Arc::clone(&arrived), Arc::clone(&release));
    let pod = Pod::raw(move |_, mut stream| {
        let (here, go) = (Arc::clone(&here), Arc::clone(&go));
        async move {
            read_head(&mut stream).await;
            here.add_permits(1);
            go.acquire().await.unwrap().forget();
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 64 * PIECE).as_bytes()).await.unwrap();
            stream.write_all(&vec![b'x'; 64 * PIECE]).await.unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let idle = fixture.h2(&name).await;
    let mut sender = fixture.h2(&name).await;
    let requests: Vec<_> = (0..3).map(|_| tokio::spawn(sender.send_request(get(&name, "/")))).collect();
    within("the requests to arrive", arrived.acquire_many(3)).await.unwrap().forget();
    let address = fixture.fixture.edge.tls_addresses()[0];
    let drained = tokio::spawn(fixture.fixture.edge.drain(Duration::from_secs(30)));
    within("the listener and the idle connection to be closed", async {
        while tokio::net::TcpStream::connect(address).await.is_ok() || !idle.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    release.add_permits(3);
    for request in requests {
        let response = within("an answer", request).await.unwrap().unwrap();
        assert_eq!(within("the body", response.into_body().collect()).await.unwrap().to_bytes().len(), 64 * PIECE);
    }
    assert!(within("the connection to go", sender.send_request(get(&name, "/"))).await.is_err());
    within("the drain to end", drained).await.unwrap();
}

#[tokio::test]
async fn informational_answers_come_before_the_answer() {
    let fixture = TlsFixture::new().await;
    let pod = Pod::answering(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    )
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = Frames::open(&fixture, &name).await;
    let number = client.number();
    client.send(HEADERS, END_HEADERS | END_STREAM, number, &request(&name, &[])).await;
    let (mut heads, mut content) = (Vec::new(), Vec::new());
    while let Some((kind, flags, stream, payload)) = client.next().await {
        match kind {
            HEADERS if stream == number => heads.push((first_field(&payload), flags & END_STREAM)),
            DATA if stream == number => content.extend_from_slice(&payload),
            _ => continue,
        }
        if flags & END_STREAM != 0 {
            break;
        }
    }
    // 200 is in the static table, and 103 isn't.
    let [first, second, last] = &heads[..] else { panic!("two that inform and one that answers: {heads:?}") };
    assert!(first.0 != Some(0x88) && second.0 != Some(0x88) && *last == (Some(0x88), 0), "{heads:?}");
    assert_eq!(content, b"hi");
}

#[tokio::test]
async fn an_expected_100_is_passed_on() {
    let fixture = TlsFixture::new().await;
    let pod = Pod::raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("expect: 100-continue"), "{head}");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await.unwrap();
        stream.write_all(&body).await.unwrap();
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut client = Frames::open(&fixture, &name).await;
    let number = client.number();
    let fields = [(":method", "POST"), ("content-length", "5"), ("expect", "100-continue")];
    client.send(HEADERS, END_HEADERS, number, &request(&name, &fields)).await;
    // 100: no status of the static table, and before anything of the body was sent.
    assert_eq!(client.outcome(number).await, Outcome::Other);
    client.send(DATA, END_STREAM, number, b"hello").await;
    assert_eq!(client.outcome(number).await, Outcome::Ok);
}

#[tokio::test]
async fn a_request_that_is_taken_back_ends_at_its_pod() {
    let fixture = TlsFixture::new().await;
    let (ended, end) = tokio::sync::oneshot::channel();
    let ended = std::sync::Mutex::new(Some(ended));
    let pod = Pod::raw(move |_, mut stream| {
        let ended = ended.lock().unwrap().take();
        async move {
            read_head(&mut stream).await.unwrap();
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
            ended.unwrap().send(()).unwrap();
        }
    })
    .await;
    let name = fixture.publish(1, pod.address);
    let mut sender = fixture.h2(&name).await;
    let answer = sender.send_request(get(&name, "/"));
    within("the request to arrive", async {
        while pod.accepted() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(answer);
    within("the pod's connection to be closed", end).await.unwrap();
    assert_eq!(
        within("the connection to be closed", async {
            while fixture.fixture.counted("codius_edge_requests_total", &[("to", "pod"), ("method", "read"), ("status", "client_closed")])
                < 1.0
            {
                tokio::task::yield_now().await;
            }
            fixture.fixture.counted("codius_edge_connections_cut_total", &[("reason", "abusive")])
        })
        .await,
        0.0
    );
}
