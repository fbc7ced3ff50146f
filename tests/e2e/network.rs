//! The pods' network policy, as its operator sees it and as another program disturbs it.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use codiusd_kit::{
    Host, Payer, Upload,
    hyperd::{self, Hyperd},
    payer::pay_token,
    process::Process,
    until, web,
};
use http::{Method, StatusCode};
use serde_json::Value;

use crate::host;

const WITHIN: Duration = Duration::from_secs(20);

/// How often the policy was put back.
async fn restored(host: &Host) -> u64 {
    let metrics = web::send(host.admin(), web::get(&host.admin().to_string(), "/metrics")).await.expect("metrics").text();
    let count = metrics.lines().find_map(|line| line.strip_prefix("codius_network_policy_restored_total ")?.parse().ok());
    count.expect("the metric")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_is_shown_checked_put_back_and_only_removed_without_pods() {
    let mut host =
        host().set("CODIUS_BLOCK_PORTS", "in:tcp/8081").set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0").start().await;
    let closed = Upload::of(host.image()).port(8081);
    let refused = host.api(Method::POST, "/pods?duration=60", Some(closed.json()), Some(&pay_token())).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
    assert!(refused.text().contains("the operator of this host has closed it"), "{}", refused.text());

    let shown = host.run(&["network", "show"]).await;
    for row in ["metadata", "mail", "private", "reflectors", "in-blocked", "tcp/8081"] {
        assert!(shown.text.contains(row), "{row}: {}", shown.text);
    }
    let json: Value = serde_json::from_str(host.run(&["network", "show", "--json"]).await.text.lines().last().unwrap()).unwrap();
    let table = json["table"].as_str().unwrap().to_owned();

    let payer = Payer::connect(host.ilp()).await;
    let bought = payer.upload(&host, &Upload::of(host.image()), 600).await;
    assert_eq!(bought.answer.status, StatusCode::OK, "{}", bought.answer.text());
    let checked = host.run(&["network", "check"]).await;
    assert!(checked.status.success(), "{}", checked.text);
    let kept = host.run(&["network", "remove"]).await;
    assert!(!kept.status.success() && kept.text.contains("a codiusd runs"), "{}", kept.text);

    for disturb in [vec!["delete", "table", "inet", &table], vec!["insert", "rule", "inet", &table, "forward", "accept"]] {
        let before = restored(&host).await;
        let done = Command::new("nft").args(&disturb).output().unwrap();
        assert!(done.status.success(), "{disturb:?}: {}", String::from_utf8_lossy(&done.stderr));
        until("the policy to be put back", WITHIN, async || (restored(&host).await > before).then_some(())).await;
        let checked = host.run(&["network", "check"]).await;
        assert!(checked.status.success(), "{disturb:?}: {}", checked.text);
    }
    host.terminate().await;
    assert!(!is_there(&table), "the pods are gone, and so is it");
}

fn is_there(table: &str) -> bool {
    let list = Command::new("nft").args(["list", "table", "inet", table]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    list.expect("run nft").success()
}

/// Asks its neighbours for their pages, again and again, and serves who has answered in the last whole round. The daemon's first two
/// addresses and codiusd's first are asked.
fn nosy(hyperd: &Hyperd) -> Upload {
    let [a, b, c, _] = hyperd.network().octets();
    // Not by wget: one that is linked statically crashes where no services file is.
    let visit = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {a}.{b}.{c}.$i 8080 | grep -q HTTP && echo reached $i");
    let round =
        format!("{{ echo begin $n; for i in 2 3 254; do {visit}; done; echo end; }} > /www/next 2>/dev/null; mv /www/next /www/found");
    let script = format!("n=0; while :; do n=$((n+1)); {round}; sleep 0.1; done & exec /bin/httpd -f -p 8080 -h /www");
    Upload::of(hyperd.image()).command(&["/bin/sh", "-c", &script])
}

/// The number of the last whole round, and how many pods have answered in it, the one that asks among them.
async fn round(host: &Host, hash: &str) -> Option<(u64, usize)> {
    let answer = host.pod(hash, "/found").await;
    let text = (answer.status == StatusCode::OK).then(|| answer.text())?;
    let number = text.lines().next()?.strip_prefix("begin ")?.parse().ok()?;
    Some((number, text.lines().filter(|line| line.starts_with("reached ")).count()))
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_at_hyperd_are_kept_apart_by_the_policy_and_by_nothing_else() {
    let hyperd = Hyperd::builder(&hyperd::binary().display().to_string()).start().await;
    let host = host().keep_pods().set("CODIUS_HYPER_SOCKET", hyperd.socket().display().to_string());
    let mut host = host.set("CODIUS_HYPER_BRIDGE", "none").start().await;
    let none = host.run(&["network", "check"]).await;
    assert!(!none.status.success() && none.text.contains("hyperd.bridge"), "{}", none.text);
    let payer = Payer::connect(host.ilp()).await;
    let first = payer.run_pod(&host, &nosy(&hyperd), 600).await;
    payer.run_pod(&host, &nosy(&hyperd), 600).await;
    let both = async || round(&host, &first).await.filter(|(_, reached)| *reached == 2);
    until("a pod to reach its neighbour while there is no policy", WITHIN, both).await;

    host.terminate().await;
    host.set("CODIUS_HYPER_BRIDGE", &hyperd.bridge());
    host.start_again().await;
    let (now, _) = until("the pod to be served again", WITHIN, async || round(&host, &first).await).await;
    // The round after the one that is under way has begun, and ended, under the policy.
    let later = until("two more rounds", WITHIN, async || round(&host, &first).await.filter(|(number, _)| *number > now + 1)).await;
    assert_eq!(later.1, 1, "it reaches itself alone");
    let checked = host.run(&["network", "check"]).await;
    assert!(checked.status.success() && checked.text.contains("2 of 2 ports are isolated"), "{}", checked.text);

    // A port that another program opens is closed by the next look.
    let ports = format!("/sys/class/net/{}/brif", hyperd.bridge());
    let port = fs::read_dir(ports).expect("the bridge's ports").next().expect("a port").expect("read it").path().join("isolated");
    fs::write(&port, "0").expect("open the port");
    let isolated = async || fs::read_to_string(&port).is_ok_and(|shown| shown.trim() == "1").then_some(());
    until("the port to be isolated again", WITHIN, isolated).await;

    // The next one is apart from its first moment in the hands of its owner. The connector is a new one since the start.
    let third = Payer::connect(host.ilp()).await.run_pod(&host, &nosy(&hyperd), 600).await;
    let checked = host.run(&["network", "check"]).await;
    assert!(checked.status.success() && checked.text.contains("3 of 3 ports are isolated"), "{}", checked.text);
    let (_, reached) = until("a round of the third pod", WITHIN, async || round(&host, &third).await).await;
    assert_eq!(reached, 1, "it reaches itself alone");
    assert_the_table_lives_as_long_as_pods(&mut host, &hyperd).await;
}

async fn assert_the_table_lives_as_long_as_pods(host: &mut Host, hyperd: &Hyperd) {
    let table = format!("codius-{}", hyperd.bridge());
    let kept = host.run(&["network", "remove"]).await;
    assert!(!kept.status.success() && kept.text.contains("a codiusd runs"), "{}", kept.text);
    host.terminate().await;
    assert!(is_there(&table), "pods run on");
    let kept = host.run(&["network", "remove"]).await;
    assert!(!kept.status.success() && kept.text.contains("3 links of pods"), "{}", kept.text);
    host.set("CODIUS_STOP_PODS_AT_EXIT", "true");
    host.start_again().await;
    assert!(is_there(&table));
    host.terminate().await;
    assert!(!is_there(&table), "the last pod has gone, and so has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bridge_has_one_host() {
    let hyperd = Hyperd::builder(&hyperd::binary().display().to_string()).start().await;
    let host = host().set("CODIUS_HYPER_SOCKET", hyperd.socket().display().to_string());
    let host = host.set("CODIUS_HYPER_BRIDGE", hyperd.bridge()).start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut second = Command::new(env!("CARGO_BIN_EXE_codiusd"));
    second.arg("serve").env("CODIUS_DEV", "true").env("CODIUS_PORT", "0").env("CODIUS_ILP_LISTEN", "127.0.0.1:0");
    second.env("CODIUS_ROOT", directory.path().join("root")).env("CODIUS_HYPER_SOCKET", directory.path().join("another.sock"));
    second.env("CODIUS_HYPER_BRIDGE", hyperd.bridge()).env("CODIUS_BLOCK_PORTS", "tcp/445");
    let said = Process::run("a second codiusd", &mut second, &directory.path().join("log"), WITHIN).await;
    assert!(!said.status.success() && said.text.contains("(hyperd.bridge) is used by another codiusd"), "{}", said.text);
    let checked = host.run(&["network", "check"]).await;
    assert!(checked.status.success(), "the table of the first: {}", checked.text);
}
