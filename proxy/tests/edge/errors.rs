//! What the edge itself says: to whom, and no more than they need.

use codiusd_proxy::{Limits, PodKey, WithdrawReason};
use jiff::Timestamp;

use crate::kit::{EdgeFixture, Pod, dead_address};

#[tokio::test]
async fn a_person_gets_a_page_that_says_what_is_wrong_and_when() {
    let fixture = EdgeFixture::without_control(Limits::default());
    let unknown = format!("{}.localhost", "a".repeat(52));
    let down = fixture.publish(1, dead_address());
    let broken = fixture.publish(2, Pod::answering("").await.address);
    let begun = Timestamp::now();
    let cases = [
        (unknown.as_str(), 404, "There is no pod with this name"),
        (&down, 503, "The pod is not accepting connections"),
        (&broken, 502, "The pod closed the connection"),
        ("localhost", 503, "This host is starting or stopping"),
    ];
    for (host, status, message) in cases {
        let page = fixture.ask(&format!("GET /x HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n\r\n")).await;
        assert_eq!((page.status, page.header("server"), page.header("cache-control")), (status, Some("codiusd"), Some("no-store")));
        assert!(page.body.contains(message), "{page:?}");
        for foreign in ["http:", "https:", "//", "src=", "href=", "<script"] {
            assert!(!page.body.contains(foreign), "needs {foreign}: {page:?}");
        }
        let time = time_of(&page.body);
        assert!(begun.as_second() <= time.as_second() && time <= Timestamp::now(), "{page:?}");
        let json = fixture.ask(&format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!((json.status, json.header("server")), (status, Some("codiusd")));
        let json: serde_json::Value = serde_json::from_str(&json.body).unwrap();
        assert_eq!(json["statusCode"], status);
        assert!(json["message"].as_str().unwrap().contains(message), "{json}");
    }
}

#[tokio::test]
async fn a_visitor_is_told_what_has_become_of_a_pod() {
    let fixture = EdgeFixture::new().await;
    let pod = Pod::mirror().await;
    let key = PodKey::from_digest([1; 32]);
    let at = Timestamp::now();
    let time = at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let cases = [
        (WithdrawReason::Expired(at), 404, format!("This pod has expired: the time it was paid for is over. ({time})"), "pod_expired"),
        (WithdrawReason::Exited(at), 404, format!("This pod has stopped by itself. ({time})"), "pod_exited"),
        (WithdrawReason::Restarting(at), 503, "The pod is being restarted. Try again shortly.".to_owned(), "pod_restarting"),
    ];
    for (gone, status, message, reason) in cases {
        let name = fixture.publish(1, pod.address);
        let request = |accept: &str| format!("GET / HTTP/1.1\r\nHost: {name}\r\nAccept: {accept}\r\n\r\n");
        assert_eq!(fixture.ask(&request("*/*")).await.status, 200);
        fixture.routes.withdraw_because(&key, gone);
        let page = fixture.ask(&request("text/html")).await;
        assert_eq!((page.status, page.header("retry-after").is_some()), (status, status == 503));
        assert!(page.body.contains(&message), "{page:?}");
        let json: serde_json::Value = serde_json::from_str(&fixture.ask(&request("*/*")).await.body).unwrap();
        assert_eq!(json["message"], message);
        assert_eq!(fixture.counted("codius_edge_faults_total", &[("fault", reason)]), 2.0);
    }
}

/// The time a page tells.
fn time_of(page: &str) -> Timestamp {
    let (before, _) = page.split_once(" UTC").unwrap();
    let time: String = before.chars().skip(before.chars().count() - "2026-01-01 00:00:00".len()).collect();
    format!("{}Z", time.replace(' ', "T")).parse().unwrap()
}

#[tokio::test]
async fn an_upstreams_answer_keeps_its_server_and_gets_none_of_ours() {
    let fixture = EdgeFixture::new().await;
    let named = Pod::answering("HTTP/1.1 500 Oops\r\nserver: theirs/1.0\r\ncontent-length: 0\r\n\r\n").await;
    let silent = Pod::answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    for (number, pod, server) in [(1, &named, Some("theirs/1.0")), (2, &silent, None)] {
        let name = fixture.publish(number, pod.address);
        let answer = fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
        assert_eq!(answer.header("server"), server, "{answer:?}");
    }
    assert_eq!(fixture.metric("codius_edge_faults_total"), 0.0, "an answer of a pod is no fault of ours");
}
