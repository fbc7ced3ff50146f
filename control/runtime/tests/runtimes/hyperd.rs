//! What hyperd does wrong, and that it doesn't matter.

use std::time::{Duration, Instant};

use codiusd_kit::{hyperd::Hyperd, until};
use codiusd_runtime::{HyperdConfig, HyperdRuntime, PodState, Runtime, RuntimeError, error::Fault};
use futures::StreamExt;
use http::Method;
use prometheus::{Registry, TextEncoder};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    contract::{double, open_guarded, open_hyperd, pod, script, web},
    kit::{Host, PATIENCE, collect, get, id, state_of, until_exited},
};

/// How often a call was made.
async fn count(hyperd: &Hyperd, what: &str) -> usize {
    hyperd.calls().await.iter().filter(|(method, target, _)| format!("{method} {target}").starts_with(what)).count()
}

pub(crate) async fn a_lost_answer_to_a_create_is_looked_after(_: Host) {
    let hyperd = double().boot_ms(300).start().await;
    let runtime = open_hyperd(&hyperd);
    hyperd.fault(json!({ "call": "/pod/create", "nth": 1, "do": "drop-after" })).await;
    let run = runtime.start(pod('a', vec![web(hyperd.image(), "web", 8080)])).await.expect("it was created all the same");
    assert_eq!(get(run, 8080).await, "web");
    assert_eq!(count(&hyperd, "POST /pod/create").await, 1, "never sent twice");

    hyperd.fault(json!({ "call": "/pod/create", "nth": 1, "do": "drop-before" })).await;
    let spec = pod('b', vec![web(hyperd.image(), "web", 8080)]);
    let error = runtime.start(spec.clone()).await.expect_err("it was never created");
    assert_eq!(error.fault(), Fault::Unavailable, "{error:?}");
    assert_eq!(state_of(&runtime, &id('b')).await, None);
    runtime.start(spec).await.expect("and can be");
}

pub(crate) async fn a_hang_up_during_a_create_is_found_and_undone(_: Host) {
    let hyperd = double().boot_ms(500).start().await;
    let runtime = open_hyperd(&hyperd);
    let spec = pod('a', vec![web(hyperd.image(), "web", 8080)]);
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, again) = (open_hyperd(&hyperd), spec.clone());
    // A codiusd that is killed in the middle of a create: its connection closes, the create goes on.
    tokio.spawn(async move { first.start(again).await });
    until("the create to be under way", PATIENCE, async || (count(&hyperd, "POST /pod/create").await > 0).then_some(())).await;
    tokio.shutdown_background();
    runtime.stop(&id('a')).await.expect("the next process stops it, when it has been created");
    assert_eq!((runtime.list().await.unwrap(), hyperd.vms()), (Vec::new(), 0));
    runtime.start(spec).await.expect("and nothing is in the way of another start");
}

pub(crate) async fn images_hyperd_cannot_run_are_explained(_: Host) {
    let hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    let (registry, _) = hyperd.image().split_once("/codius").unwrap();
    let oci = format!("{registry}/codius/ocihttpd@sha256:e1386547b58bc8131aaffe66");
    let oci = format!("{oci}{}", "0".repeat(64 - 24));
    for (image, said) in
        [(oci, "skopeo copy --format v2s2"), (format!("{registry}/codius/none@sha256:{}", "1".repeat(64)), "no such image")]
    {
        let error = runtime.start(pod('a', vec![web(&image, "web", 8080)])).await.unwrap_err();
        let RuntimeError::ImageUnavailable { reason, .. } = &error else { panic!("{image}: {error:?}") };
        assert!(reason.contains(said) || said == "skopeo copy --format v2s2" && reason.contains("no such image"), "{image}: {reason}");
    }
    assert_eq!(count(&hyperd, "POST /pod/create").await, 0, "nothing is booted for them");
    let local = runtime.check_image(&format!("local/demo@sha256:{}", "0".repeat(64))).await.unwrap_err();
    assert!(local.to_string().contains("registry"), "{local}");
}

pub(crate) async fn an_exited_pod_gives_its_machine_back(_: Host) {
    let hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    runtime.start(pod('a', vec![script(hyperd.image(), "app", "echo done")])).await.unwrap();
    until_exited(&runtime, &id('a')).await;
    until("its machine to be taken", PATIENCE, async || (hyperd.vms() == 0).then_some(())).await;
    assert_eq!(runtime.list().await.unwrap()[0].memory_bytes, 0);
    assert_eq!(collect(runtime.logs(&id('a'), false).await.unwrap()).await, ["done"]);
    runtime.stop(&id('a')).await.unwrap();
}

