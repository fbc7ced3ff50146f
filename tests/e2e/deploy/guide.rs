//! The operator's guide, followed to the letter.

use std::fs;

use super::{SCRIPT_WITHIN, repository, server};

/// Names and addresses of the example are this machine's, as they would be in the world. How full its disk is has no say.
const WORLD: &str = r"
mkdir -p /run/systemd/system/codiusd.service.d
printf '[Service]\nEnvironment=CODIUS_MAX_DISK_FRACTION=1\n' >/run/systemd/system/codiusd.service.d/disk.conf
ip address add 203.0.113.10/32 dev lo
ip address add 2001:db8::10/128 dev lo
rm -f /etc/resolv.conf
echo nameserver 127.0.0.1 >/etc/resolv.conf
dnsmasq --conf-file=/srv/deploy/dns/dnsmasq.conf --no-resolv --no-hosts --listen-address=127.0.0.1 --bind-interfaces --user=root
";
/// All but the back-ups, and what was brought here.
const LOSS: &str = r"
CODIUSD_STOP_PODS=yes apt-get purge --yes codiusd
rm -rf /etc/codius /var/lib/codius/*
apt-get install --yes ./codiusd_*.deb
";

/// The blocks that are to be run, with the headings they are under.
fn blocks(guide: &str) -> Vec<(String, String)> {
    let (mut heading, mut open, mut found) = (String::new(), None::<String>, Vec::new());
    for line in guide.lines() {
        match &mut open {
            Some(_) if line == "```" => found.extend(open.take().map(|block| (heading.clone(), block))),
            Some(block) => *block += &format!("{line}\n"),
            None if line == "```sh" => open = Some(String::new()),
            None => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut heading);
                }
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_leads_to_a_paid_pod_and_back_from_a_loss() {
    let guide = fs::read_to_string(repository().join("docs/operate/install.md")).expect("read the guide");
    let mut script = format!("{WORLD}set -x\n");
    for (heading, block) in blocks(&guide) {
        let lost = if heading.starts_with("Restore") { LOSS } else { "" };
        script += &format!("{lost}: '## {heading}'\n{block}");
    }
    let server = server().await;
    let said = server.does(&script, SCRIPT_WITHIN).await;
    assert!(said.contains("<!doctype html>"), "the first pod answers:\n{said}");
    assert!(!said.contains("returned error: 404"), "a pod that is started anew isn't gone:\n{said}");
    let left = server
        .does("ls /usr/bin/codiusd /usr/lib/systemd/system/codiusd* /etc/systemd/system/*/codiusd* 2>/dev/null || true", SCRIPT_WITHIN)
        .await;
    assert_eq!(left, "", "what the last section leaves");
}

#[test]
fn the_messages_it_explains_are_those_that_are_logged() {
    let guide = fs::read_to_string(repository().join("docs/operate/install.md")).expect("read the guide");
    let mut sources = String::new();
    let mut open: Vec<_> = ["src", "control", "proxy"].map(|directory| repository().join(directory)).into();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("read a directory").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources += &fs::read_to_string(&path).expect("read a source");
        }
    }
    let rows = guide.lines().skip_while(|line| !line.starts_with("| message |")).skip(2).take_while(|line| line.starts_with('|'));
    let messages: Vec<&str> = rows.filter_map(|row| row.split('|').nth(1)).map(str::trim).collect();
    assert!(messages.len() > 5, "{messages:?}");
    let unknown: Vec<_> = messages.into_iter().filter(|message| !sources.contains(message)).collect();
    assert!(unknown.is_empty(), "nobody logs {unknown:?}");
}
