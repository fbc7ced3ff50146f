//! The network policy with real packets: pods and the world are namespaces, and each row of the policy is tried with and without it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers outside #[test] functions too")]

mod bridge;

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
};

use codiusd_net::Ipv4Cidr;
use codiusd_runtime::network::{self, Enforcer, Grade, Links, NetworkRules, Policy};

const ECHO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/network/echo.py");
const TCP: &str = "25/tcp,80/tcp,5060/tcp,8080/tcp";
/// Of sinks.
const SINK: &str = "90";
const UDP: &str = "19/udp,80/udp,1900/udp,4000/udp,5060/udp,11211/udp,33434/udp,33534/udp";

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A namespace on the other end of a link, with a server of echoes.
struct Far {
    name: String,
    link: String,
    server: Child,
}

impl Far {
    fn new(link: &str, own: &[&str], host: &str) -> Self {
        let name = format!("ns{link}");
        ip(&format!("netns add {name}"));
        ip(&format!("link add {link} type veth peer name eth0 netns {name}"));
        ip(&format!("addr add {host}/32 dev {link}"));
        ip(&format!("link set {link} up"));
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").unwrap(); // the table has to do it
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1").ok(); // there may be no IPv6 at all
        ip(&format!("-n {name} link set lo up"));
        for address in own {
            ip(&format!("-n {name} addr add {address}/32 dev eth0"));
        }
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} route add {host}/32 dev eth0"));
        ip(&format!("-n {name} route add default via {host} dev eth0 src {}", own[0]));
        for address in own {
            ip(&format!("route add {address}/32 dev {link}"));
        }
        let mut serve = inside(Some(&name));
        let mut server = serve.args(["serve", &own.join(","), &format!("{TCP},{UDP}")]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "the server in {name}");
        Self { name, link: link.to_owned(), server }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
        Command::new("ip").args(["link", "del", &self.link]).stderr(Stdio::null()).status().ok();
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}

fn inside(namespace: Option<&str>) -> Command {
    let Some(namespace) = namespace else {
        let mut python = Command::new("python3");
        python.arg(ECHO);
        return python;
    };
    let mut python = Command::new("nsenter");
    python.args([&format!("--net=/run/netns/{namespace}"), "python3", ECHO]);
    python
}

/// What is tried, where from, and the row that stops it.
struct Try {
    row: &'static str,
    from: Option<String>,
    ask: Vec<String>,
}

impl Try {
    fn start(&self) -> Child {
        inside(self.from.as_deref()).arg("ask").args(&self.ask).stdout(Stdio::piped()).spawn().unwrap()
    }
}

fn outcomes(tries: &[&Try]) -> Vec<String> {
    let running: Vec<Child> = tries.iter().map(|each| each.start()).collect();
    running.into_iter().map(|child| String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()).collect()
}

/// Names and addresses that no other run of this test has.
struct Plan {
    prefix: String,
    pods: [String; 2],
    gateway: String,
    world: Vec<String>,
}

impl Plan {
    /// For the test of that letter, with networks of its own.
    fn new(test: &str, [one, other, gateway, world]: [u8; 4]) -> Self {
        let pid = std::process::id();
        let [.., second, third] = pid.to_be_bytes();
        let at = |first: &str| format!("{first}.{second}.{third}");
        let ours = |net: u8| at(&format!("10.{net}"));
        Self {
            prefix: format!("n{test}{pid:06x}"),
            pods: [ours(one), ours(other)],
            gateway: ours(gateway),
            // The world, then those that aren't: private networks, a provider's, link-local, and what comes after 224.
            world: vec![at(&format!("198.{world}")), at("172.31"), at("192.168"), at("100.127"), at("169.254"), at("241.1")],
        }
    }

    fn policy(&self) -> Policy {
        let blocked = vec!["tcp/8080".parse().unwrap()];
        let pods = Ipv4Cidr { network: Ipv4Addr::new(10, 250, 0, 0), prefix: 15 };
        let rules = NetworkRules { blocked, bytes_per_second: 0, ..NetworkRules::default() };
        Policy::new(&self.prefix, Links::Prefix(format!("{}p", self.prefix)), Some(pods), &rules)
    }
}