pub(crate) async fn others_pods_are_left_alone_and_counted(_: Host) {
    let hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    hyperd.pull(hyperd.image()).await;
    let body = |id: &str, memory| json!({ "id": id, "resource": { "vcpu": 1, "memory": memory }, "containers": [{ "name": id, "image": hyperd.image() }] });
    for (name, memory) in [("somebody-elses", 256), ("another", 128)] {
        let (status, text) = hyperd.call(Method::POST, "/pod/create", Some(&body(name, memory))).await;
        assert_eq!(status, 201, "{text}");
    }
    assert_eq!(runtime.list().await.unwrap(), []);
    assert_eq!(runtime.foreign_memory_bytes(), (256 + 128) << 20, "a machine counts from its create on");
    // Named as a pod of ours, and not made by us: it is listed, so that it can be cleared away.
    let (status, text) = hyperd.call(Method::POST, "/pod/create", Some(&body(id('o').as_str(), 64))).await;
    assert_eq!(status, 201, "{text}");
    let listed = runtime.list().await.unwrap();
    assert_eq!((listed.len(), &listed[0].id, listed[0].memory_bytes), (1, &id('o'), 64 << 20));
    runtime.stop(&id('o')).await.unwrap();
    assert_eq!((runtime.list().await.unwrap(), hyperd.vms()), (Vec::new(), 2));
}

pub(crate) async fn a_daemon_that_is_away_is_said_so_and_loses_nothing(_: Host) {
    let mut hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    let run = runtime.start(pod('a', vec![web(hyperd.image(), "web", 8080)])).await.unwrap();
    hyperd.kill9();
    let begun = Instant::now();
    let failures = [
        runtime.ready().await.unwrap_err(),
        runtime.list().await.unwrap_err(),
        runtime.stop(&id('a')).await.unwrap_err(),
        runtime.start(pod('b', vec![web(hyperd.image(), "web", 8080)])).await.unwrap_err(),
    ];
    for error in failures {
        assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "said at once");
    assert_eq!(get(run, 8080).await, "web", "the pod serves on");
    hyperd.start_again().await;
    runtime.ready().await.unwrap();
    assert_eq!(state_of(&runtime, &id('a')).await, Some(PodState::Running(run)), "the address is known without asking again");
}

