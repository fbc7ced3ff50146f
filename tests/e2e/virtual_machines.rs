//! Pods as virtual machines, emulated: what an uploader and a visitor notice, and what the host says of itself.

use std::{path::Path, process::Command};

use codiusd_kit::{CodiusCli, HostBuilder};
use http::{Method, StatusCode};
use serde_json::json;

use crate::{host, javascript};

/// Where the tests' guest kernel is (`tests/guest-kernel/fetch`).
fn guest_kernel() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest-kernel").display().to_string()
}

fn of_virtual_machines() -> HostBuilder {
    host().set("CODIUS_POD_ISOLATION", "vm").set("CODIUS_VM_ACCELERATOR", "tcg").set("CODIUS_GUEST_KERNEL", guest_kernel())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_codius_cli_uploads_extends_and_tails_a_virtual_machine() {
    let host = of_virtual_machines().start().await;
    let info = host.api(Method::GET, "/info", None, None).await.json();
    assert_eq!(info["isolation"], json!("emulated-for-tests"), "an emulator isolates nothing, and the host doesn't say it does");
    let upload = javascript::with_variables(&host);
    javascript::the_codius_cli_works(&host, CodiusCli::new(host.ilp(), &upload)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_survives_a_crash_and_an_upgrade_of_the_host() {
    let mut host = of_virtual_machines().set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0").keep_pods().start().await;
    let cli = CodiusCli::new(host.ilp(), &javascript::with_variables(&host));
    cli.vars(&json!({ "PUBLIC": { "value": "known" } }), &json!({ "PORT": { "value": "31415" } }));
    let output = cli.run(&["upload", "--host", &host.uri(), "--duration", "600", "--debug", "--assume-yes"]).await;
    let uploaded = cli.state().unwrap_or_else(|| panic!("codius upload has failed: {}", output.text));
    let served = async |host: &codiusd_kit::Host| host.pod(&uploaded.hash, "/").await;
    let before = served(&host).await;
    assert_eq!(before.status, StatusCode::OK);
    host.kill9();
    host.start_again().await;
    assert_eq!(served(&host).await.status, StatusCode::OK, "after kill -9");
    assert!(host.terminate().await.success());
    host.start_again().await;
    assert_eq!(served(&host).await.status, StatusCode::OK, "after a restart");
    let status = host.run(&["admin", "status"]).await;
    assert!(status.text.contains("emulated-for-tests"), "{}", status.text);
    let stopped = host.run(&["admin", "stop", &uploaded.hash]).await;
    assert!(stopped.status.success(), "{}", stopped.text);
}

#[test]
fn a_host_that_was_to_run_virtual_machines_and_cannot_runs_no_pods() {
    let directory = tempfile::tempdir().unwrap();
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_codiusd"));
    doctor.args(["doctor", "--json"]).envs([("CODIUS_DEV", "true"), ("CODIUS_POD_ISOLATION", "vm"), ("CODIUS_VM_ACCELERATOR", "tcg")]);
    let report = doctor.env("CODIUS_GUEST_KERNEL", directory.path()).env("CODIUS_ROOT", directory.path()).output().expect("run codiusd");
    let report = String::from_utf8_lossy(&report.stdout);
    assert!(report.contains("finding a guest kernel") && report.contains("linux-image-cloud-amd64"), "{report}");

    let mut codiusd = Command::new(env!("CARGO_BIN_EXE_codiusd"));
    codiusd.arg("serve").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs([
        ("CODIUS_DEV", "true"),
        ("CODIUS_PORT", "0"),
        ("CODIUS_POD_ISOLATION", "vm"),
        ("CODIUS_VM_ACCELERATOR", "tcg"),
        ("CODIUS_POD_SUBNET", "10.249.249.0/28"),
    ]);
    codiusd.env("CODIUS_GUEST_KERNEL", directory.path()).env("CODIUS_ROOT", directory.path().join("root"));
    let output = codiusd.output().expect("run codiusd");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["pods.isolation (CODIUS_POD_ISOLATION) = \"vm\" isn't possible", "guest kernel", "linux-image-cloud-amd64"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}
