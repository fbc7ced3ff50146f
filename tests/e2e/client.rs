//! codiusd's own upload, extend and logs.

use std::fs;

use codiusd_kit::{Upload, process::Output};
use http::StatusCode;

use crate::{expiry, host, seconds_between};

fn said_well(output: Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, output.text);
    output.text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_uploaded_extended_and_its_log_read() {
    let host = host().start().await;
    let file = host.root().join("upload.json");
    fs::write(&file, Upload::of(host.image()).debug().json().to_string()).expect("write the manifest");
    let (file, uri) = (file.display().to_string(), host.uri());
    let hash = said_well(host.run(&["manifest", "hash", &file]).await).trim().to_owned();
    assert_eq!(hash.len(), 52, "{hash}");

    let uploaded = said_well(host.run(&["upload", &file, "--host", &uri, "--duration", "60"]).await);
    assert!(uploaded.contains(&format!("http://{hash}.{}/", host.authority())), "{uploaded}");
    assert_eq!(host.pod(&hash, "/asked-for").await.status, StatusCode::OK);
    let first = expiry(&host, &hash).await;
    assert_eq!(host.books().earned, 228_311);

    said_well(host.run(&["extend", &hash, "--host", &uri, "--duration", "90"]).await);
    assert!((seconds_between(first, expiry(&host, &hash).await) - 90.0).abs() < 0.001);
    assert_eq!(host.books().earned, 228_311 + 342_466);

    let log = said_well(host.run(&["logs", &hash, "--host", &uri]).await);
    assert!(log.contains("/asked-for"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_said_in_words() {
    let host = host().start().await;
    let file = host.root().join("upload.json");
    fs::write(&file, Upload::of("local/demo").json().to_string()).expect("write the manifest");
    let output = host.run(&["upload", &file.display().to_string(), "--host", &host.uri(), "--duration", "60"]).await;
    assert!(!output.status.success() && output.text.contains("image"), "{}: {}", output.status, output.text);
    assert_eq!(host.books().received, 0);
}