pub(crate) async fn a_restarted_daemon_is_noticed(_: Host) {
    let mut hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    let talking = script(hyperd.image(), "app", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done");
    let run = runtime.start(pod('a', vec![talking, web(hyperd.image(), "web", 8080)])).await.unwrap();
    runtime.start(pod('x', vec![script(hyperd.image(), "app", "exit 4")])).await.unwrap();
    let exited = async || hyperd.call(Method::GET, "/list?item=container", None).await.1.contains(":failed\"").then_some(());
    until("hyperd to see the exit", PATIENCE, exited).await;
    let look = async |seed| runtime.list().await.unwrap().into_iter().find(|status| status.id == id(seed));
    hyperd.kill9();
    hyperd.start_again().await;
    let status = look('a').await.unwrap();
    assert_eq!((status.state, status.degraded), (PodState::Running(run), true), "reattached: serves, and must be renewed");
    assert_eq!(look('x').await.unwrap().state, PodState::Exited, "what had exited isn't taken for lost");
    // Another process of ours comes to the same conclusion.
    let second = open_hyperd(&hyperd);
    let seen = second.list().await.unwrap().into_iter().find(|status| status.id == id('a')).unwrap();
    assert!(
        seen.degraded
            && matches!(seen.state, PodState::Running(found) if found.address == run.address && found.incarnation == run.incarnation)
    );

    runtime.stop(&id('a')).await.unwrap();
    runtime.start(pod('a', vec![web(hyperd.image(), "web", 8080)])).await.unwrap();
    assert!(!look('a').await.unwrap().degraded, "renewed");
    hyperd.terminate().await;
    hyperd.start_again().await;
    assert_eq!(look('a').await.unwrap().state, PodState::Lost, "its machine went with the daemon");
    runtime.stop(&id('a')).await.unwrap();
}

pub(crate) async fn a_power_loss_blocks_no_name(_: Host) {
    let mut hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    let spec = pod('a', vec![web(hyperd.image(), "web", 8080)]);
    runtime.start(spec.clone()).await.unwrap();
    hyperd.power_loss();
    hyperd.start_again().await;
    assert_eq!(state_of(&runtime, &id('a')).await, None);
    runtime.stop(&id('a')).await.unwrap();
    let run = runtime.start(spec.clone()).await.expect("its leaked container names are in nobody's way");
    assert_eq!(get(run, 8080).await, "web");
    runtime.stop(&id('a')).await.unwrap();

    runtime.start(spec).await.unwrap();
    hyperd.power_loss();
    hyperd.start_again().await;
    hyperd.kill9();
    hyperd.start_again().await;
    assert_eq!(state_of(&runtime, &id('a')).await, Some(PodState::Lost), "back from the dead, without a machine");
    runtime.stop(&id('a')).await.unwrap();
    assert_eq!(runtime.list().await.unwrap(), []);
}

/// A flood that nobody reads: hyperd is read no faster than we are.
pub(crate) async fn a_slow_reader_of_a_log_costs_no_memory(_: Host) {
    let hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    let flood = script(hyperd.image(), "app", "yes 0123456789012345678901234567890123456789");
    runtime.start(pod('a', vec![flood])).await.unwrap();
    let mut log = runtime.logs(&id('a'), true).await.unwrap();
    let line = timeout(PATIENCE, log.next()).await.expect("in time").expect("it goes on").unwrap();
    assert_eq!(line.text.len(), 40);
    runtime.stop(&id('a')).await.unwrap();
    timeout(PATIENCE, async { while let Some(Ok(_)) = log.next().await {} }).await.expect("it ends with the pod");
}

pub(crate) async fn calls_are_measured_and_failures_counted(_: Host) {
    let mut hyperd = double().start().await;
    let registry = Registry::new();
    let runtime = HyperdRuntime::new(HyperdConfig::new(hyperd.socket()), &registry).unwrap();
    runtime.start(pod('a', vec![web(hyperd.image(), "web", 8080)])).await.unwrap();
    hyperd.fault(json!({ "call": "/pod", "nth": 1, "do": "error-500" })).await;
    runtime.stop(&id('a')).await.unwrap_err();
    runtime.stop(&id('a')).await.unwrap();
    hyperd.kill9();
    runtime.ready().await.unwrap_err();
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for line in [
        "codius_hyperd_call_seconds_count{call=\"create\"} 1",
        "codius_hyperd_call_seconds_count{call=\"delete\"} 2",
        "codius_hyperd_failures_total{kind=\"away\"} 1",
        "codius_hyperd_failures_total{kind=\"refused\"} 1",
        "codius_hyperd_failures_total{kind=\"name_leaked\"} 0",
    ] {
        assert!(text.contains(line), "{line} isn't in\n{text}");
    }
}

/// A daemon forgets which addresses are taken, and hands out the first again.
pub(crate) async fn a_daemon_that_was_killed_hands_out_no_address_twice(_: Host) {
    let mut hyperd = double().start().await;
    let runtime = open_guarded(&hyperd, &hyperd.bridge());
    let first = runtime.start(pod('a', vec![web(hyperd.image(), "one", 8080)])).await.unwrap();
    hyperd.kill9();
    hyperd.start_again().await;
    let second = runtime.start(pod('b', vec![web(hyperd.image(), "two", 8080)])).await.unwrap();
    assert_ne!(first.address, second.address);
    assert_eq!((get(first, 8080).await, get(second, 8080).await), ("one".to_owned(), "two".to_owned()));
    // Renewed, it answers at once, whatever address it has now.
    runtime.stop(&id('a')).await.unwrap();
    let renewed = runtime.start(pod('a', vec![web(hyperd.image(), "one", 8080)])).await.unwrap();
    let begun = Instant::now();
    assert_eq!(get(renewed, 8080).await, "one");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for pod in ['a', 'b'] {
        runtime.stop(&id(pod)).await.unwrap();
    }
}

pub(crate) async fn addresses_come_back_and_run_out_with_a_word(_: Host) {
    let hyperd = double().prefix(29).start().await;
    let runtime = std::sync::Arc::new(open_guarded(&hyperd, &hyperd.bridge()));
    let image = hyperd.image().to_owned();
    for _ in 0..8 {
        runtime.start(pod('a', vec![web(&image, "web", 8080)])).await.expect("hyperd never takes an address back, and is asked for none");
        runtime.stop(&id('a')).await.unwrap();
    }
    let started = futures::future::join_all(['a', 'b', 'c', 'd', 'e'].map(|seed| {
        let (runtime, spec) = (runtime.clone(), pod(seed, vec![web(&image, "web", 8080)]));
        async move { runtime.start(spec).await.expect("there are five").address }
    }));
    let mut addresses = started.await;
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 5, "at once, and each its own: {addresses:?}");
    runtime.list().await.unwrap();
    let error = runtime.start(pod('f', vec![web(&image, "web", 8080)])).await.expect_err("all five are taken");
    assert!(matches!(error, RuntimeError::NoRoom { .. }) && error.fault() == Fault::Capacity, "{error:?}");
    runtime.stop(&id('c')).await.unwrap();
    runtime.list().await.unwrap();
    assert_eq!(runtime.addresses(), 5, "of a network with six, and the gateway");
    runtime.start(pod('f', vec![web(&image, "web", 8080)])).await.expect("and can be had");
}

