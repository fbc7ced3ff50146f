//! The double of hyperd answers as hyperd did: every call that was recorded is made again, in the order of that time, with
//! restarts and crashes where they were. Sleeps inside the containers are shorter here.

#[path = "hyperd/compare.rs"]
mod compare;
#[path = "hyperd/double.rs"]
mod double;
#[path = "hyperd/recording.rs"]
mod recording;
#[path = "hyperd/replay.rs"]
mod replay;

use std::{collections::BTreeSet, time::Duration};

use codiusd_kit::until;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use recording::Frame;
use replay::Replay;
use serde_json::{Value, json};

/// Recordings that aren't played, and why.
const EXCLUDED: &[(u16, &str)] = &[];
const LAST: u16 = 312;
/// Longer than the double lets a log go on after the end of its container.
const LINGER: Duration = Duration::from_millis(600);
const WITHIN: Duration = Duration::from_secs(10);
const BUSYBOX: &str = "127.0.0.1:5000/codius/busybox:latest";

#[tokio::test]
async fn every_recorded_answer_is_given_again() {
    let mut replay = Replay::start().await;
    images(&mut replay).await;
    a_pod(&mut replay).await;
    leftovers_and_odd_pods(&mut replay).await;
    logs(&mut replay).await;
    ends(&mut replay).await;
    stops(&mut replay).await;
    killed_and_started_again(&mut replay).await;
    hung_up_terminated_and_crashed(&mut replay).await;
    requests(&mut replay).await;
    together(&mut replay).await;
    chatty(&mut replay).await;
    let mut played = replay.played;
    drop(replay.hyperd);
    let mut replay = Replay::start().await;
    formats_and_late_deletes(&mut replay).await;
    played.append(&mut replay.played);

    let excluded: BTreeSet<u16> = EXCLUDED.iter().map(|(n, _)| *n).collect();
    let missing: Vec<u16> = (1..=LAST).filter(|n| !played.contains(n) && !excluded.contains(n)).collect();
    assert!(missing.is_empty(), "neither played nor excluded: {missing:?}");
    println!("{} recordings played, {} excluded", played.len(), excluded.len());
}

async fn images(replay: &mut Replay) {
    replay.play(1..=23).await;
    replay.play_with(24, docker_archive()).await;
    replay.play(25..=31).await;
}

