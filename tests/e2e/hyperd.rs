//! Pods at hyperd (its double), as operators and clients see it.

use std::{collections::BTreeMap, time::Duration};

use codiusd_kit::{
    CodiusCli, Host, HostBuilder, Payer, Upload,
    hyperd::{self, Hyperd},
    payer::{Bought, pay_token},
    process::Process,
    until, web,
};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{expiry, host, pay_at_once, seconds_between};

const WITHIN: Duration = Duration::from_secs(20);

async fn double() -> Hyperd {
    Hyperd::builder(&hyperd::binary().display().to_string()).start().await
}

fn on(hyperd: &Hyperd) -> HostBuilder {
    let host = host().set("CODIUS_HYPER_SOCKET", hyperd.socket().display().to_string()).set("CODIUS_HYPER_BRIDGE", hyperd.bridge());
    host.set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0")
}

/// A page, and a line in the log every moment.
fn talking(hyperd: &Hyperd) -> Upload {
    let script = "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done & exec /bin/httpd -f -p 8080 -h /www";
    Upload::of(hyperd.image()).command(&["/bin/sh", "-c", script])
}

/// A page with its name.
fn named(hyperd: &Hyperd, name: &str) -> Upload {
    Upload::of(hyperd.image()).command(&["/bin/sh", "-c", &format!("echo {name} > /www/index.html; exec /bin/httpd -f -p 8080 -h /www")])
}

async fn info(host: &Host) -> Value {
    host.api(Method::GET, "/info", None, None).await.json()
}

/// The status of `/readyz`, and whether the runtime is ready.
async fn readiness(host: &Host) -> (StatusCode, Value) {
    let answer = host.api(Method::GET, "/readyz", None, None).await;
    (answer.status, answer.json()["runtime"].clone())
}

