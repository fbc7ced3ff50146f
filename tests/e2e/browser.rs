//! The host's page and the operator's, as people see and use them: in a real Chromium, driven by tests/interop/js/browser.mjs.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use codiusd_kit::{Payer, Upload, process::Process, web};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::{host, self_test::first_report};

/// What a page may weigh, with all it needs.
const PAGE_MAX: usize = 30_000;
const LOOKED_AT_WITHIN: Duration = Duration::from_secs(240);

/// Runs the script in a process namespace of its own: whatever ends it, and however the browser fares, all of it is gone then.
async fn in_chromium(options: &Value) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/js");
    assert!(scripts.join("node_modules/puppeteer-core").is_dir(), "no puppeteer-core: run `npm ci --ignore-scripts` in tests/interop/js");
    let home = tempfile::Builder::new().prefix("codiusd-browser-").tempdir().expect("make a directory");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "node"]).arg(scripts.join("browser.mjs")).arg(options.to_string());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home.path()).env("TMPDIR", home.path()).current_dir(home.path());
    let output = Process::run("the browser", &mut command, &home.path().join("log"), LOOKED_AT_WITHIN).await;
    println!("{}pictures are in {}", output.text, options["pictures"]);
    assert!(output.status.success(), "{}: {}", output.status, output.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_can_read_and_use_both_pages() {
    let host = host().set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0");
    let host = host.set("CODIUS_MACHINES", "small cpus=1 memory=512MiB disk=64MiB price=1, large cpus=2 memory=1GiB disk=256MiB price=3.5");
    let host = host.set("CODIUS_SELF_TEST", "on").start().await;
    assert_eq!(first_report(&host).await["selfTestSuccess"], true);
    let payer = Payer::connect(host.ilp()).await;
    let mut pods = Vec::new();
    for hours in 1..=3 {
        let hash = payer.run_pod(&host, &Upload::of(host.image()), hours * 3600).await;
        assert_eq!(host.pod(&hash, "/").await.status, StatusCode::OK);
        pods.push(hash);
    }
    let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pages");
    let options = json!({
        "visitor": format!("{}/", host.uri()),
        "operator": format!("http://{}/", host.admin()),
        "pods": pods,
        "pictures": pictures,
    });
    let as_browser = |host: &str| Request::get("/").header("host", host).header("accept", "text/html").body(web::full(""));
    let operators = web::send(host.admin(), as_browser(&host.admin().to_string()).unwrap()).await.unwrap();
    for page in [host.api(Method::GET, "/", None, None).await, operators] {
        assert!(page.text().len() < PAGE_MAX, "{} bytes: {}", page.text().len(), page.text());
    }
    in_chromium(&options).await;
    assert!(host.books().earned > 0);
}
