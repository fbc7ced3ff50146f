//! Every supervised task, ended once: the log names it, the host isn't ready any more, the process ends with 1, pods run on, and the next
//! start has them again.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use codiusd_kit::{
    Host, Payer, Upload,
    hyperd::{self, Hyperd},
    payer::pay_token,
    process::Signal,
    until, web,
};
use http::{Method, Request, StatusCode, header};
use serde_json::json;

use crate::{host, tls::make_certificates};

const WITHIN: Duration = Duration::from_secs(10);
/// The parts of a drain have deadlines of their own.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// What makes the task run, or notice.
#[derive(Clone, Copy, Debug)]
enum Trigger {
    /// It runs anyway.
    Runs,
    Visit,
    Upload,
    Extension,
    /// The operator stops another pod.
    Stop,
}

/// Of a host with a pod.
const TASKS: &[(&str, &str, Trigger)] = &[
    ("end", "asset", Trigger::Runs),
    ("end", "payment expiry", Trigger::Runs),
    ("end", "pod expiry", Trigger::Runs),
    ("panic", "runtime watch", Trigger::Runs),
    ("panic", "peers", Trigger::Runs),
    ("end", "control API", Trigger::Runs),
    ("end", "watchdog", Trigger::Runs),
    ("end", "admin listener", Trigger::Runs),
    ("panic", "history", Trigger::Runs),
    ("end", "connector", Trigger::Runs),
    ("panic", "network guard", Trigger::Runs),
    ("panic", "access log", Trigger::Visit),
    ("panic", "database", Trigger::Runs),
    ("panic", "idle upstream connections", Trigger::Runs),
    ("panic", "edge listeners", Trigger::Runs),
    ("panic", "edge", Trigger::Runs),
    ("panic", "upload", Trigger::Upload),
    ("panic", "extension", Trigger::Extension),
    ("panic", "stop by the operator", Trigger::Stop),
    ("panic", "removal of a pod", Trigger::Stop),
];
/// Of a host with an uplink, certificates and a self-test.
const OTHERS: &[(&str, &str)] = &[("end", "uplink"), ("panic", "certificates"), ("panic", "self-test")];
/// Of a host whose pods are at hyperd, which makes them last.
const AT_HYPERD: &[&str] = &["new start of a pod", "recovery of a pod", "recovery", "stop of banned pods"];

/// Asks for the fault, and waits until it has been taken.
async fn inject(host: &mut Host, fault: &str, name: &str) {
    let file = host.root().join("run/fault");
    fs::write(&file, format!("{fault} {name}")).expect("ask for a fault");
    host.running().signal(Signal::SIGUSR2);
    until("the fault to be injected", WITHIN, async || (!file.exists()).then_some(())).await;
}

/// The process has ended as it should, and its log says why.
async fn ends(host: &mut Host, fault: &str, name: &str) {
    let cause = if fault == "end" { "ended" } else { "panicked" };
    let edge = host.edge();
    until(&format!("not to be ready without {name}"), ENDS_WITHIN, async || {
        let answer = web::send(edge, web::get("localhost", "/readyz")).await;
        answer.map_or(true, |answer| answer.status != StatusCode::OK).then_some(())
    })
    .await;
    let status = host.running().exit(ENDS_WITHIN).await;
    assert_eq!(status.code(), Some(1), "{name}: {status}");
    let (log, line) = (host.running().log(), format!("{name} {cause}; codiusd exits, pods keep running"));
    assert!(log.contains(&line), "no {line:?} in {}", host.running().log_tail());
}

/// A request whose answer may never come.
async fn ask(to: std::net::SocketAddr, request: http::request::Builder, body: String) {
    let request = request.header(header::CONTENT_TYPE, "application/json").body(web::full(body)).expect("a request");
    drop(web::send(to, request).await);
}

/// A paid request: the fault comes after the payment.
async fn paid(host: &mut Host, method: Method, target: &str, body: Option<&serde_json::Value>, (fault, name): (&str, &str)) {
    let (payer, token) = (Payer::connect(host.ilp()).await, pay_token());
    let first = host.api(method.clone(), target, body, Some(&token)).await;
    payer.pay(first.header("pay").expect("a price"), u64::MAX).await.expect("pay");
    inject(host, fault, name).await;
    let request = Request::builder().method(method).uri(target).header(header::HOST, host.authority()).header("pay-token", token);
    ask(host.edge(), request, body.map(ToString::to_string).unwrap_or_default()).await;
}

