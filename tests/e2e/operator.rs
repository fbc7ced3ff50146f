//! What the operator sees and changes while the host runs: over the listener on this machine, and by commands.

use std::time::Duration;

use codiusd_kit::{
    Host, HostBuilder, Payer, Upload,
    payer::pay_token,
    until,
    web::{self, Answer},
};
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use crate::{expiry, host, quote, seconds_between};

/// How long what is left of a pod may stay.
const CLEAN_WITHIN: Duration = Duration::from_secs(20);
/// How long a line of the log may take.
const LOGGED_WITHIN: Duration = Duration::from_secs(20);
/// Answers of the Node codiusd's admin API, as they were recorded; bodies as they were sent.
const RECORDED: &str = include_str!("node-admin.json");
/// Every path of the listener, and how it is asked.
const PATHS: [(Method, &str); 15] = [
    (Method::GET, "/"),
    (Method::GET, "/getPods"),
    (Method::GET, "/getPodInfo?id=x"),
    (Method::GET, "/getAllUptime"),
    (Method::POST, "/config"),
    (Method::GET, "/metrics"),
    (Method::GET, "/status"),
    (Method::GET, "/pods"),
    (Method::POST, "/pods/stop"),
    (Method::GET, "/bans"),
    (Method::POST, "/ban"),
    (Method::POST, "/unban"),
    (Method::POST, "/drain"),
    (Method::POST, "/undrain"),
    (Method::POST, "/log"),
];

/// Those of the Node codiusd, whose tools ask for them under its name.
const NODE_PATHS: [&str; 4] = ["/getPods", "/getPodInfo", "/getAllUptime", "/config"];

fn operated() -> HostBuilder {
    host().without_pods().set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0")
}

async fn ask(host: &Host, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(web::full(body.to_owned())).expect("a request");
    web::send(host.admin(), request).await.expect(path)
}

async fn see(host: &Host, path: &str) -> Value {
    let answer = ask(host, Method::GET, path, &[("host", "localhost")], "").await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    answer.json()
}

async fn tell(host: &Host, path: &str, body: Value) -> Answer {
    let json = [("host", "localhost"), ("content-type", "application/json")];
    ask(host, Method::POST, path, &json, &body.to_string()).await
}

/// An upload or extension that isn't paid for.
async fn refused(host: &Host, method: Method, target: &str, body: Option<&Value>, status: StatusCode, message: &str) {
    let books = host.books();
    let answer = host.api(method, target, body, Some(&pay_token())).await;
    assert_eq!(answer.status, status, "{target}: {}", answer.text());
    assert!(answer.json()["message"].as_str().is_some_and(|said| said.contains(message)), "{}", answer.text());
    assert!(answer.header("pay").is_none() && host.books() == books, "nothing is to be paid");
}

