//! Requests that wait for the self-test, with the bodies recorded from the Node codiusd.

use super::*;

/// The recorded bodies (`selftest-running`, `selftest-failed`).
const RUNNING: &str = r#"{"message":"Self Test Running","stats":{"selfTestSuccess":false,"uploadSuccess":false,"httpSuccess":false,"wsSuccess":false,"running":true}}"#;
const FAILED: &str = r#"{"message":"Self Test Failed","stats":{"selfTestSuccess":false,"uploadSuccess":false,"httpSuccess":false,"wsSuccess":false,"running":false}}"#;
const GATED: [&str; 3] = ["POST /pods", "OPTIONS /pods", "POST /peers/discover"];

#[tokio::test]
async fn uploads_and_discovery_wait_for_the_first_pass() {
    let (gate, token) = SelfTestGate::closed();
    let api = TestApi::with(Setup { gate: Some(gate.clone()), ..Setup::default() }).await;
    let refused = async |head: &str, body: &str| {
        for request in GATED {
            // Refused before the body is read, even if that is too large.
            for sent in [&b"not json"[..], &vec![b'x'; 2 * MIB]] {
                let (answer, said) = api.ask(request, &format!("{head}Content-Length: {}\r\n", sent.len()), sent).await;
                assert!(answer.starts_with("http/1.1 503 "), "{request}: {answer}");
                assert!(answer.contains("\r\ncontent-type: application/json; charset=utf-8\r\n"), "{answer}");
                assert!(answer.contains("\r\ncache-control: no-cache\r\n") && answer.contains("\r\nretry-after: 10\r\n"), "{answer}");
                assert_eq!(said, body, "{request}");
            }
        }
    };
    refused("", RUNNING).await;
    refused("Authorization: Bearer wrong\r\n", RUNNING).await;
    gate.report(SelfTestStats::default());
    refused("", FAILED).await;
    assert_eq!((gate.shown(), gate.success()), (0, Some(false)));

    for (request, status) in [
        ("GET /version", "200"),
        ("GET /info", "200"),
        ("GET /peers", "200"),
        ("GET /healthz", "200"),
        ("GET /pods?manifestHash=x", "404"),
        ("PUT /pods?manifestHash=x", "400"),
        ("DELETE /pods", "405"),
        ("POST /nowhere", "404"),
        ("POST /%70ods", "404"),
    ] {
        let (answer, said) = api.ask(request, "", b"").await;
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{request}: {answer} {said}");
    }
    let (_, info) = api.ask("GET /info", "", b"").await;
    assert!(info.contains(r#""selfTestSuccess":false"#) && info.contains(r#""acceptingUploads":false"#), "{info}");
    let (answer, _) = api.ask("OPTIONS /pods", "Access-Control-Request-Method: POST\r\n", b"").await;
    assert!(answer.starts_with("http/1.1 204 "), "a browser's question: {answer}");

    for scheme in ["Bearer", "Anything"] {
        let shown = format!("Authorization: {scheme} {}\r\n", token.as_str());
        let (answer, said) = api.ask("POST /pods", &shown, b"").await;
        assert!(answer.starts_with("http/1.1 400 "), "{answer} {said}");
        let (answer, _) = api.ask("POST /peers/discover", &shown, b"").await;
        assert!(answer.starts_with("http/1.1 503 "), "the test has no business there: {answer}");
    }
    assert_eq!(gate.shown(), 4);

    gate.report(SelfTestStats { self_test_success: true, ..SelfTestStats::default() });
    gate.report(SelfTestStats::default());
    assert!(gate.is_open(), "it doesn't close again");
    for request in GATED {
        let (answer, said) = api.ask(request, "", b"").await;
        assert!(answer.starts_with("http/1.1 400 "), "{request}: {answer} {said}");
    }
}

#[test]
fn neither_gate_nor_token_show_the_token() {
    let (gate, token) = SelfTestGate::closed();
    let shown = format!("{gate:?} {token:?}");
    assert!(!shown.contains(token.as_str()) && shown.contains("hidden"), "{shown}");
    assert_eq!((SelfTestGate::open().success(), SelfTestGate::open().is_open()), (None, true));
}
