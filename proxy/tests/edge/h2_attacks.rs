//! Frames sent to cost the edge more than they cost the client. Each flood ends in a closed connection or in a client that waits; and
//! everybody else is served meanwhile.

use std::sync::Arc;

use codiusd_proxy::Limits;
use http::Request;

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Outcome, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, field,
    frame, request,
};
use crate::kit::{Pod, within};
use crate::secure::{TlsFixture, empty};

/// Runs `flood` on a connection with one open stream (number 1), while others ask; whether it was closed.
async fn under(name: &'static str, count: u32, flood: impl Fn(u32, &str) -> Vec<u8> + Send + Sync + 'static) -> bool {
    let fixture = Arc::new(TlsFixture::with(Limits { header_bytes: 16 * 1024, ..Limits::default() }, |_| {}).await);
    let pod = Pod::mirror().await;
    let host = fixture.publish(1, pod.address);
    let mut client = Frames::open(&fixture, &host).await;
    let number = client.number();
    client.send(HEADERS, END_HEADERS, number, &request(&host, &[(":method", "POST")])).await;
    let host_of_flood = host.clone();
    let flooding = tokio::spawn(async move { client.flood(count, |number| flood(number, &host_of_flood)).await });
    let mut asked = 0;
    while !flooding.is_finished() || asked < 5 {
        let request = Request::get(format!("https://{host}/")).body(empty()).unwrap();
        let answer = within(&format!("an answer during {name}"), fixture.h2(&host).await.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
        asked += 1;
    }
    within(name, flooding).await.unwrap()
}

#[tokio::test]
async fn floods_of_headers_and_resets_close_the_connection() {
    let rapid = |number: u32, host: &str| {
        let stream = 3 + 2 * number;
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(host, &[])), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    assert!(under("rapid reset", 20_000, rapid).await);
    // The client makes the server reset (CVE-2025-8671): a window that grows by nothing, or too far, or data behind the end.
    let no_growth = |number: u32, host: &str| {
        let stream = 3 + 2 * number;
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(host, &[])), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
    };
    assert!(under("zero window updates", 20_000, no_growth).await);
    let overflow = |number: u32, host: &str| {
        let stream = 3 + 2 * number;
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(host, &[])), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255])]
            .concat()
    };
    assert!(under("windows that overflow", 20_000, overflow).await);
    let behind = |number: u32, host: &str| {
        let stream = 3 + 2 * number;
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(host, &[])), frame(DATA, END_STREAM, stream, b"x")].concat()
    };
    assert!(under("data behind the end", 20_000, behind).await);
    let malformed =
        |number: u32, host: &str| frame(HEADERS, END_HEADERS | END_STREAM, 3 + 2 * number, &request(host, &[("connection", "close")]));
    assert!(under("malformed requests", 20_000, malformed).await);
    let continued = |number: u32, _: &str| match number {
        0 => frame(HEADERS, END_STREAM, 3, &field(b"x", b"y")),
        _ => frame(CONTINUATION, 0, 3, &field(b"x", b"y")),
    };
    assert!(under("a continuation flood", 100_000, continued).await);
    let empty_continued = |number: u32, _: &str| match number {
        0 => frame(HEADERS, END_STREAM, 3, &[]),
        _ => frame(CONTINUATION, 0, 3, &[]),
    };
    assert!(under("a flood of empty continuations", 100_000, empty_continued).await);
}

#[tokio::test]
async fn floods_of_small_frames_hold_up_nobody_else() {
    let empty_data = |_: u32, _: &str| frame(DATA, 0, 1, &[]);
    assert!(under("empty data", 100_000, empty_data).await);
    for (name, kind, stream, payload) in [
        ("a settings flood", SETTINGS, 0, &[0, 4, 0, 0, 255, 255][..]),
        ("a ping flood", PING, 0, &[7; 8]),
        ("a flood of priorities", PRIORITY, 3, &[0, 0, 0, 0, 16]),
        ("a flood of frames of no known kind", 0xbb, 0, &[7; 8]),
    ] {
        let flood = move |_: u32, _: &str| frame(kind, 0, stream, payload);
        under(name, 5_000, flood).await;
    }
}

#[tokio::test]
async fn odd_settings_and_priorities_do_no_harm() {
    let fixture = TlsFixture::new().await;
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let mut client = Frames::open(&fixture, &name).await;
    // The largest table, the largest list of fields, no push, the largest frames, and a setting of no known kind.
    let settings =
        [[0, 1, 255, 255, 255, 255], [0, 6, 255, 255, 255, 255], [0, 2, 0, 0, 0, 0], [0, 5, 0, 255, 255, 255], [9, 9, 9, 9, 9, 9]].concat();
    assert!(client.send(SETTINGS, 0, 0, &settings).await);
    assert!(client.send(PRIORITY, 0, 5, &[0x80, 0, 0, 3, 255]).await);
    for _ in 0..3 {
        assert_eq!(client.ask(&request(&name, &[])).await, Outcome::Ok);
    }
    // A list of fields that is longer than allowed, out of one entry of the table: refused, and not kept.
    let mut bomb = request(&name, &[]);
    bomb.push(0x40);
    bomb.extend_from_slice(&field(b"x-bomb", &[b'x'; 3000])[1..]);
    bomb.extend([0xbe; 13_000]);
    assert!(matches!(client.ask(&bomb).await, Outcome::Other | Outcome::Reset | Outcome::Closed));
    assert_eq!(Frames::open(&fixture, &name).await.ask(&request(&name, &[])).await, Outcome::Ok);
}