/// An image as a file: its names, and a configuration whose name is its id.
fn docker_archive() -> Vec<u8> {
    let config = "9c638142b20529486645f136b597773d10c2ed3da84868f8c0c9af8bbd24afd5.json";
    let manifest = json!([{ "Config": config, "RepoTags": ["codius-lab/loaded:v1"], "Layers": [] }]).to_string();
    let mut archive = Vec::new();
    for (name, text) in [(config, r#"{"config":{"Cmd":["/bin/sh"]}}"#), ("manifest.json", &manifest)] {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", text.len()).as_bytes());
        header[257..262].copy_from_slice(b"ustar");
        archive.extend(header);
        archive.extend(text.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Asks while a pod is being created, again and again, and once it runs and is gone.
async fn a_pod(replay: &mut Replay) {
    replay.boot_ms(700).await;
    let create = replay.begin(32);
    replay.play(33..=37).await;
    replay.finish(create).await;
    replay.boot_ms(0).await;
    replay.play(38..=61).await;
    let info = replay.get(&replay.recording(44).target).await;
    let address = info["status"]["podIP"][0].as_str().and_then(|address| address.strip_suffix("/24")).unwrap_or_default().to_owned();
    assert_eq!(fetch(&address, "/").await, Some((StatusCode::OK, "<h1>hello from a codius pod</h1>\n".to_owned())));
    assert_eq!(fetch(&address, "/nope").await.map(|(status, _)| status), Some(StatusCode::NOT_FOUND));
    replay.play(62..=73).await;
}

/// `GET` from a pod, as soon as something listens.
async fn fetch(address: &str, path: &str) -> Option<(StatusCode, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<http_body_util::Empty<bytes::Bytes>>();
    let uri: http::Uri = format!("http://{address}:8080{path}").parse().ok()?;
    let response = until(&format!("an answer of {uri}"), WITHIN, async || client.get(uri.clone()).await.ok()).await;
    let status = response.status();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

async fn leftovers_and_odd_pods(replay: &mut Replay) {
    replay.play(74..=122).await;
}

async fn logs(replay: &mut Replay) {
    replay.play([123, 124]).await;
    replay.learn_container(138).await;
    let script = replay.lines(135);
    let twice = [script.clone(), script.clone()].concat();
    // Until the first seconds of that time have passed.
    let pod_log = |lines: usize| (script.clone(), lines);
    let (whole, lines) = pod_log(11);
    replay.log(132, &whole, lines, Duration::ZERO).await;
    for (n, lines) in [(125, 3), (127, 1), (130, 1)] {
        let (found, ended) = replay.log(n, &script, lines, LINGER).await;
        assert!(ended && found.len() <= 6, "{n}: {found:?}");
    }
    timestamps(replay, &script).await;
    replay.play([128, 129, 131]).await;
    let (found, ended) = replay.log(133, &script, usize::MAX, LINGER).await;
    assert!(ended, "133 hasn't ended");
    assert_eq!(found.last().map(|frame| frame.text.as_str()), Some("last without newline\n"));
    let (found, ended) = replay.log(134, &script, 3, LINGER).await;
    assert!(!ended && found.len() == 3, "134: {found:?}");
    replay.play(135..=141).await;
    let (found, _) = replay.log(142, &twice, 3, LINGER).await;
    assert_eq!(found.len(), 3);
    let (_, followed) = replay.begin_to_follow(143).await;
    replay.play([144]).await;
    let followed = followed.await.unwrap_or_else(|error| panic!("143: {error}")).unwrap_or_else(|error| panic!("143: {error}"));
    replay.check_log(143, &twice, &followed);
}

/// The time of each line stands before it.
async fn timestamps(replay: &mut Replay, script: &[Frame]) {
    let target = replay.names.translate(&replay.recording(126).target);
    let (status, text) = replay.hyperd.call(Method::GET, &target, None).await;
    let (frames, _) = recording::frames(text.as_bytes());
    assert_eq!((status, frames.len()), (200, 4), "126: {text:?}");
    for frame in frames {
        let (time, line) = frame.text.split_once(' ').unwrap_or_default();
        let known = script.iter().any(|known| known.stream == frame.stream && line.starts_with(&known.text));
        assert!(known && time.len() == "2026-11-23T23:27:17.698237566Z".len() && time.ends_with('Z'), "126: {frame:?}");
    }
    replay.played.insert(126);
}

async fn ends(replay: &mut Replay) {
    replay.play(145..=168).await;
}

async fn stops(replay: &mut Replay) {
    let delete = replay.begin(169);
    replay.play(170..=172).await;
    replay.finish(delete).await;
    replay.play(173..=181).await;
    replay.until_log(189, "inet6").await;
    replay.play(182..=193).await;
    let pod = pod_of(replay, 175);
    replay.hyperd.kill_machine(&pod);
    replay.play(194..=199).await;
}

fn pod_of(replay: &Replay, n: u16) -> String {
    let body: Value = serde_json::from_str(&replay.recording(n).body).unwrap_or_default();
    body["id"].as_str().unwrap_or_default().to_owned()
}

/// `tick 0`, `tick 1`, ...
fn ticks() -> Vec<Frame> {
    (0..10_000).map(|n| Frame { stream: 1, text: format!("tick {n}\n"), length: None }).collect()
}

async fn killed_and_started_again(replay: &mut Replay) {
    replay.play(200..=209).await;
    replay.hyperd.kill9();
    assert_eq!(replay.hyperd.vms(), 3);
    replay.hyperd.start_again().await;
    replay.play(210..=216).await;
    let (before, _) = replay.log(217, &ticks(), 0, LINGER).await;
    let (later, _) = replay.log(218, &ticks(), 0, LINGER).await;
    assert_eq!(before, later, "a log went on");
    replay.play(219..=228).await;
    assert_eq!(replay.hyperd.vms(), 0);
}

async fn hung_up_terminated_and_crashed(replay: &mut Replay) {
    replay.play([229, 230]).await;
    replay.hyperd.hangup().await;
    assert_eq!((replay.hyperd.vms(), replay.hyperd.socket().exists()), (1, false));
    replay.hyperd.start_again().await;
    replay.play([231, 232]).await;
    let (before, _) = replay.log(233, &ticks(), 0, LINGER).await;
    let (later, ended) = replay.log(234, &ticks(), 0, LINGER).await;
    assert!(!ended && before.ends_with(&later), "a log went on");
    replay.hyperd.terminate().await;
    assert_eq!((replay.hyperd.vms(), replay.hyperd.socket().exists()), (0, false));
    replay.hyperd.start_again().await;
    replay.play(235..=239).await;
    replay.boot_ms(700).await;
    let create = replay.begin(240);
    pending(replay, 240).await;
    replay.hyperd.kill9();
    replay.no_answer(create).await;
    assert!(replay.hyperd.socket().exists());
    replay.hyperd.start_again().await;
    replay.play(241..=246).await;
    replay.until_log(254, "tick 1\n").await;
    replay.hyperd.power_loss();
    replay.hyperd.start_again().await;
    replay.play(247..=251).await;
    replay.hyperd.terminate().await;
    replay.hyperd.start_again().await;
    replay.play([252, 253]).await;
    replay.log(254, &ticks(), 2, LINGER).await;
    replay.play(255..=261).await;
}

/// Waits until the pod of this call is being created, its machine being there.
async fn pending(replay: &Replay, n: u16) {
    let pod = pod_of(replay, n);
    until(&format!("pod {pod} to be created"), WITHIN, async || {
        let list = replay.get("/list?item=pod").await;
        let line = list["podData"].as_array().into_iter().flatten().filter_map(Value::as_str).find(|line| line.starts_with(&pod));
        line.is_some_and(|line| line.ends_with(":pending")).then_some(())
    })
    .await;
    until("its machine", WITHIN, async || replay.hyperd.has_machine(&pod).then_some(())).await;
}

async fn requests(replay: &mut Replay) {
    for n in [262, 263, 264, 265, 268] {
        let raw = replay.recording(n).raw.unwrap_or_default();
        replay.play_bytes(&[(n, raw)]).await;
    }
    let kept = [266, 267].map(|n| {
        let recording = replay.recording(n);
        (n, format!("{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", recording.method, recording.target))
    });
    replay.play_bytes(&kept).await;
    replay.play([269]).await;
}

async fn together(replay: &mut Replay) {
    replay.boot_ms(700).await;
    let create = replay.begin(270);
    pending(replay, 270).await;
    create.1.abort();
    replay.played.insert(270);
    replay.play([271, 272]).await;
    replay.boot_ms(0).await;
    replay.play([273]).await;
    let creates = (replay.begin(274), replay.begin(275));
    replay.finish(creates.0).await;
    replay.finish(creates.1).await;
    replay.play(276..=278).await;
    // Which of the two had the first address is left to chance.
    let first = pod_of(replay, 274);
    let info = replay.get(&format!("/pod/info?podName={first}")).await;
    let address = info["status"]["podIP"][0].as_str().and_then(|address| address.strip_suffix("/24")).unwrap_or_default().to_owned();
    fetch(&address, "/").await;
    replay.names.meet("192.168.123.6", &address);
    replay.play(279..=289).await;
}

/// A container whose output nobody reads: it stalls, and its delete takes the daemon along.
async fn chatty(replay: &mut Replay) {
    replay.hyperd.pull(BUSYBOX).await;
    replay.play([290]).await;
    replay.hyperd.terminate().await;
    replay.hyperd.start_again().await;
    replay.play([291, 292]).await;
    replay.hyperd.hangup().await;
    replay.hyperd.start_again().await;
    until("the container to wait in write()", WITHIN, async || {
        let stalled = replay.get("/double/stalled").await;
        stalled.as_array().is_some_and(|names| !names.is_empty()).then_some(())
    })
    .await;
    replay.play([293, 294]).await;
    replay.hyperd.fault(json!({ "delete-of-stalled-crashes": true })).await;
    let delete = replay.begin(295);
    replay.no_answer(delete).await;
    replay.hyperd.crashed().await;
    replay.hyperd.start_again().await;
    replay.play([296, 297]).await;
}

async fn formats_and_late_deletes(replay: &mut Replay) {
    replay.play(298..=304).await;
    replay.hyperd.pull(BUSYBOX).await;
    replay.boot_ms(700).await;
    let create = replay.begin(305);
    pending(replay, 305).await;
    replay.play([306, 307]).await;
    replay.finish(create).await;
    replay.boot_ms(0).await;
    replay.play(308..=312).await;
}