fn tries(plan: &Plan, pods: &[Far; 2], world: &Far) -> Vec<Try> {
    let [_, neighbour] = &plan.pods;
    let pod = || Some(pods[0].name.clone());
    let outside = || Some(world.name.clone());
    let ask = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let to_world = |row, protocol, place: usize, port| Try { row, from: pod(), ask: ask(&[protocol, &plan.world[place], port]) };
    let mut all = vec![
        Try { row: "pods", from: pod(), ask: ask(&["tcp", neighbour, "80"]) },
        Try { row: "pods", from: pod(), ask: ask(&["udp", neighbour, "4000"]) },
        Try { row: "host", from: pod(), ask: ask(&["udp", &plan.gateway, "4000"]) },
        to_world("private", "tcp", 1, "80"),
        to_world("private", "udp", 2, "4000"),
        to_world("private", "tcp", 3, "80"),
        to_world("metadata", "tcp", 4, "80"),
        to_world("mail", "tcp", 0, "25"),
        to_world("sip", "tcp", 0, "5060"),
        to_world("sip", "udp", 0, "5060"),
        to_world("out-blocked", "tcp", 0, "8080"),
        Try { row: "in-blocked", from: outside(), ask: ask(&["tcp", neighbour, "8080"]) },
    ];
    for port in ["19", "80", "1900", "11211", "33434", "33534"] {
        all.push(Try { row: "reflectors", from: outside(), ask: ask(&["udp", neighbour, port]) });
    }
    all
}

/// Rows whose packets nobody answers, whatever becomes of them: how many each has stopped.
fn counted(plan: &Plan, pod: &Far) -> Vec<(&'static str, u64)> {
    let run = |words: &[&str]| {
        let done = inside(Some(&pod.name)).args(words).stdout(Stdio::null()).status().unwrap();
        assert!(done.success(), "{words:?}");
    };
    let stopped = |policy: &Policy, id| network::stopped(policy).unwrap().into_iter().find(|(row, _)| *row == id).unwrap();
    let world = plan.world[0].as_str();
    let policy = plan.policy();
    let guard = Enforcer::install(&policy, network::restored_counter()).unwrap();
    run(&["ask", "udp", world, "4000", "203.0.113.9"]);
    run(&["flood", world, "4000", "1000"]);
    let mut counted = vec![stopped(&policy, "forged"), stopped(&policy, "out-rate")];
    drop(guard);
    let rules = NetworkRules { connections_max: 20, connections_per_second: 1_000_000, ..NetworkRules::default() };
    let few = Policy::new(&policy.table, policy.links.clone(), None, &rules);
    let guard = Enforcer::install(&few, network::restored_counter()).unwrap();
    run(&["flood", world, "4000", "100"]);
    counted.push(stopped(&few, "out-connections"));
    drop(guard);
    for (row, packets) in &counted {
        println!("ok  {row:12} stopped {packets} packets");
    }
    counted
}

/// Something that takes what it is sent, on a port of its own.
struct Sink(Child);