async fn bring_about(host: &mut Host, pod: &str, trigger: Trigger, (fault, name): (&str, &str)) {
    let other = Upload::of(host.image()).env("NAME", name);
    match trigger {
        Trigger::Runs => inject(host, fault, name).await,
        Trigger::Visit => {
            inject(host, fault, name).await;
            drop(web::send(host.edge(), web::get("localhost", "/version")).await);
        }
        Trigger::Upload => paid(host, Method::POST, "/pods?duration=60", Some(other.json()), (fault, name)).await,
        Trigger::Extension => paid(host, Method::PUT, &format!("/pods?manifestHash={pod}&duration=60"), None, (fault, name)).await,
        Trigger::Stop => {
            let payer = Payer::connect(host.ilp()).await;
            let hash = payer.run_pod(host, &other, 600).await;
            inject(host, fault, name).await;
            let admin = host.admin();
            let request = Request::post("/pods/stop").header(header::HOST, admin.to_string());
            ask(admin, request, json!({ "manifestHash": hash }).to_string()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_that_ends_ends_the_process_and_no_pod() {
    let files = tempfile::tempdir().expect("make a directory");
    let builder = host().keep_pods().set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0");
    let mut host = builder.set("CODIUS_ACCESS_LOG", files.path().join("access.log").display().to_string()).start().await;
    let payer = Payer::connect(host.ilp()).await;
    let pod = payer.run_pod(&host, &Upload::of(host.image()), 3600).await;
    let processes = host.traces().processes;
    for (fault, name, trigger) in TASKS {
        bring_about(&mut host, &pod, *trigger, (fault, name)).await;
        ends(&mut host, fault, name).await;
        assert!(host.traces().processes.is_superset(&processes), "{name}: the pod runs on");
        host.start_again().await;
        let served = async || (host.pod(&pod, "/").await.status == StatusCode::OK).then_some(());
        until(&format!("the pod to be served again after {name}"), ENDS_WITHIN, served).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_task_that_ends_ends_the_process() {
    let files = tempfile::tempdir().expect("make a directory");
    let connector = host().without_pods().start().await;
    let builder = host().without_pods().uplink(connector.ilp()).set("CODIUS_TLS_CERTS", make_certificates(files.path()));
    let mut host = builder.set("CODIUS_TLS_LISTEN", "127.0.0.1:0").set("CODIUS_SELF_TEST", "on").start().await;
    for (fault, name) in OTHERS {
        inject(&mut host, fault, name).await;
        ends(&mut host, fault, name).await;
        host.start_again().await;
    }
}

/// What makes the task run, for long enough to be ended: hyperd doesn't answer what it needs.
async fn bring_about_at_hyperd(host: &mut Host, hyperd: &mut Hyperd, pod: &str, name: &str) {
    let create = json!({ "method": "POST", "call": "/pod/create", "nth": 1, "do": "hang" });
    let delete = json!({ "method": "DELETE", "call": "/pod", "nth": 1, "do": "hang" });
    match name {
        "new start of a pod" => {
            hyperd.fault(create).await;
            hyperd.kill_machine(pod);
        }
        "recovery of a pod" => {
            host.kill9();
            hyperd.kill_machine(pod);
            hyperd.fault(create).await;
            host.start_again().await;
        }
        "recovery" => {
            host.kill9();
            hyperd.kill9();
            host.start_again().await;
        }
        "stop of banned pods" => {
            hyperd.fault(delete.clone()).await;
            let (admin, ban) = (host.admin(), json!({ "manifestHash": pod, "stop": true }).to_string());
            let request = |method: Method, path: &str| Request::builder().method(method).uri(path).header(header::HOST, admin.to_string());
            let banned = tokio::spawn(ask(admin, request(Method::POST, "/ban"), ban));
            // It begins when the ban is durable; the list of bans has it before.
            let stops = async || hyperd.calls().await.iter().any(|(method, ..)| method == "DELETE").then_some(());
            until("the stop of the banned pod to begin", WITHIN, stops).await;
            host.kill9();
            banned.await.expect("the request to be over");
            hyperd.clear_faults().await;
            hyperd.fault(delete).await;
            host.start_again().await;
        }
        _ => panic!("nothing brings about {name}"),
    }
    inject(host, "panic", name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_of_pods_at_hyperd_that_ends_ends_the_process() {
    for name in AT_HYPERD {
        let mut hyperd = Hyperd::builder(&hyperd::binary().display().to_string()).start().await;
        let host = host().keep_pods().set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0");
        let host = host.set("CODIUS_HYPER_SOCKET", hyperd.socket().display().to_string()).set("CODIUS_HYPER_BRIDGE", hyperd.bridge());
        let mut host = host.start().await;
        let upload = Upload::of(hyperd.image()).command(&["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]);
        let pod = Payer::connect(host.ilp()).await.run_pod(&host, &upload, 3600).await;
        bring_about_at_hyperd(&mut host, &mut hyperd, &pod, name).await;
        ends(&mut host, "panic", name).await;
        if hyperd.runs() {
            hyperd.clear_faults().await;
        } else {
            hyperd.start_again().await;
        }
        host.start_again().await;
        let expected = if *name == "stop of banned pods" { StatusCode::NOT_FOUND } else { StatusCode::OK };
        until(&format!("what the pod is to be after {name}"), ENDS_WITHIN, async || {
            (host.pod(&pod, "/").await.status == expected).then_some(())
        })
        .await;
    }
}

/// Names in the sources: what stands first behind a call of the supervisor, a constant or a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let constant = |name: &str| {
        let (_, rest) = text.split_once(&format!("const {name}: &str = \""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let calls = [".service(", ".spawn_service(", ".job(", ".spawn_job(", ".thread("];
    let first = |call: &str| {
        let arguments =
            text.match_indices(call).filter_map(move |(at, _)| text.get(at + call.len()..)?.split_once(',')).map(|(first, _)| first);
        arguments.map(str::trim).collect::<Vec<_>>()
    };
    let name = |argument: &str| match argument.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').map(str::to_owned),
        None => constant(argument),
    };
    calls.into_iter().flat_map(first).filter_map(name).collect()
}

#[test]
fn the_tables_have_every_supervised_task() {
    let mut open = ["src", "control", "proxy/src"].map(|top| Path::new(env!("CARGO_MANIFEST_DIR")).join(top)).to_vec();
    let mut found = BTreeSet::new();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("read a directory").map(|entry| entry.expect("read a directory")) {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.extend(names_in(&fs::read_to_string(path).expect("read a source file")));
            }
        }
    }
    let known = TASKS.iter().map(|(_, name, _)| *name).chain(OTHERS.iter().map(|(_, name)| *name)).chain(AT_HYPERD.iter().copied());
    assert_eq!(found, known.map(str::to_owned).collect());
}
