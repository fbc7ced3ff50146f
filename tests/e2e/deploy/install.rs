//! The install script and the units, with a systemd.

use std::{collections::BTreeSet, process::Command};

use super::{SCRIPT_WITHIN, deploy, repository, server};

/// Exposure, of 100, as `systemd-analyze security` reckons it: what is left is listed in the unit, with reasons.
const EXPOSURE_MAX: u32 = 70;
/// All there is where the script may write, with modes, times, and where links lead.
const TREE: &str = r"find /etc /usr/local /var/lib/codius /run/systemd/system -printf '%p %m %u %T@ %s %l\n' 2>/dev/null | grep -v -e /etc/ld.so -e '^/etc [0-9]' | sort";

const SETTINGS: &str = r#"cat >>/etc/codius/codiusd.toml <<'TOML'
dev = true
public_uri = "http://codius.localhost"
bind_ip = "0.0.0.0"
port = 80
image_layouts = "/srv/images/demo"
machines = "small cpus=1 memory=512MiB disk=64MiB price=1"
max_disk_fraction = "1"
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
async fn installing_again_changes_nothing_and_uninstalling_leaves_the_data() {
    let server = server().await;
    let run = async |script: &str| server.does(&format!("cd /srv/codiusd\n{script}"), SCRIPT_WITHIN).await;
    let bare = run(TREE).await;
    let would = run("deploy/install.sh --dry-run").await;
    assert!(would.contains("would run: install -D -m 755 ") && would.contains("would run: systemctl enable"), "{would}");
    assert_same(&run(TREE).await, &bare, "a dry run does nothing");

    let refused = server.run("cd /srv/codiusd; deploy/install.sh --sha256 $(printf %064d 0)", SCRIPT_WITHIN).await;
    assert!(refused.text.contains("isn't what its checksum says") && !refused.status.success(), "{}", refused.text);
    assert_same(&run(TREE).await, &bare, "what isn't what it should be isn't installed");

    run("deploy/install.sh --sha256 $(sha256sum codiusd | cut -d ' ' -f 1)").await;
    let installed = run(TREE).await;
    let said = run("deploy/install.sh").await;
    assert!(said.contains("all was there already"), "{said}");
    assert_same(&run(TREE).await, &installed, "what is there isn't touched");
    assert_eq!(run("systemctl is-enabled codiusd.service").await, "enabled\n");
    run("systemd-analyze verify /etc/systemd/system/codiusd.service /etc/systemd/system/codiusd.socket").await;
    run(&format!("systemd-analyze security --no-pager --threshold={EXPOSURE_MAX} codiusd.service")).await;

    run(SETTINGS).await;
    let written = run("cat /etc/codius/codiusd.toml").await;
    run("systemctl start codiusd; deploy/install.sh").await;
    assert_eq!(run("cat /etc/codius/codiusd.toml").await, written, "settings are the operator's");
    run("deploy/install.sh --uninstall").await;
    let gone = run("deploy/install.sh --uninstall").await;
    assert!(gone.contains("/etc/codius/codiusd.toml is left"), "{gone}");
    let names = |tree: &str| tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect::<BTreeSet<_>>();
    let (bare, left) = (names(&bare), names(&run(TREE).await));
    let is_data = |name: &&String| name.starts_with("/etc/codius") || name.starts_with("/var/lib/codius/");
    let changed: Vec<&String> = left.symmetric_difference(&bare).filter(|name| !is_data(name)).collect();
    assert!(changed.is_empty(), "{changed:#?}");
    run("rm -r /etc/codius /var/lib/codius/*; deploy/install.sh; deploy/install.sh --uninstall").await;
    let left = names(&run(TREE).await);
    let changed: Vec<&String> = left.symmetric_difference(&bare).collect();
    assert!(changed.is_empty(), "without settings of one's own nothing is left: {changed:#?}");
}

/// Of two trees only what is different is shown.
#[track_caller]
fn assert_same(found: &str, expected: &str, why: &str) {
    let [found, expected] = [found, expected].map(|tree| tree.lines().collect::<BTreeSet<_>>());
    let different: Vec<&&str> = found.symmetric_difference(&expected).collect();
    assert!(different.is_empty(), "{why}: {different:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_outlive_restarts_upgrades_and_the_watchdog_under_the_unit() {
    let server = server().await;
    let run = async |script: &str| server.does(&format!("cd /srv/codiusd\n{HELPERS}{script}"), SCRIPT_WITHIN).await;
    run("deploy/install.sh").await;
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

    let upgraded = run("cp codiusd codiusd.new; rm codiusd; printf '\\0' >>codiusd.new; mv codiusd.new codiusd; before=$(main)
        deploy/install.sh; test $(main) != $before; page; pod");
    let upgraded = upgraded.await;
    assert!(upgraded.contains("is started anew") && upgraded.ends_with(&pod), "an upgrade: {upgraded}");
    let bad = server.run(
        "cd /srv/codiusd; echo 'port = \"none\"' >>/etc/codius/codiusd.toml; printf '\\0' >>codiusd; deploy/install.sh",
        SCRIPT_WITHIN,
    );
    let bad = bad.await;
    assert!(!bad.status.success() && bad.text.contains("nothing was changed"), "{}", bad.text);
    run("sed -i '$d' /etc/codius/codiusd.toml").await;

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

    let refused = server.run("cd /srv/codiusd; deploy/install.sh --uninstall", SCRIPT_WITHIN).await;
    assert!(refused.text.contains("there are pods") && !refused.status.success(), "{}", refused.text);
    assert_eq!(run("page; pod").await, pod, "and nothing has changed");
    run("deploy/install.sh --uninstall --stop-pods; ! pod").await;
    assert_eq!(run("nft list tables | grep codius || true").await, "", "the network policy is gone, too");
}

#[test]
fn shellcheck_finds_nothing() {
    let scripts = [
        deploy().join("install.sh"),
        deploy().join("setup"),
        repository().join("tests/kit/machine"),
        repository().join("tests/dockerfile"),
    ];
    let checked = Command::new("shellcheck").args(scripts).output().expect("run shellcheck");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