async fn metric(host: &Host, line: &str) -> Option<u64> {
    let metrics = web::send(host.admin(), web::get(&host.admin().to_string(), "/metrics")).await.expect("metrics").text();
    metrics.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

async fn answers(host: &Host, hash: &str) -> Option<()> {
    (host.pod(hash, "/").await.status == StatusCode::OK).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_codius_cli_works_with_pods_at_hyperd() {
    let hyperd = double().await;
    let host = on(&hyperd).start().await;
    let checked = host.run(&["network", "check"]).await;
    assert!(checked.status.success(), "{}", checked.text);
    assert_eq!((&info(&host).await["runtime"], &info(&host).await["isolation"]), (&json!("hyperd"), &json!("virtual-machine")));
    let cli = CodiusCli::new(host.ilp(), &talking(&hyperd));
    let output = cli.run(&["upload", "--host", &host.uri(), "--duration", "60", "--debug", "--assume-yes"]).await;
    let uploaded = cli.state().unwrap_or_else(|| panic!("codius upload has failed: {}", output.text));
    until("the page", WITHIN, async || answers(&host, &uploaded.hash).await).await;
    let first = expiry(&host, &uploaded.hash).await;
    cli.run(&["extend", "--duration", "90", "--assume-yes"]).await;
    assert!(expiry(&host, &uploaded.hash).await > first);
    let mut tail = cli.tail();
    for number in [3, 30] {
        let line = format!("tick {number}");
        tail.line(&line, WITHIN, |found| (found.contains(" app ") && found.contains(&line)).then_some(())).await;
    }
    assert!(metric(&host, "codius_hyperd_call_seconds_count{call=\"create\"}").await == Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_log_is_kept_alive() {
    let hyperd = double().await;
    let host = on(&hyperd).start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(hyperd.image()).debug(), 60).await;
    let mut follow = web::get(host.authority(), &format!("/pods/{hash}/logs?follow=true"));
    follow.headers_mut().insert(http::header::USER_AGENT, "test".parse().expect("a value"));
    let mut log = web::open(host.edge(), follow).await.expect("follow the log");
    let frame = codiusd_kit::in_time("a ping", WITHIN, http_body_util::BodyExt::frame(log.body_mut())).await;
    assert_eq!(frame.expect("it goes on").expect("it can be read").into_data().expect("data"), "ping\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_hyperd_pods_serve_on_and_no_money_is_asked_for() {
    let mut hyperd = double().await;
    let mut host = on(&hyperd).keep_pods().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &talking(&hyperd).debug(), 600).await;
    until("the page", WITHIN, async || answers(&host, &hash).await).await;
    assert_eq!(info(&host).await["acceptingUploads"], true);
    assert_eq!(readiness(&host).await, (StatusCode::OK, json!(true)));

    hyperd.kill9();
    let refused = async |host: &Host| {
        let upload = Upload::of(hyperd.image());
        for (method, target) in
            [(Method::POST, "/pods?duration=60".to_owned()), (Method::PUT, format!("/pods?manifestHash={hash}&duration=60"))]
        {
            let body = (method == Method::POST).then_some(upload.json());
            let answer = host.api(method, &target, body, Some(&pay_token())).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
            assert!(answer.header("retry-after").is_some() && answer.header("pay").is_none());
        }
        assert_eq!(info(host).await["acceptingUploads"], false);
        assert_eq!(readiness(host).await, (StatusCode::SERVICE_UNAVAILABLE, json!(false)));
    };
    refused(&host).await;
    answers(&host, &hash).await.expect("the pod serves on");

    // A codiusd that starts meanwhile waits for its daemon, and says so.
    host.kill9();
    host.start_again().await;
    refused(&host).await;
    hyperd.start_again().await;
    until("uploads to be taken again", WITHIN, async || (info(&host).await["acceptingUploads"] == true).then_some(())).await;
    until("the pod's page", WITHIN, async || answers(&host, &hash).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_hangs_makes_no_pod_end_late() {
    let hyperd = double().await;
    let host = on(&hyperd).start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &talking(&hyperd), 2).await;
    let end = expiry(&host, &hash).await;
    for nth in 1..=3 {
        hyperd.fault(json!({ "call": "/list", "nth": nth, "do": "hang" })).await;
    }
    until("the pod to be unroutable", WITHIN, async || (host.pod(&hash, "/").await.status == StatusCode::NOT_FOUND).then_some(())).await;
    let late = seconds_between(end, jiff::Timestamp::now());
    assert!((0.0..1.0).contains(&late), "{late} s after its end");
    until("its machine to be gone", WITHIN, async || (hyperd.vms() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_either_are_survived() {
    let mut hyperd = double().await;
    let mut host = on(&hyperd).keep_pods().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &talking(&hyperd).debug(), 600).await;
    until("the page", WITHIN, async || answers(&host, &hash).await).await;
    let end = expiry(&host, &hash).await;

    host.kill9();
    host.start_again().await;
    answers(&host, &hash).await.expect("adopted, and routed at once");
    assert_eq!(metric(&host, "codius_pods_restarted_total{reason=\"degraded\"}").await, Some(0));

    hyperd.kill9();
    hyperd.start_again().await;
    until("a pod whose log is dead to be renewed", WITHIN, async || {
        (metric(&host, "codius_pods_restarted_total{reason=\"degraded\"}").await == Some(1)).then_some(())
    })
    .await;
    until("the renewed pod's page", WITHIN, async || answers(&host, &hash).await).await;
    let log = host.api(Method::GET, &format!("/pods/{hash}/logs"), None, None).await;
    assert!(log.text().contains("app stdout tick 0"), "its log lives again: {}", log.text());

    hyperd.terminate().await;
    hyperd.start_again().await;
    until("a pod that went with its daemon to be back", WITHIN, async || answers(&host, &hash).await).await;
    assert_eq!(metric(&host, "codius_pods_restarted_total{reason=\"lost\"}").await, Some(1));
    assert_eq!(expiry(&host, &hash).await, end, "its end stays");
    let books = host.books();
    assert_eq!(books.received, books.earned, "and nothing was charged for it");
}

/// A daemon that is killed leaves its machines, and hands their addresses out anew.
#[tokio::test(flavor = "multi_thread")]
async fn no_url_serves_anothers_pod_after_the_daemon_was_killed() {
    for managed in [true, false] {
        let mut hyperd = double().await;
        let host = on(&hyperd).set("CODIUS_HYPER_BRIDGE", if managed { hyperd.bridge() } else { "none".to_owned() }).start().await;
        let payer = Payer::connect(host.ilp()).await;
        let mut pods = BTreeMap::new();
        for name in ["first", "second", "third", "fourth"] {
            let Bought { answer, .. } = payer.upload(&host, &named(&hyperd, name), 600).await;
            // An address that the daemon chose, and a pod has, is no place for another.
            let refused = !managed && answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.text().contains("what was paid is kept");
            assert!(refused || answer.status == StatusCode::OK, "{}", answer.text());
            if !refused {
                pods.insert(answer.json()["manifestHash"].as_str().expect("a hash").to_owned(), name);
            }
            until("each pod at its own URL, and nobody else", WITHIN, async || {
                let mut served = 0;
                for (hash, name) in &pods {
                    let answer = host.pod(hash, "/").await;
                    if answer.status == StatusCode::OK {
                        assert_eq!(answer.text().trim(), *name, "codiusd hands out addresses: {managed}");
                        served += 1;
                    }
                }
                (served == pods.len()).then_some(())
            })
            .await;
            hyperd.kill9();
            hyperd.start_again().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_used_again_and_none_is_sold_that_is_not_there() {
    let hyperd = Hyperd::builder(&hyperd::binary().display().to_string()).prefix(29).start().await;
    let host = on(&hyperd).start().await;
    let payer = Payer::connect(host.ilp()).await;
    // A machine is gone a moment before the host has looked at who is left.
    let has_room = async |upload: &Upload| {
        let quoted = host.api(Method::POST, "/pods?duration=1", Some(upload.json()), Some(&pay_token())).await;
        (quoted.status == StatusCode::PAYMENT_REQUIRED).then_some(())
    };
    for name in ["first", "second", "third", "fourth"] {
        payer.run_pod(&host, &named(&hyperd, name), 600).await;
    }
    for name in ["fifth", "sixth", "seventh", "eighth"] {
        let upload = named(&hyperd, name);
        until("the one free address", WITHIN, async || has_room(&upload).await).await;
        payer.run_pod(&host, &upload, 1).await;
        until("its end", WITHIN, async || (hyperd.vms() == 4).then_some(())).await;
    }
    let last = ["one", "another", "a third"].map(|name| named(&hyperd, name));
    until("the one free address", WITHIN, async || has_room(&last[0]).await).await;
    let mut ended = pay_at_once(&host, &last).await;
    ended.sort_unstable();
    assert_eq!(
        ended.iter().map(|(status, _)| status.as_u16()).collect::<Vec<_>>(),
        [200, 503, 503],
        "it goes to who pays first: {ended:?}"
    );
    assert_eq!((ended[1].1, ended[2].1), (0, 0), "and the others pay nothing");
    let refused = payer.upload(&host, &named(&hyperd, "one too many"), 600).await;
    assert_eq!((refused.answer.status, refused.paid), (StatusCode::SERVICE_UNAVAILABLE, 0), "{}", refused.answer.text());
    assert!(refused.answer.text().contains("Address usage exceeded"), "{}", refused.answer.text());
}

/// Between its old machine and its new one a pod is nowhere, and still paid for.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_a_renewal_loses_no_pod() {
    let mut hyperd = Hyperd::builder(&hyperd::binary().display().to_string()).boot_ms(1500).start().await;
    let mut host = on(&hyperd).keep_pods().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &talking(&hyperd), 600).await;
    hyperd.kill9();
    hyperd.start_again().await;
    let creates = async || hyperd.calls().await.iter().filter(|(_, target, _)| target == "/pod/create").count();
    until("the renewal's create", WITHIN, async || (creates().await == 2).then_some(())).await;
    host.kill9();
    host.start_again().await;
    until("the pod's page", WITHIN, async || answers(&host, &hash).await).await;
    assert_eq!((hyperd.vms(), info(&host).await["runningContracts"].as_u64()), (1, Some(1)));
}

/// What can't be cleared away keeps nobody waiting.
#[tokio::test(flavor = "multi_thread")]
async fn pods_are_adopted_at_once_whatever_is_wrong_with_another() {
    let hyperd = double().await;
    let mut host = on(&hyperd).keep_pods().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let lasting = payer.run_pod(&host, &talking(&hyperd), 600).await;
    let ended = payer.run_pod(&host, &talking(&hyperd), 1).await;
    let over = jiff::Timestamp::now() + Duration::from_secs(1);
    until("the page", WITHIN, async || answers(&host, &lasting).await).await;
    host.kill9();
    // Nobody looks after pods meanwhile, so nothing tells of the end of its second but the clock.
    until("the end of what was paid for", WITHIN, async || (jiff::Timestamp::now() >= over).then_some(())).await;
    for nth in 1..=4 {
        hyperd.fault(json!({ "method": "DELETE", "call": "/pod", "nth": nth, "do": "error-500" })).await;
    }
    host.start_again().await;
    answers(&host, &lasting).await.expect("routed at once");
    assert_eq!(host.pod(&ended, "/").await.status, StatusCode::NOT_FOUND);
    until("the other to be cleared away in the end", WITHIN, async || (hyperd.vms() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hyperd_has_one_host() {
    let hyperd = double().await;
    let _host = on(&hyperd).start().await;
    let root = tempfile::tempdir().expect("a directory");
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_codiusd"));
    second.arg("serve").env("CODIUS_DEV", "true").env("CODIUS_PORT", "0").env("CODIUS_ILP_LISTEN", "127.0.0.1:0");
    second
        .env("CODIUS_ROOT", root.path().join("root"))
        .env("CODIUS_HYPER_SOCKET", hyperd.socket())
        .env("CODIUS_HYPER_BRIDGE", hyperd.bridge());
    let said = Process::run("a second codiusd", &mut second, &root.path().join("log"), WITHIN).await;
    assert!(!said.status.success() && said.text.contains("is used by another codiusd"), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_exited_pod_had_left_is_kept_and_its_memory_is_free() {
    let hyperd = double().await;
    let host = on(&hyperd).start().await;
    let payer = Payer::connect(host.ilp()).await;
    let free = async || host.api(Method::GET, "/memory", None, None).await.json()["freeMem"].as_u64().expect("a number");
    let before = free().await;
    let upload = Upload::of(hyperd.image()).debug().command(&["/bin/sh", "-c", "echo bye; sleep 0.5"]);
    let hash = payer.run_pod(&host, &upload, 600).await;
    assert_eq!(free().await, before - (512 << 20));
    let stopped = async || {
        let answer = host.api(Method::GET, &format!("/pods?manifestHash={hash}"), None, None).await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    };
    until("the exit to be noticed", WITHIN, stopped).await;
    assert_eq!(host.pod(&hash, "/").await.status, StatusCode::NOT_FOUND, "its route is gone");
    until("its memory to be free", WITHIN, async || (free().await == before).then_some(())).await;
    assert_eq!(hyperd.vms(), 0);
    assert_eq!(host.api(Method::GET, &format!("/pods/{hash}/logs"), None, None).await.text(), "app stdout bye\n");
    payer.upload(&host, &upload, 60).await;
    let left = jiff::Timestamp::now().duration_until(expiry(&host, &hash).await).as_secs();
    assert!((600..=660).contains(&left), "what was left is added: {left} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_no_machine_starts_with_are_not_sold() {
    let hyperd = double().await;
    let cpus = std::thread::available_parallelism().expect("processors");
    let wide = cpus.get() + 1;
    let machines = format!(
        "most cpus={cpus} memory=64MiB disk=64MiB price=1, wide cpus={wide} memory=64MiB disk=64MiB price=1, low cpus=1 memory=32MiB disk=64MiB price=1"
    );
    let host = on(&hyperd).set("CODIUS_MACHINES", machines).start().await;
    Payer::connect(host.ilp()).await.run_pod(&host, &named(&hyperd, "most").machine("most"), 60).await;
    for size in ["wide", "low"] {
        let refused =
            host.api(Method::POST, "/pods?duration=60", Some(named(&hyperd, size).machine(size).json()), Some(&pay_token())).await;
        assert_eq!((refused.status, refused.header("pay")), (StatusCode::BAD_REQUEST, None), "{}", refused.text());
        assert_eq!(refused.json()["message"], "manifest.machine: must be \"small\" or \"most\"");
    }
    let names: Vec<Value> = info(&host).await["machines"].as_array().expect("sizes").iter().map(|size| size["name"].clone()).collect();
    assert_eq!(names, ["small", "most"]);
    let doctor = host.run(&["doctor"]).await;
    assert!(doctor.text.contains(&format!("wide: this machine has {cpus} processors")), "{}", doctor.text);
}