pub(crate) async fn two_pods_at_one_address_are_not_served(_: Host) {
    let mut hyperd = double().start().await;
    let registry = Registry::new();
    let runtime = HyperdRuntime::new(HyperdConfig::new(hyperd.socket()), &registry).unwrap();
    let first = runtime.start(pod('a', vec![web(hyperd.image(), "one", 8080)])).await.unwrap();
    hyperd.kill9();
    hyperd.start_again().await;
    assert_eq!(state_of(&runtime, &id('a')).await, Some(PodState::Running(first)));
    let body = json!({ "id": "somebody-elses", "containers": [{ "name": "theirs", "image": hyperd.image() }] });
    let (status, text) = hyperd.call(Method::POST, "/pod/create", Some(&body)).await;
    assert_eq!(status, 201, "{text}");
    for _ in 0..2 {
        assert_eq!(state_of(&runtime, &id('a')).await, Some(PodState::Misplaced), "another has its address");
    }
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(text.contains("codius_hyperd_misplaced_pods_total 1"), "once: {text}");
    runtime.stop(&id('a')).await.unwrap();
    let renewed = runtime.start(pod('a', vec![web(hyperd.image(), "one", 8080)])).await.unwrap();
    assert_eq!(state_of(&runtime, &id('a')).await, Some(PodState::Running(renewed)), "elsewhere");

    hyperd.kill9();
    hyperd.start_again().await;
    let error = runtime.start(pod('b', vec![web(hyperd.image(), "two", 8080)])).await.expect_err("it would be at another's address");
    assert_eq!(error.fault(), Fault::Unavailable, "{error:?}");
    assert_eq!(state_of(&runtime, &id('b')).await, None, "and is gone");
}

pub(crate) async fn pods_run_on_no_other_bridge(_: Host) {
    let hyperd = double().bridge("hbr").start().await;
    let runtime = open_guarded(&hyperd, &format!("hyper{}", hyperd.network().octets()[2]));
    for error in
        [runtime.ready().await.unwrap_err(), runtime.start(pod('a', vec![web(hyperd.image(), "web", 8080)])).await.expect_err("no policy")]
    {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(error.fault() == Fault::Unavailable && cause.contains("hyperd.bridge"), "{error:?}");
    }
    assert_eq!(hyperd.vms(), 0);
}

/// The one link that is plugged into the double's bridge.
fn port_of(hyperd: &Hyperd) -> String {
    let ports: Vec<_> = std::fs::read_dir(format!("/sys/class/net/{}/brif", hyperd.bridge())).unwrap().flatten().collect();
    let [port] = &ports[..] else { panic!("one pod has one port, not {ports:?}") };
    port.file_name().into_string().unwrap()
}

fn ip(arguments: &str) {
    let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

pub(crate) async fn a_pod_off_the_bridge_is_not_served_unless_its_machine_ends(_: Host) {
    let hyperd = double().start().await;
    let runtime = open_guarded(&hyperd, &hyperd.bridge());
    let first = runtime.start(pod('a', vec![web(hyperd.image(), "web", 8080)])).await.unwrap();
    let port = port_of(&hyperd);
    ip(&format!("link set {port} nomaster"));
    assert_eq!(state_of(&runtime, &id('a')).await, Some(PodState::Misplaced), "no policy is in force there");
    runtime.stop(&id('a')).await.unwrap();

    let run = runtime.start(pod('a', vec![web(hyperd.image(), "web", 8080)])).await.unwrap();
    assert_ne!(run.incarnation, first.incarnation);
    let port = port_of(&hyperd);
    assert_eq!(state_of(&runtime, &id('a')).await, Some(PodState::Running(run)));
    hyperd.kill_machine(id('a').as_str());
    // A link that outlives its place at the bridge, while the daemon still lists the pod.
    let is_away = async || (!std::path::Path::new("/sys/class/net").join(&port).exists()).then_some(());
    until("the link of the machine to go", PATIENCE, is_away).await;
    ip(&format!("tuntap add dev {port} mode tap"));
    until("the crash to be seen", PATIENCE, async || {
        let state = state_of(&runtime, &id('a')).await;
        let has_crashed = state == Some(PodState::Crashed { incarnation: run.incarnation });
        assert!(has_crashed || state == Some(PodState::Running(run)), "{state:?}");
        has_crashed.then_some(())
    })
    .await;
}
