//! The pods' network policy, as its operator sees it and as another program disturbs it.

use std::{process::Command, time::Duration};

use codiusd_kit::{Host, Payer, Upload, payer::pay_token, until, web};
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
    let host = host().set("CODIUS_BLOCK_PORTS", "in:tcp/8081").set("CODIUS_ADMIN_API", "true").set("CODIUS_ADMIN_PORT", "0").start().await;
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
    assert!(!kept.status.success() && kept.text.contains("--force"), "{}", kept.text);

    for disturb in [vec!["delete", "table", "inet", &table], vec!["insert", "rule", "inet", &table, "forward", "accept"]] {
        let before = restored(&host).await;
        let done = Command::new("nft").args(&disturb).output().unwrap();
        assert!(done.status.success(), "{disturb:?}: {}", String::from_utf8_lossy(&done.stderr));
        until("the policy to be put back", WITHIN, async || (restored(&host).await > before).then_some(())).await;
        let checked = host.run(&["network", "check"]).await;
        assert!(checked.status.success(), "{disturb:?}: {}", checked.text);
    }
}