async fn cost(host: &Host) -> Value {
    host.api(Method::GET, "/info", None, None).await.json()["costPerMonth"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_the_node_codiusds_operators_work() {
    let host = operated().start().await;
    // What was an accident there, and is right here.
    let otherwise = [("admin-getPodInfo-unknown", StatusCode::NOT_FOUND), ("admin-delete", StatusCode::METHOD_NOT_ALLOWED)];
    let recorded: Vec<Value> = serde_json::from_str(RECORDED).expect("the recorded answers");
    let (running, others): (Vec<Value>, Vec<Value>) = recorded.into_iter().partition(|row| row["id"] == "admin-getPodInfo");
    for row in &others {
        let (id, method) = (row["id"].as_str().unwrap(), row["method"].as_str().unwrap().parse().unwrap());
        let mut headers = vec![("host", "localhost")];
        headers.extend(row["contentType"].as_str().map(|kind| ("content-type", kind)));
        let answer = ask(&host, method, row["path"].as_str().unwrap(), &headers, row["body"].as_str().unwrap_or_default()).await;
        if let Some((_, status)) = otherwise.iter().find(|(other, _)| *other == id) {
            assert_eq!(answer.status, *status, "{id}");
            continue;
        }
        assert_eq!(json!(answer.status.as_u16()), row["status"], "{id}: {}", answer.text());
        match row["answer"]["message"].as_str() {
            Some(message) => {
                let told = answer.json();
                assert!(told["message"].as_str().is_some_and(|said| said.starts_with(message)), "{id}: {told}");
                assert_eq!((&told["statusCode"], &told["error"]), (&row["answer"]["statusCode"], &row["answer"]["error"]), "{id}");
            }
            None if row["answer"].is_null() => assert_eq!(answer.text(), "", "{id}"),
            None => assert_eq!(answer.json(), row["answer"], "{id}"),
        }
    }
    assert_eq!(cost(&host).await, 10, "what the last of them has set");

    let payer = Payer::connect(host.ilp()).await;
    let upload = Upload::of(host.image());
    let bought = payer.upload(&host, &upload, 600).await;
    assert_eq!((bought.answer.status, bought.paid), (StatusCode::OK, 2_283_106), "{}", bought.answer.text());
    let hash = bought.answer.json()["manifestHash"].as_str().unwrap().to_owned();
    assert_eq!(see(&host, "/getPods").await, json!({ "running": [hash] }));
    let info = see(&host, &format!("/getPodInfo?id={hash}")).await;
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&info), names(&running[0]["answer"]));
    for (name, value) in
        [("running", json!(true)), ("memory", json!(512)), ("totalUptime", json!(600)), ("port", json!(8080)), ("ip", json!("127.0.0.1"))]
    {
        assert_eq!(info[name], value, "{info}");
    }
    assert_eq!(info["expiry"], bought.answer.json()["expiry"]);
    assert_eq!(see(&host, "/getAllUptime").await, json!({ "aggregate_pod_uptime": "600", "aggregate_earnings": { "XRP": "0.002283106" } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn time_that_was_bought_stays_what_it_was() {
    let mut host = operated().start().await;
    let hash = Payer::connect(host.ilp()).await.run_pod(&host, &Upload::of(host.image()), 600).await;
    // The pods of this host end with it, and are started anew.
    host.kill9();
    let killed = jiff::Timestamp::now();
    until("a second to pass", LOGGED_WITHIN, async || (seconds_between(killed, jiff::Timestamp::now()) > 1.0).then_some(())).await;
    host.start_again().await;
    let bought = async |expected: u64| {
        let info = see(&host, &format!("/getPodInfo?id={hash}")).await;
        let all = see(&host, "/getAllUptime").await["aggregate_pod_uptime"].clone();
        (info["totalUptime"] == expected && all == json!(expected.to_string())).then_some(())
    };
    until("the pod with all the time that was bought", LOGGED_WITHIN, async || bought(600).await).await;
    let more = format!("/pods?manifestHash={hash}&duration=60");
    let extended = Payer::connect(host.ilp()).await.buy(&host, Method::PUT, &more, None, &pay_token(), u64::MAX).await;
    assert_eq!(extended.answer.status, StatusCode::OK, "{}", extended.answer.text());
    bought(660).await.expect("what was bought in all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_holds_for_whom_it_was_told_and_over_restarts() {
    let mut host = operated().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let upload = Upload::of(host.image());
    let before = quote(&host, upload.json(), 600).await;
    let token = pay_token();
    let half = payer.buy(&host, Method::POST, "/pods?duration=600", Some(upload.json()), &token, before / 2).await;
    assert_eq!(half.answer.status, StatusCode::PAYMENT_REQUIRED);

    assert_eq!(tell(&host, "/config", json!({ "hostCostPerMonth": "20" })).await.status, StatusCode::NO_CONTENT);
    assert_eq!((quote(&host, upload.json(), 600).await, cost(&host).await), (4_566_211, json!(20)));
    let page = host.api(Method::GET, "/", None, None).await.text();
    assert!(
        page.contains("id=\"costPerMonth\">20<")
            && host.api(Method::GET, "/info", None, None).await.json()["machines"][0]["costPerMonth"] == 20
    );
    let done = payer.buy(&host, Method::POST, "/pods?duration=600", Some(upload.json()), &token, u64::MAX).await;
    assert_eq!((done.answer.status, half.paid + done.paid), (StatusCode::OK, before), "who has begun to pay pays what was said");

    assert_eq!(tell(&host, "/config", json!({ "hostCostPerMonth": 0.5, "durable": false })).await.status, StatusCode::NO_CONTENT);
    assert_eq!(cost(&host).await, 0.5);
    for wrong in [json!({ "hostCostPerMonth": -1 }), json!({ "hostCostPerMonth": null }), json!({ "durable": "x" }), json!({ "price": 1 })]
    {
        let answer = tell(&host, "/config", wrong.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}: {}", answer.text());
    }
    host.kill9();
    host.start_again().await;
    assert_eq!(cost(&host).await, 20, "what was durable");
    host.terminate().await;
    host.set("CODIUS_COST_PER_MONTH", "30");
    host.start_again().await;
    assert_eq!(cost(&host).await, 30, "the settings were changed since");
    assert_eq!(tell(&host, "/config", json!({ "hostCostPerMonth": 0 })).await.status, StatusCode::NO_CONTENT);
    assert_eq!(quote(&host, upload.json(), 600).await, 0);
    let free = host.api(Method::POST, "/pods?duration=600", Some(Upload::of(host.image()).json()), Some(&pay_token())).await;
    assert_eq!(free.status, StatusCode::OK, "0 is free: {}", free.text());
    assert_eq!(tell(&host, "/drain", json!({})).await.status, StatusCode::NO_CONTENT);
    let other = Upload::of(host.image());
    refused(&host, Method::POST, "/pods?duration=600", Some(other.json()), StatusCode::SERVICE_UNAVAILABLE, "takes no uploads").await;
    assert_eq!(tell(&host, "/undrain", json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(tell(&host, "/ban", json!({ "image": host.image() })).await.status, StatusCode::OK);
    refused(&host, Method::POST, "/pods?duration=600", Some(other.json()), StatusCode::FORBIDDEN, "by the operator of this host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_banned_is_refused_before_money_and_after_a_restart() {
    let mut host = operated().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let (runs, other) = (Upload::of(host.image()), Upload::of(host.image()));
    let hash = payer.run_pod(&host, &runs, 600).await;
    let until = expiry(&host, &hash).await;
    // Paid for, and not used yet, when the ban comes.
    let token = pay_token();
    let asked = host.api(Method::POST, "/pods?duration=60", Some(other.json()), Some(&token)).await;
    payer.pay(asked.header("pay").expect("402"), u64::MAX).await.expect("pay");

    let answer = tell(&host, "/ban", json!({ "image": host.image() })).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "running": [hash] })), "it may run to its end");
    let digest = host.image().split_once('@').unwrap().1.to_owned();
    assert_eq!(see(&host, "/bans").await, json!({ "bans": [{ "kind": "image", "subject": digest, "stop": false }] }));
    let extension = format!("/pods?manifestHash={hash}&duration=60");
    for round in ["at once", "after a restart"] {
        refused(&host, Method::POST, "/pods?duration=60", Some(Upload::of(host.image()).json()), StatusCode::FORBIDDEN, "is banned").await;
        refused(&host, Method::PUT, &extension, None, StatusCode::FORBIDDEN, "is banned").await;
        let paid = host.api(Method::POST, "/pods?duration=60", Some(other.json()), Some(&token)).await;
        assert_eq!(paid.status, StatusCode::FORBIDDEN, "{round}: {}", paid.text());
        assert!(paid.text().contains("what was paid is kept"), "{round}: {}", paid.text());
        if round == "at once" {
            host.kill9();
            host.start_again().await;
        }
    }
    assert_eq!(see(&host, "/getPods").await, json!({ "running": [hash] }));
    assert_eq!(expiry(&host, &hash).await, until);

    let stopped = tell(&host, "/ban", json!({ "manifestHash": hash, "stop": true })).await;
    assert_eq!((stopped.status, stopped.json()), (StatusCode::OK, json!({ "stopped": [hash] })));
    assert_eq!(see(&host, "/getPods").await, json!({ "running": [] }));
    assert_eq!(tell(&host, "/unban", json!({ "image": digest })).await.status, StatusCode::NO_CONTENT);
    assert_eq!(tell(&host, "/unban", json!({ "image": digest })).await.status, StatusCode::NOT_FOUND);
    refused(&host, Method::POST, "/pods?duration=60", Some(runs.json()), StatusCode::FORBIDDEN, "is banned").await;
    let paid = host.api(Method::POST, "/pods?duration=60", Some(other.json()), Some(&token)).await;
    assert_eq!(paid.status, StatusCode::OK, "what was paid is there still: {}", paid.text());
    for wrong in [json!({}), json!({ "image": "nginx:1" }), json!({ "image": "a", "manifestHash": hash }), json!({ "manifestHash": "x" })] {
        assert_eq!(tell(&host, "/ban", wrong.clone()).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    for unknown in ["x".to_owned(), "a".repeat(52), hash] {
        assert_eq!(tell(&host, "/pods/stop", json!({ "manifestHash": unknown })).await.status, StatusCode::NOT_FOUND, "{unknown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_host_takes_nothing_new_and_honours_what_is_paid_for() {
    let mut host = operated().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
    let (begun, token) = (Upload::of(host.image()), pay_token());
    let asked = host.api(Method::POST, "/pods?duration=60", Some(begun.json()), Some(&token)).await;

    assert_eq!(tell(&host, "/drain", json!({})).await.status, StatusCode::NO_CONTENT);
    let extension = format!("/pods?manifestHash={hash}&duration=60");
    let message = "takes no uploads and extensions";
    let all_refused = async |host: &Host| {
        refused(host, Method::POST, "/pods?duration=60", Some(Upload::of(host.image()).json()), StatusCode::SERVICE_UNAVAILABLE, message)
            .await;
        refused(host, Method::PUT, &extension, None, StatusCode::SERVICE_UNAVAILABLE, message).await;
    };
    all_refused(&host).await;
    assert_eq!(host.api(Method::GET, "/info", None, None).await.json()["acceptingUploads"], false);
    let ready = host.api(Method::GET, "/readyz", None, None).await;
    assert_eq!(ready.status, StatusCode::OK, "pods are still served: {}", ready.text());
    payer.pay(asked.header("pay").expect("402"), u64::MAX).await.expect("pay");
    let honoured = host.api(Method::POST, "/pods?duration=60", Some(begun.json()), Some(&token)).await;
    assert_eq!(honoured.status, StatusCode::OK, "{}", honoured.text());
    assert_eq!(see(&host, "/status").await["pods"], json!({ "known": 2, "running": 2 }));

    host.kill9();
    host.start_again().await;
    all_refused(&host).await;
    assert_eq!(tell(&host, "/undrain", json!({})).await.status, StatusCode::NO_CONTENT);
    let taken = host.api(Method::PUT, &extension, None, Some(&pay_token())).await;
    assert_eq!(taken.status, StatusCode::PAYMENT_REQUIRED, "{}", taken.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_a_page_that_shows_what_is_paid_for() {
    let host = operated().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
    let page = ask(&host, Method::GET, "/", &[("host", "localhost"), ("accept", "text/html,*/*;q=0.8")], "").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{:?}", page.headers);
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    let text = page.text();
    assert!(text.contains(&hash) && text.contains("<svg") && !text.contains("{{"), "{text}");
    for elsewhere in ["src=\"http", "href=\"//", "url(http", "@import"] {
        assert!(!text.contains(elsewhere), "{elsewhere} in {text}");
    }
    let program = ask(&host, Method::GET, "/", &[("host", "localhost"), ("accept", "application/json")], "").await;
    assert!(!program.text().contains("<html"), "{}", program.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_are_no_operators() {
    let host = operated().start().await;
    for (method, path) in PATHS {
        for headers in [
            &[("host", "evil.example:3001")][..],
            &[("host", "local.codius.org:3001"), ("origin", "http://local.codius.org:3001")],
            &[("host", "local.codius.org:3001"), ("sec-fetch-site", "none")],
            &[("host", "localhost"), ("origin", "https://evil.example")],
            &[("host", "localhost"), ("origin", "null")],
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
        ] {
            let answer = ask(&host, method.clone(), path, headers, r#"{"hostCostPerMonth":1,"log":"trace"}"#).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path} {headers:?}: {}", answer.text());
        }
        if !NODE_PATHS.iter().any(|node| path.starts_with(node)) {
            let answer = ask(&host, method.clone(), path, &[("host", "local.codius.org:3001")], "").await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}: the Node codiusd had no such thing");
        }
        let other = if method == Method::GET { Method::POST } else { Method::GET };
        let answer = ask(&host, other, path, &[("host", "localhost")], "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert!(answer.headers.contains_key(header::ALLOW), "{path}");
    }
    let status = see(&host, "/status").await;
    assert_eq!((&status["draining"], &status["costPerMonth"]), (&json!(false), &json!("10")), "nothing of it was done");

    let large = ask(&host, Method::POST, "/ban", &[("host", "localhost")], &"x".repeat(70_000)).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    let form = [("host", "localhost"), ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(ask(&host, Method::POST, "/ban", &form, "image=nginx").await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(ask(&host, Method::GET, "/nothing", &[("host", "localhost")], "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_chosen_while_the_host_runs() {
    let host = operated().start().await;
    assert_eq!(see(&host, "/status").await["log"], "info");
    assert_eq!(tell(&host, "/log", json!({ "log": "warn,codiusd_control=debug" })).await.status, StatusCode::NO_CONTENT);
    assert_eq!(see(&host, "/status").await["log"], "codiusd_control=debug,warn");
    for wrong in ["loud", "", "codiusd=loud"] {
        assert_eq!(tell(&host, "/log", json!({ "log": wrong })).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_chooses_the_log_and_says_what_it_may_be() {
    let mut host = operated().start().await;
    let run = async |host: &Host, arguments: &[&str]| {
        let output = host.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", output.text);
        output.text
    };
    assert_eq!(run(&host, &["log"]).await, "info\n");
    // Of a connection that has ended there is a line for whoever wants to know why.
    let ends = async |host: &Host| drop(Payer::connect(host.ilp()).await);
    let says = |line: &str| (line.contains(" DEBUG ") && line.contains("BTP session has ended")).then_some(());
    ends(&host).await;
    assert_eq!(run(&host, &["log", "info,codiusd_ilp=debug"]).await, "codiusd_ilp=debug,info\n");
    let before = host.running().log();
    assert_eq!(before.lines().find_map(says), None, "{before}");
    ends(&host).await;
    host.running().line("why a connection has ended", LOGGED_WITHIN, says).await;

    for wrong in ["loud", "codiusd=loud", "codiusd", "", "info codiusd_ilp=debug", "info,,debug"] {
        let output = host.run(&["log", wrong]).await;
        assert_eq!(output.status.code(), Some(1), "{wrong}: {}", output.text);
        let remedy = "a level (off, error, warn, info, debug, trace), or module=level separated by commas";
        assert!(output.text.contains(remedy), "{wrong}: {}", output.text);
    }
    assert_eq!(run(&host, &["log", "--json"]).await, "{\"log\":\"codiusd_ilp=debug,info\"}\n", "it is what it was");
    assert_eq!(run(&host, &["log", "off", "--json"]).await, "{\"log\":\"off\"}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_find_the_host_and_say_what_is_wrong() {
    let mut host = operated().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let hash = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
    let run = async |host: &Host, arguments: &[&str]| {
        let output = host.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", output.text);
        output.text
    };
    let json = async |host: &Host, arguments: &[&str]| -> Value { serde_json::from_str(&run(host, arguments).await).expect("JSON") };

    let status = json(&host, &["status", "--json"]).await;
    assert_eq!((&status["pods"]["running"], &status["earnings"][0]["earned"]), (&json!(1), &json!("2283106")));
    assert!(run(&host, &["status"]).await.contains("0.002283106 XRP"));
    let pods = json(&host, &["pods", "--json"]).await;
    assert_eq!(
        (&pods["pods"][0]["manifestHash"], &pods["pods"][0]["state"], &pods["pods"][0]["requests"]),
        (&json!(hash), &json!("running"), &json!(0))
    );
    let table = run(&host, &["pods"]).await;
    assert!(table.contains(&hash) && table.contains("512 MiB") && table.contains("REMAINING"), "{table}");
    run(&host, &["drain"]).await;
    assert!(run(&host, &["status"]).await.contains("draining"));
    run(&host, &["undrain"]).await;
    assert_eq!(run(&host, &["ban", "nginx"]).await, "no running pods\n");
    assert!(run(&host, &["bans"]).await.contains("docker.io/library/nginx"));
    run(&host, &["unban", "nginx"]).await;
    assert_eq!(json(&host, &["bans", "--json"]).await, json!({ "bans": [] }));
    assert_eq!(run(&host, &["ban", &hash]).await, format!("running {hash}\n"));
    let url = format!("http://{}", host.admin());
    assert_eq!(run(&host, &["stop", &hash, "--admin", &url]).await, format!("stopped {hash}\n"));
    assert_eq!(run(&host, &["pods"]).await, "no pods\n");

    let fails = async |host: &Host, arguments: &[&str], remedy: &str| {
        let output = host.run(arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", output.text);
        assert!(output.text.contains(remedy), "{arguments:?}: {}", output.text);
    };
    fails(&host, &["stop", &hash], "no pod found").await;
    fails(&host, &["unban", "nginx"], "it isn't banned").await;
    host.terminate().await;
    fails(&host, &["status"], "no host is up").await;
    fails(&host, &["status", "--admin", &url], "nobody answers at").await;
    host.set("CODIUS_ADMIN_API", "false");
    host.start_again().await;
    fails(&host, &["drain"], "set admin.enabled = true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_container_is_gone_with_all_it_had() {
    let host = host().set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0").start().await;
    let payer = Payer::connect(host.ilp()).await;
    let (stopped, banned) = (Upload::of(host.image()), Upload::of(host.image()));
    let [stopped, banned] = [payer.run_pod(&host, &stopped, 600).await, payer.run_pod(&host, &banned, 600).await];
    for hash in [&stopped, &banned] {
        assert_eq!(host.pod(hash, "/").await.status, StatusCode::OK);
    }
    let answer = tell(&host, "/pods/stop", json!({ "manifestHash": stopped })).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "stopped": [stopped] })));
    assert_eq!((host.pod(&stopped, "/").await.status, host.pod(&banned, "/").await.status), (StatusCode::NOT_FOUND, StatusCode::OK));
    let answer = tell(&host, "/ban", json!({ "image": host.image(), "stop": true })).await;
    assert_eq!(answer.json(), json!({ "stopped": [banned] }), "{}", answer.text());
    assert_eq!(host.pod(&banned, "/").await.status, StatusCode::NOT_FOUND);
    until("the pods to leave nothing", CLEAN_WITHIN, async || host.traces().is_empty().then_some(())).await;
}
