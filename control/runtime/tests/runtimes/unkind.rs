//! What hyperd does wrong with machines that end, with logs, and with images that end a guest.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use codiusd_kit::{hyperd::Hyperd, until};
use codiusd_runtime::{PodState, Runtime, RuntimeError, error::Fault};
use http::Method;
use tokio::time::sleep;

use crate::{
    contract::{double, open_hyperd, pod, script, web},
    kit::{Host, PATIENCE, collect, get, id, state_of, until_exited},
};

/// How often a machine was booted.
async fn creates(hyperd: &Hyperd) -> usize {
    hyperd.calls().await.iter().filter(|(method, target, _)| method == "POST" && target == "/pod/create").count()
}

/// What the states of a pod are from now on, until it is one of those a pod ends in.
async fn states_until_its_end(runtime: &dyn Runtime, seed: char) -> Vec<Option<PodState>> {
    let (deadline, mut states) = (Instant::now() + PATIENCE, Vec::new());
    loop {
        let state = state_of(runtime, &id(seed)).await;
        let is_end = !matches!(state, Some(PodState::Running(_)));
        if states.last() != Some(&state) {
            states.push(state);
        }
        if is_end {
            return states;
        }
        assert!(Instant::now() < deadline, "pod {seed} doesn't end");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn a_machine_that_ends_is_told_from_programs_that_do(_: Host) {
    let hyperd = double().time_scale(1.0).start().await;
    let runtime = open_hyperd(&hyperd);
    let long = || script(hyperd.image(), "app", "exec sleep 600");
    let one_has_ended = vec![script(hyperd.image(), "short", "exit 0"), long()];
    for (seed, containers) in [('a', vec![long()]), ('b', one_has_ended)] {
        let run = runtime.start(pod(seed, containers)).await.unwrap();
        hyperd.kill_machine(id(seed).as_str());
        let states = states_until_its_end(&runtime, seed).await;
        let crashed = Some(PodState::Crashed { incarnation: run.incarnation });
        assert_eq!(states, [Some(PodState::Running(run)), crashed], "pod {seed}");
        let another = open_hyperd(&hyperd);
        assert_eq!(state_of(&another, &id(seed)).await, crashed, "to another process of ours, too");
        runtime.stop(&id(seed)).await.unwrap();
    }
    // Whatever code programs end with, hyperd's word for a machine that has gone among them.
    for (seed, code) in [('c', 0), ('d', 1), ('e', 255)] {
        let run = runtime.start(pod(seed, vec![script(hyperd.image(), "app", &format!("sleep 0.5; exit {code}"))])).await.unwrap();
        let states = states_until_its_end(&runtime, seed).await;
        assert_eq!(states, [Some(PodState::Running(run)), Some(PodState::Exited)], "exit code {code}");
    }
    until("their machines to be taken", PATIENCE, async || (hyperd.vms() == 0).then_some(())).await;
    for seed in ['c', 'd', 'e'] {
        assert_eq!(state_of(&runtime, &id(seed)).await, Some(PodState::Exited), "without its machine, too");
    }
    // Somebody else has stopped it.
    runtime.start(pod('f', vec![long()])).await.unwrap();
    let (status, text) = hyperd.call(Method::POST, &format!("/pod/stop?podId={}", id('f')), None).await;
    assert_eq!((status, state_of(&runtime, &id('f')).await), (200, Some(PodState::Exited)), "{text}");
}

pub(crate) async fn runs_of_the_daemon_are_told_apart(_: Host) {
    let mut hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    assert_eq!(runtime.daemon(), None, "not asked yet");
    runtime.list().await.unwrap();
    let first = runtime.daemon();
    runtime.list().await.unwrap();
    assert_eq!((first.is_some(), runtime.daemon()), (true, first));
    hyperd.kill9();
    hyperd.start_again().await;
    runtime.list().await.unwrap();
    assert_ne!(runtime.daemon(), first);
}

fn bytes_below(folder: &Path) -> u64 {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.metadata().map_or(0, |data| data.len())).sum()
}

pub(crate) async fn logs_are_bounded_and_go_with_their_pods(_: Host) {
    let mut hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    let folder = |seed| hyperd.logs().join(id(seed).as_str());
    let (a, b) = (folder('a'), folder('b'));
    let others = [hyperd.logs().join("somebody-elses"), folder('c')];
    let flood = "i=0; while [ $i -lt 40000 ]; do echo line $i 012345678901234567890123456789; i=$((i+1)); done; echo the end";
    runtime.start(pod('a', vec![script(hyperd.image(), "app", flood)])).await.unwrap();
    until_exited(&runtime, &id('a')).await;
    let kept = bytes_below(&a);
    assert!((1_000_000..2_100_000).contains(&kept), "{kept} bytes are kept of 6 MB");
    let log = collect(runtime.logs(&id('a'), false).await.unwrap()).await;
    let first: usize = log[0].split(' ').nth(1).unwrap().parse().unwrap();
    assert!(
        first > 0 && log.len() == 40_000 - first + 1 && log.last().is_some_and(|line| line == "the end"),
        "the last lines, all of them"
    );
    runtime.stop(&id('a')).await.unwrap();
    assert!(!a.exists(), "gone with the pod");

    // One that hyperd has lost, one that it knows, and what isn't a pod of ours.
    runtime.start(pod('b', vec![web(hyperd.image(), "web", 8080)])).await.unwrap();
    fs::create_dir(&others[0]).unwrap();
    hyperd.power_loss();
    hyperd.start_again().await;
    let run = open_hyperd(&hyperd).start(pod('c', vec![web(hyperd.image(), "web", 8080)])).await.unwrap();
    assert!(b.exists());
    open_hyperd(&hyperd).list().await.unwrap();
    until("the lost pod's log to be removed", PATIENCE, async || (!b.exists()).then_some(())).await;
    assert!(others.iter().all(|folder| folder.exists()), "and no other");
    assert_eq!(get(run, 8080).await, "web");
}

pub(crate) async fn an_image_that_ends_the_guest_is_the_images_fault_and_booted_once(_: Host) {
    let hyperd = double().start().await;
    let runtime = open_hyperd(&hyperd);
    let image = hyperd.image_without_group();
    runtime.check_image(&image).await.expect("nothing can be known before");
    for (seed, booted) in [('a', 1), ('a', 1), ('b', 1)] {
        let error = runtime.start(pod(seed, vec![web(&image, "web", 8080)])).await.unwrap_err();
        assert_eq!((error.fault(), creates(&hyperd).await), (Fault::Image, booted), "{seed}: {error}");
        assert!(matches!(&error, RuntimeError::ImageRefused { reason, .. } if reason.contains("/etc/group")), "{error:?}");
    }
    let error = runtime.check_image(&image).await.expect_err("before anyone pays");
    assert_eq!(error.fault(), Fault::Image);
    assert_eq!((runtime.list().await.unwrap(), hyperd.vms()), (Vec::new(), 0));
    runtime.start(pod('c', vec![web(hyperd.image(), "web", 8080)])).await.expect("others can be started");
}