impl Sink {
    fn new(namespace: &str, address: &str) -> Self {
        let mut server = inside(Some(namespace)).args(["sink", address, SINK]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "the sink in {namespace}");
        Self(server)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What gets there while one connection sends all it can.
struct Poured {
    bytes: f64,
    seconds: f64,
}

fn pour(from: Option<&str>, to: &str, seconds: &str) -> Poured {
    let output = inside(from).args(["pour", to, SINK, seconds]).stdout(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.split_whitespace().map(|word| word.parse::<f64>().unwrap_or_else(|_| panic!("{text}")));
    Poured { bytes: words.next().unwrap(), seconds: words.next().unwrap() }
}

#[test]
fn bytes_of_pods_at_a_bridge_are_counted_each_way() {
    const CAP: u32 = 1_000_000;
    let plan = Plan::new("b", [246, 247, 248, 19]);
    let pod = Far::new(&format!("{}p0", plan.prefix), &[&plan.pods[0]], &plan.gateway);
    let world = Far::new(&format!("{}w", plan.prefix), &[&plan.world[0]], "198.18.255.2");
    let _sinks = [Sink::new(&pod.name, &plan.pods[0]), Sink::new(&world.name, &plan.world[0])];
    let rules = NetworkRules { bytes_per_second: CAP, ..NetworkRules::default() };
    // Rules look at the name alone.
    let policy = Policy::new(&plan.prefix, Links::Bridge(pod.link.clone()), None, &rules);
    let mut wrong = Vec::new();
    for (row, from, to) in [
        ("out-bytes", Some(&*pod.name), &plan.world[0]),
        ("in-bytes", Some(&*world.name), &plan.pods[0]),
        ("host-bytes", None, &plan.pods[0]),
    ] {
        let guard = Enforcer::install(&policy, network::restored_counter()).unwrap();
        let capped = pour(from, to, "1.5");
        drop(guard);
        let guard = Enforcer::install(&policy.without(row), network::restored_counter()).unwrap();
        let free = pour(from, to, "0.3");
        drop(guard);
        let rate = f64::from(CAP);
        // A bucket that is full has a second's worth, and a quarter more.
        let fits = |poured: &Poured| (0.6 * rate * poured.seconds..1.2 * rate * poured.seconds + 1.25 * rate).contains(&poured.bytes);
        let right = fits(&capped) && free.bytes > 1.2 * rate * free.seconds + 1.25 * rate;
        let rates = (capped.bytes / 1e6, capped.seconds, free.bytes / 1e6, free.seconds);
        println!(
            "{} {row:12} {:.1} MB in {:.1} s / without it: {:.1} MB in {:.1} s",
            if right { "ok " } else { "BAD" },
            rates.0,
            rates.1,
            rates.2,
            rates.3
        );
        wrong.extend((!right).then_some(row));
    }
    network::remove(&policy).unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn each_row_stops_what_it_is_for_and_nothing_else_does() {
    let plan = Plan::new("a", [250, 251, 252, 18]);
    let link = |name: &str| format!("{}{name}", plan.prefix);
    let pods = [Far::new(&link("p0"), &[&plan.pods[0]], &plan.gateway), Far::new(&link("p1"), &[&plan.pods[1]], &plan.gateway)];
    let addresses: Vec<&str> = plan.world.iter().map(String::as_str).collect();
    let world = Far::new(&link("w"), &addresses, "198.19.255.1");
    let mut host = inside(None).args(["serve", &plan.gateway, "4000/udp"]).stdout(Stdio::null()).spawn().unwrap();
    let policy = plan.policy();
    let restored = network::restored_counter;
    let tries = tries(&plan, &pods, &world);

    let guard = Enforcer::install(&policy, restored()).unwrap();
    let bad: Vec<String> = network::check(&policy)
        .unwrap()
        .into_iter()
        .filter(|found| found.grade == Grade::Bad && !found.text.contains("rp_filter"))
        .map(|found| found.text)
        .collect();
    let stopped = outcomes(&tries.iter().collect::<Vec<_>>());
    let passes = [
        Try { row: "", from: Some(pods[0].name.clone()), ask: vec!["tcp".into(), plan.world[0].clone(), "80".into()] },
        Try { row: "", from: Some(pods[0].name.clone()), ask: vec!["udp".into(), plan.world[0].clone(), "4000".into()] },
        Try { row: "", from: None, ask: vec!["tcp".into(), plan.pods[1].clone(), "8080".into()] },
        Try { row: "", from: Some(world.name.clone()), ask: vec!["tcp".into(), plan.pods[1].clone(), "80".into()] },
    ];
    let passed = outcomes(&passes.iter().collect::<Vec<_>>());
    drop(guard);

    let mut report = Vec::new();
    let mut ids: Vec<&str> = tries.iter().map(|each| each.row).collect();
    ids.dedup();
    for id in ids {
        // A pod's address is a private one, too.
        let without = if id == "pods" { policy.without(id).without("private") } else { policy.without(id) };
        let guard = Enforcer::install(&without, restored()).unwrap();
        let (indexes, of_row): (Vec<usize>, Vec<&Try>) = tries.iter().enumerate().filter(|(_, each)| each.row == id).unzip();
        for ((index, tried), without) in indexes.into_iter().zip(&of_row).zip(outcomes(&of_row)) {
            let right = !stopped[index].starts_with("from ") && without.starts_with("from ");
            println!("{} {id:12} {:40} {} / without it: {without}", if right { "ok " } else { "BAD" }, tried.ask.join(" "), stopped[index]);
            report.extend((!right).then_some(id));
        }
        drop(guard);
    }
    let counted = counted(&plan, &pods[0]);
    network::remove(&policy).unwrap();
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(counted.iter().all(|(_, packets)| *packets > 0), "{counted:?}");
    assert!(bad.is_empty(), "{bad:?}");
    assert!(report.is_empty(), "{report:?}");
    assert!(passed.iter().all(|said| said.starts_with("from ")), "{passed:?}");
    assert_ne!(passed[0], format!("from {}", plan.pods[0]), "under the host's address");
}
