//! The Debian package and the units, with a systemd.

use std::{collections::BTreeSet, process::Command};

use super::{SCRIPT_WITHIN, deploy, repository, server};

/// Exposure, of 100, as `systemd-analyze security` reckons it: what is left is listed in the unit, with reasons.
const EXPOSURE_MAX: u32 = 72;
/// All that a package may leave behind, but for what dpkg, apt and systemd note themselves.
const TREE: &str = r"find /etc /usr /var/lib/codius /run/systemd/system -printf '%p %m %u %l\n' 2>/dev/null | grep -v -e /etc/ld.so -e '/man/.*cat' | sort";
/// What the package is installed with.
const INSTALL: &str = "apt-get install --yes --reinstall ./codiusd_*.deb";

const SETTINGS: &str = r#"cat >/etc/codius/codiusd.toml <<'TOML'
dev = true
public_uri = "http://codius.localhost"

[edge]
bind_ip = "0.0.0.0"
port = 80

[images]
layouts = ["/srv/images/demo"]

[capacity]
disk_fraction = 1

[[pod_size]]
name = "small"
cpus = 1
memory = "512MiB"
disk = "64MiB"
price = 1
TOML
"#;

/// A pod; its page is asked for by `page`, and its process is `pod`.
const POD: &str = r#"
IMAGE=$(codiusd image demo /srv/images/demo | grep -o 'local/demo@sha256:[0-9a-f]*' | head -n 1)
cat >/root/manifest.json <<JSON
{ "name": "p", "version": "1.0.0", "machine": "small", "port": "8080", "containers": [{ "id": "web", "image": "$IMAGE" }] }
JSON
systemctl restart codiusd
codiusd upload /root/manifest.json --host http://codius.localhost --duration 1h --json | grep -o '[a-z0-9]*\.codius\.localhost' | head -n 1 >/root/pod
"#;
const HELPERS: &str = r#"
page() { curl -fsS -m 60 --retry 30 --retry-connrefused -o /dev/null -H "Host: $(cat /root/pod)" http://127.0.0.1/; }
pod() { pgrep -x codius-demo-pag; }
main() { systemctl show -p MainPID --value codiusd; }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_package_keeps_settings_and_purging_it_leaves_nothing() {
    let server = server().await;
    let run = async |script: &str| server.does(&format!("cd /srv/codiusd\n{script}"), SCRIPT_WITHIN).await;
    let bare = run(TREE).await;
    run(INSTALL).await;
    assert_eq!(run("systemctl is-enabled codiusd.service").await, "enabled\n");
    assert_eq!(run("stat -c %a /etc/codius/codiusd.toml /var/lib/codius").await, "600\n711\n", "the settings come to hold a secret");
    run("systemd-analyze verify /usr/lib/systemd/system/codiusd.service /usr/lib/systemd/system/codiusd.socket").await;
    run(&format!("systemd-analyze security --no-pager --threshold={EXPOSURE_MAX} codiusd.service")).await;
    run("gzip -dc /usr/share/man/man1/codiusd-serve.1.gz | grep -q public_uri; bash -n /usr/share/bash-completion/completions/codiusd")
        .await;
    run("codiusd check --print-default | cmp - /etc/codius/codiusd.toml").await;

    run(SETTINGS).await;
    let written = run("cat /etc/codius/codiusd.toml").await;
    run(&format!("systemctl start codiusd; {INSTALL}; systemctl is-active codiusd")).await;
    assert_eq!(run("cat /etc/codius/codiusd.toml").await, written, "settings are the operator's");
    run("apt-get remove --yes codiusd; ! systemctl is-active codiusd").await;
    assert_eq!(run("cat /etc/codius/codiusd.toml; ls /var/lib/codius/codius.db").await, format!("{written}/var/lib/codius/codius.db\n"));
    run(INSTALL).await;
    run("apt-get purge --yes codiusd").await;
    assert_same(&run(TREE).await, &bare, "what a purge leaves");
}

/// Of two trees only what is different is shown.
#[track_caller]
fn assert_same(found: &str, expected: &str, why: &str) {
    let [found, expected] = [found, expected].map(|tree| tree.lines().collect::<BTreeSet<_>>());
    let different: Vec<&&str> = found.symmetric_difference(&expected).filter(|line| !line.starts_with("/var/lib/codius ")).collect();
    assert!(different.is_empty(), "{why}: {different:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_outlive_restarts_upgrades_and_the_watchdog_under_the_unit() {
    let server = server().await;
    let run = async |script: &str| server.does(&format!("cd /srv/codiusd\n{HELPERS}{script}"), SCRIPT_WITHIN).await;
    run(INSTALL).await;
    let unset = server.run("systemctl start codiusd", SCRIPT_WITHIN).await;
    assert!(!unset.status.success(), "there is no public_uri yet: {}", unset.text);
    run(SETTINGS).await;
    run("systemctl start codiusd").await;
    let status = run("systemctl show -p StatusText --value codiusd").await;
    assert_eq!(status, "serving http://codius.localhost/\n");
    run(POD).await;
    let pod = run("page; pod").await;
    assert_eq!(run("systemctl restart codiusd; page; pod").await, pod, "a restart");
    assert_eq!(run("systemctl reload codiusd; page; systemctl show -p StatusText --value codiusd").await, status);

    let upgraded = run(&format!("before=$(main); {INSTALL} >&2; test $(main) != $before; page; pod")).await;
    assert!(upgraded.ends_with(&pod), "an upgrade: {upgraded}");
    let script = format!(
        "sed -i 's/port = 80/port = \"none\"/' /etc/codius/codiusd.toml; before=$(main); {INSTALL} 2>&1; test $(main) = $before; page; pod"
    );
    let bad = run(&script).await;
    assert!(bad.contains("codiusd is not restarted: ") && bad.contains("edge.port") && bad.ends_with(&pod), "{bad}");
    run("sed -i 's/port = \"none\"/port = 80/' /etc/codius/codiusd.toml").await;

    let watchdog = r"
        mkdir -p /run/systemd/system/codiusd.service.d
        printf '[Service]\nWatchdogSec=5\n' >/run/systemd/system/codiusd.service.d/test.conf
        systemctl daemon-reload; systemctl restart codiusd
        stuck=$(main); kill -STOP $stuck
        for _ in $(seq 600); do
          now=$(main)
          if [ $now != 0 ] && [ $now != $stuck ] && systemctl is-active --quiet codiusd; then break; fi
          sleep 0.1
        done
        test $now != $stuck; page; pod
        journalctl -u codiusd -o cat --no-pager | grep 'Watchdog timeout' >&2";
    let killed = run(watchdog).await;
    assert!(killed.starts_with(&pod) && killed.contains("Watchdog timeout"), "{killed}");

    let refused = server.run("apt-get remove --yes codiusd", SCRIPT_WITHIN).await;
    assert!(refused.text.contains("pods are running") && !refused.status.success(), "{}", refused.text);
    assert_eq!(
        run("systemctl is-active codiusd >&2; page; pod").await.lines().last().map(|last| format!("{last}\n")),
        Some(pod),
        "and nothing has changed"
    );
    run("CODIUSD_STOP_PODS=yes apt-get remove --yes codiusd; ! pod").await;
    assert_eq!(run("nft list tables | grep codius || true").await, "", "the network policy is gone, too");
}

#[test]
fn shellcheck_finds_nothing() {
    let debian = deploy().join("debian");
    let scripts = [
        debian.join("build"),
        debian.join("postinst"),
        debian.join("prerm"),
        debian.join("postrm"),
        deploy().join("release"),
        deploy().join("setup"),
        repository().join("tests/kit/machine"),
        repository().join("tests/dockerfile"),
    ];
    let checked = Command::new("shellcheck").args(scripts).output().expect("run shellcheck");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
