//! What the double has beside what was recorded: faults, programs of one's own, and that nothing is left of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use codiusd_kit::{Hyperd, HyperdBuilder, hyperd, in_time, until};
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(10);

fn builder() -> HyperdBuilder {
    Hyperd::builder(env!("CARGO_BIN_EXE_hyperd"))
}

fn pod(id: &str, image: &str, command: &[&str]) -> Value {
    json!({ "id": id, "containers": [{ "name": format!("{id}__app"), "image": image, "command": command }] })
}

/// Creates a pod. Nothing if there is no answer.
async fn create(hyperd: &Hyperd, pod: &Value) -> Option<u16> {
    let request = Request::post("/pod/create").header(header::HOST, "localhost").header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Full::from(pod.to_string())).unwrap_or_else(|error| panic!("{error}"));
    in_time("an answer, or none", WITHIN, hyperd::send(&hyperd.socket(), request)).await.ok().map(|answer| answer.status().as_u16())
}

async fn listed(hyperd: &Hyperd) -> String {
    hyperd.call(Method::GET, "/list?item=pod", None).await.1
}

async fn start(hyperd: &Hyperd, id: &str) {
    assert_eq!(hyperd.call(Method::POST, &format!("/pod/start?podId={id}"), None).await, (200, "{}\n".to_owned()));
}

#[tokio::test]
async fn faults_happen_when_they_are_due() {
    let mut hyperd = builder().pulled().start().await;
    let pods = ["a", "b", "c", "d", "e"].map(|id| pod(id, hyperd.image(), &[]));
    hyperd.fault(json!({ "call": "/pod/create", "nth": 2, "do": "drop-before" })).await;
    hyperd.fault(json!({ "call": "/pod/create", "nth": 3, "do": "drop-after" })).await;
    hyperd.fault(json!({ "call": "/pod/create", "nth": 4, "do": "error-500" })).await;
    assert_eq!(create(&hyperd, &pods[0]).await, Some(201));
    assert_eq!(create(&hyperd, &pods[1]).await, None);
    assert_eq!(create(&hyperd, &pods[2]).await, None);
    assert_eq!(create(&hyperd, &pods[3]).await, Some(500));
    let list = listed(&hyperd).await;
    assert!(list.contains("a:a:vm-") && list.contains("c:c:vm-") && !list.contains("b:b:") && !list.contains("d:d:"), "{list}");
    hyperd.fault(json!({ "call": "/pod", "method": "DELETE", "do": "crash-before" })).await;
    hyperd.fault(json!({ "call": "/pod/create", "do": "crash-after" })).await;
    assert_eq!(create(&hyperd, &pods[4]).await, None);
    hyperd.crashed().await;
    hyperd.start_again().await;
    assert!(listed(&hyperd).await.contains("e:e:vm-"), "what was done stays done");
    // Faults go with the daemon.
    assert_eq!(hyperd.call(Method::DELETE, "/pod?podId=a", None).await.0, 200);
    let statuses: Vec<_> = hyperd.calls().await.into_iter().filter(|(_, target, _)| target == "/pod/create").collect();
    assert_eq!(statuses.iter().map(|(_, _, status)| *status).collect::<Vec<_>>(), [Some(201), None, None, Some(500), None]);
}

#[tokio::test]
async fn a_call_that_hangs_does_nothing() {
    let hyperd = builder().pulled().start().await;
    let pod = pod("a", hyperd.image(), &[]);
    hyperd.fault(json!({ "call": "/pod/create", "do": "hang" })).await;
    let request = create(&hyperd, &pod);
    let called =
        until("the call to arrive", WITHIN, async || hyperd.calls().await.into_iter().find(|(_, target, _)| target == "/pod/create"));
    tokio::select! {
        answer = request => panic!("answered: {answer:?}"),
        called = called => assert_eq!(called.2, None),
    }
    assert_eq!((hyperd.vms(), create(&hyperd, &pod).await), (0, Some(201)));
}

#[tokio::test]
async fn a_program_of_ones_own_is_an_image() {
    let busybox = std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let busybox = busybox.map(|dir| dir.join("busybox")).find(|file| file.exists());
    let busybox = busybox.unwrap_or_else(|| panic!("busybox isn't installed"));
    let image = format!("registry.example/demo@sha256:{}", "0123456789abcdef".repeat(4));
    let hyperd = builder().image(&image, busybox).start().await;
    assert_eq!(create(&hyperd, &pod("a", &image, &[])).await, Some(404));
    hyperd.pull(&image).await;
    assert_eq!(create(&hyperd, &pod("a", &image, &[])).await, Some(201));
    start(&hyperd, "a").await;
    until("what the program says", WITHIN, async || {
        let (_, log) = hyperd.call(Method::GET, "/container/logs?container=a__app&stdout=true&stderr=true", None).await;
        log.contains("BusyBox").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pod_whose_output_nobody_reads_stalls_and_takes_long_to_delete() {
    let mut hyperd = builder().pulled().time_scale(0.02).start().await;
    let command = ["/bin/sh", "-c", "trap '' TERM; while :; do head -c 100000 /dev/zero; echo; done"];
    assert_eq!(create(&hyperd, &pod("a", hyperd.image(), &command)).await, Some(201));
    start(&hyperd, "a").await;
    hyperd.kill9();
    hyperd.start_again().await;
    until("the container to wait in write()", WITHIN, async || {
        let (_, names) = hyperd.call(Method::GET, "/double/stalled", None).await;
        names.contains("a__app").then_some(())
    })
    .await;
    let begun = Instant::now();
    assert_eq!(hyperd.call(Method::DELETE, "/pod?podId=a", None).await.0, 200);
    assert!(begun.elapsed() >= Duration::from_millis(200), "10 s, as long as they are here");
    assert_eq!(hyperd.vms(), 0);
}

/// Processes that have this in their command lines.
fn processes(word: &Path) -> Vec<PathBuf> {
    let word = word.display().to_string();
    let of = |path: &PathBuf| fs::read(path.join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&word));
    fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()).filter(of).collect()
}

#[tokio::test]
async fn two_at_once_dont_meet_and_nothing_is_left_of_them() {
    let (mut one, two) = tokio::join!(builder().pulled().start(), builder().pulled().start());
    assert_ne!(one.network(), two.network());
    for hyperd in [&one, &two] {
        assert_eq!(create(hyperd, &pod("a", hyperd.image(), &[])).await, Some(201));
        start(hyperd, "a").await;
        assert_eq!(hyperd.vms(), 1);
    }
    one.kill9();
    let traces = [&one, &two].map(|hyperd| (hyperd.dir(), format!("/sys/class/net/hyper{}", hyperd.network().octets()[2])));
    assert!(traces.iter().all(|(dir, bridge)| !processes(dir).is_empty() && Path::new(bridge).exists()));
    drop((one, two));
    for (dir, _) in traces {
        assert_eq!((processes(&dir), dir.exists()), (Vec::new(), false));
    }
}

#[test]
fn the_double_is_found_beside_the_tests() {
    assert_eq!(hyperd::binary(), PathBuf::from(env!("CARGO_BIN_EXE_hyperd")));
}
