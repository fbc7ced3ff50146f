//! Pods at a bridge, one of which takes the other's addresses, with real frames.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use codiusd_runtime::network::{self, Enforcer, Grade, Links, NetworkRules, Policy};

use crate::{Try, inside, ip, outcomes};

static SEGMENTS: AtomicU8 = AtomicU8::new(0);
const VICTIM: u8 = 254;
const THIEF: u8 = 253;

/// A bridge and two pods at its ports, as codiusd has hyperd plug them in.
struct Segment {
    bridge: String,
    network: [u8; 3],
    servers: Vec<Child>,
}

impl Segment {
    fn new() -> Self {
        let pid = std::process::id();
        let [.., second, third] = pid.to_be_bytes();
        let number = SEGMENTS.fetch_add(1, Ordering::Relaxed);
        let mut segment = Self { bridge: format!("nb{number}{pid:06x}"), network: [110 + number, second, third], servers: Vec::new() };
        let (bridge, gateway) = (segment.bridge.clone(), segment.address(1));
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("addr add {gateway}/24 dev {bridge}"));
        ip(&format!("link set {bridge} up"));
        for (last, port) in [(VICTIM, "80/tcp"), (THIEF, "81/tcp")] {
            segment.plug(last, port);
        }
        segment
    }

    fn address(&self, last: u8) -> String {
        let [a, b, c] = self.network;
        format!("{a}.{b}.{c}.{last}")
    }

    fn mac(&self, last: u8) -> String {
        let [a, b, c] = self.network;
        format!("02:c0:{a:02x}:{b:02x}:{c:02x}:{last:02x}")
    }

    fn namespace(&self, last: u8) -> String {
        format!("{}-{last}", self.bridge)
    }

    fn plug(&mut self, last: u8, port: &str) {
        let [a, b, c] = self.network;
        let (link, namespace) = (format!("ch{a:02x}{b:02x}{c:02x}00{:03x}", 254 - last), self.namespace(last));
        ip(&format!("netns add {namespace}"));
        ip(&format!("link add {link} type veth peer name eth0 address {} netns {namespace}", self.mac(last)));
        ip(&format!("link set {link} master {} up", self.bridge));
        self.wear(last, last);
        let mut serve = inside(Some(&namespace));
        let mut server = serve.args(["serve", "0.0.0.0", port]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        self.servers.push(server);
    }

    /// A pod takes the addresses of one, and no others.
    fn wear(&self, who: u8, whose: u8) {
        let namespace = self.namespace(who);
        ip(&format!("-n {namespace} link set eth0 down"));
        ip(&format!("-n {namespace} link set eth0 address {}", self.mac(whose)));
        ip(&format!("-n {namespace} addr flush dev eth0"));
        ip(&format!("-n {namespace} addr add {}/24 dev eth0", self.address(whose)));
        ip(&format!("-n {namespace} link set eth0 up"));
    }

    /// The thief speaks to the host; then the host asks at the victim's address for what the thief alone has.
    fn is_robbed(&self) -> bool {
        let spoken = inside(Some(&self.namespace(THIEF))).args(["ask", "udp", &self.address(1), "4000"]).stdout(Stdio::null()).status();
        assert!(spoken.unwrap().success());
        let asked = Try { row: "", from: None, ask: vec!["tcp".into(), self.address(VICTIM), "81".into()] };
        outcomes(&[&asked])[0].starts_with("from ")
    }

    fn is_served(&self) -> bool {
        let asked = Try { row: "", from: None, ask: vec!["tcp".into(), self.address(VICTIM), "80".into()] };
        outcomes(&[&asked])[0].starts_with("from ")
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.kill().ok();
            server.wait().ok();
        }
        for last in [VICTIM, THIEF] {
            Command::new("ip").args(["netns", "del", &self.namespace(last)]).status().ok();
        }
        Command::new("ip").args(["link", "del", &self.bridge]).stderr(Stdio::null()).status().ok();
        for family in ["inet", "bridge"] {
            Command::new("nft").args(["delete", "table", family, &self.bridge]).stderr(Stdio::null()).status().ok();
        }
    }
}

fn shown(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nobody_at_a_bridge_takes_anothers_address() {
    let segment = Segment::new();
    let bridge = segment.bridge.as_str();
    let policy = Policy::new(bridge, Links::Bridge(bridge.to_owned()), None, &NetworkRules::default());
    let guard = Enforcer::install(&policy, network::restored_counter()).unwrap();
    let bad: Vec<_> = network::check(&policy).unwrap().into_iter().filter(|found| found.grade == Grade::Bad).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(segment.is_served(), "the victim, before anything");
    let known = shown("ip", &["neigh", "show", "dev", bridge, "nud", "permanent"]);
    for last in [VICTIM, THIEF] {
        assert!(known.contains(&format!("{} lladdr {}", segment.address(last), segment.mac(last))), "{known}");
    }
    assert_eq!(fs::read_to_string(format!("/sys/class/net/{bridge}/addr_assign_type")).unwrap().trim(), "3", "a MAC of its own");

    segment.wear(THIEF, VICTIM);
    assert!(!segment.is_robbed(), "under the policy");
    assert!(segment.is_served(), "the victim, while the other wears its addresses");
    let counters = shown("nft", &["list", "table", "bridge", bridge]);
    assert!(counters.lines().any(|line| line.contains("comment \"arp\"") && !line.contains("packets 0 ")), "{counters}");

    drop(guard);
    network::remove(&policy).unwrap();
    assert_eq!(shown("ip", &["neigh", "show", "dev", bridge, "nud", "permanent"]), "", "neighbours are forgotten");
    assert!(segment.is_robbed(), "without the policy it works");
}

#[test]
fn nft_takes_the_policy_as_it_is_shown() {
    let segment = Segment::new();
    let bridge = segment.bridge.as_str();
    let policy = Policy::new(bridge, Links::Bridge(bridge.to_owned()), None, &NetworkRules::default());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), network::nft(&policy)).unwrap();
    shown("nft", &["-f", file.path().to_str().unwrap()]);
    let by_nft = shown("nft", &["--stateless", "list", "table", "bridge", bridge]);
    network::remove(&policy).unwrap();
    let _guard = Enforcer::install(&policy, network::restored_counter()).unwrap();
    assert_eq!(shown("nft", &["--stateless", "list", "table", "bridge", bridge]), by_nft);
}
