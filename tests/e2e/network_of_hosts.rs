//! Hosts as they meet on the Internet: public addresses, names by DNS, certificates; and strangers that mean harm.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use codiusd_kit::{Host, HostBuilder, Internet, NetMachine, in_time, until};
use futures::future;
use http::Method;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tokio_rustls::TlsAcceptor;

mod stranger;

use crate::host;
use stranger::{Says, Stranger};

const WITHIN: Duration = Duration::from_secs(60);
/// Every TCP and UDP packet a machine sends to itself, or off its street.
const WATCH: &str = "table inet watch {
  counter astray { }
  chain sent {
    type filter hook output priority 0;
    meta l4proto != { tcp, udp } accept
    oifname \"eth0\" ip daddr 11.0.0.0/24 accept
    oifname \"eth0\" ip6 daddr 2a00:11::/64 accept
    counter name astray
  }
}";

/// Certificates of one authority of `codiusd certs dev`.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A certificate for `name`, and its key.
    fn certify(&self, name: &str) -> (PathBuf, PathBuf) {
        let made = Command::new(env!("CARGO_BIN_EXE_codiusd")).args(["certs", "dev", "--name", name]).arg(self.0.path()).output().unwrap();
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        let (certificate, key) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}-key.pem")));
        fs::rename(self.file("cert.pem"), &certificate).unwrap();
        fs::rename(self.file("key.pem"), &key).unwrap();
        (certificate, key)
    }

    /// For whoever has `name`.
    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let (certificate, key) = self.certify(name);
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let config = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        TlsAcceptor::from(Arc::new(config.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()))
    }

    /// A host of this name that is in a hurry.
    fn host(&self, machine: &Arc<NetMachine>, name: &str, bootstrap: &[&str]) -> HostBuilder {
        let (certificate, key) = self.certify(name);
        let bootstrap: Vec<String> = bootstrap.iter().map(|name| format!("https://{name}")).collect();
        host()
            .without_pods()
            .on(machine)
            .set("CODIUS_PUBLIC_URI", format!("https://{name}"))
            .set("CODIUS_TLS_CERTS", format!("{}:{}", certificate.display(), key.display()))
            .set("SSL_CERT_FILE", self.file("ca.pem").display().to_string())
            .set("CODIUS_BOOTSTRAP_PEERS", bootstrap.join(","))
            .set("CODIUS_PEERS_ASK_EVERY", "1")
            .set("CODIUS_PEERS_LOOK_EVERY", "3")
            .set("CODIUS_PEERS_RETRY_AFTER", "1")
    }
}

fn listen(address: IpAddr) -> TcpListener {
    TcpListener::bind((address, 443)).unwrap()
}

async fn known(host: &Host) -> BTreeSet<String> {
    let list = host.api(Method::GET, "/peers", None, None).await.json();
    serde_json::from_value(list["peers"].clone()).unwrap()
}

/// Waits until it knows these and nobody else.
async fn knows<'a>(host: &Host, names: impl IntoIterator<Item = &'a str>) {
    let expected: BTreeSet<String> = names.into_iter().map(|name| format!("https://{name}")).collect();
    until(&format!("{} to know {expected:?}", host.uri()), WITHIN, async || (known(host).await == expected).then_some(())).await;
}

/// All of these know all of these but themselves.
async fn all_know_all(hosts: &[Host], names: &[String]) {
    let others = |own: usize| names.iter().enumerate().filter(move |(number, _)| *number != own).map(|(_, name)| name.as_str());
    future::join_all(hosts.iter().enumerate().map(|(own, host)| knows(host, others(own)))).await;
}

#[test]
fn ten_hosts_find_each_other_and_do_without_those_that_die_lie_or_babble() {
    Internet::run(async |internet| {
        let authority = Authority::new();
        let machines: Vec<Arc<NetMachine>> = (1..=10).map(|number| Arc::new(internet.machine(number))).collect();
        let names: Vec<String> = (1..=10).map(|number| format!("h{number}.example.test")).collect();
        let address = |number: usize| IpAddr::V4(machines[number].v4());
        internet.name(names.iter().enumerate().map(|(number, name)| (name.as_str(), vec![address(number)])));
        let builders: Vec<HostBuilder> = (0..10)
            .map(|number| authority.host(&machines[number], &names[number], if number == 0 { &[] } else { &["h1.example.test"] }))
            .collect();
        let mut hosts = future::join_all(builders.into_iter().map(HostBuilder::start)).await;
        all_know_all(&hosts, &names).await;

        let peak: u64 = hosts.iter_mut().map(Host::memory_peak).sum();
        assert!(peak < 2 << 30, "ten hosts hold {} MiB", peak >> 20);
        let [slow_address, _] = internet.addresses(200);
        internet.name([("slow.example.test", vec![slow_address])]);
        let slow = Stranger::speaking(listen(slow_address), authority.acceptor("slow.example.test"), |_| Says::Trickle);
        let body = json!({ "peers": ["https://slow.example.test"] });
        assert_eq!(hosts[1].api(Method::POST, "/peers/discover", Some(&body), None).await.status, 200);

        let play = |number: usize, says: fn(&stranger::Asked) -> Says| {
            let listener = machines[number].within(|| listen(address(number)));
            Stranger::speaking(listener, authority.acceptor(&names[number]), says)
        };
        let mut gone = hosts.split_off(7);
        gone.iter_mut().for_each(Host::kill9);
        let liar = play(8, |asked| if asked.is_look() { stranger::info("h1.example.test") } else { stranger::knows(&["h9.example.test"]) });
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let babbler = play(9, |_| match TURN.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => Says::Endless,
            1 => Says::Bytes("\u{0}{{{ no HTTP".to_owned()),
            _ => Says::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\n{\"uri\":".to_owned()),
        });
        all_know_all(&hosts, &names[..7]).await;
        for (number, host) in hosts.iter().enumerate() {
            // One look may have fallen between a host's end and the other's beginning.
            for (who, looks) in [("liar", liar.looks_by(address(number))), ("babbler", babbler.looks_by(address(number)))] {
                assert!(looks >= 3, "{} has dropped the {who} after {looks} looks", host.uri());
            }
        }
        assert!(slow.looks_by(address(1)) > 0, "the slow one was looked at");
    });
}

#[test]
fn a_submitter_buys_few_looks_whatever_it_says_of_itself() {
    Internet::run(async |internet| {
        let authority = Authority::new();
        let machine = Arc::new(internet.machine(1));
        let acceptor = authority.acceptor("*.example.test");
        let nobody = |number| {
            let [address, _] = internet.addresses(number);
            (address, Stranger::speaking(listen(address), acceptor.clone(), |_| Says::Bytes("no".to_owned())))
        };
        let ((victim_address, victim), (regular_address, regular)) = (nobody(66), nobody(67));
        let floods: Vec<String> =
            (101..=105).flat_map(|from| (0..20).map(move |number| format!("of-{from}-{number}.example.test"))).collect();
        internet.name(floods.iter().map(|name| (name.as_str(), vec![victim_address])));
        internet.name([("h1.example.test", vec![machine.v4().into()]), ("regular.example.test", vec![regular_address])]);
        let host = authority.host(&machine, "h1.example.test", &["regular.example.test"]).start().await;

        for from in 101..=105 {
            let [address, _] = internet.addresses(from);
            for (turn, names) in
                floods.iter().filter(|name| name.starts_with(&format!("of-{from}-"))).collect::<Vec<_>>().chunks(5).enumerate()
            {
                let peers: Vec<String> = names.iter().map(|name| format!("https://{name}")).collect();
                submit(&host, address, &format!("11.0.9.{turn}"), &json!({ "peers": peers }).to_string()).await;
            }
        }
        until("what was bought to be looked at", WITHIN, async || (victim.asked().len() >= 12).then_some(())).await;
        // Whatever else had been bought would have had its turn before that of the operator's.
        let before = regular.asked().len();
        until("later looks", WITHIN, async || (regular.asked().len() >= before + 2).then_some(())).await;
        let bought = |from: u8| victim.asked().iter().filter(|asked| asked.name.starts_with(&format!("of-{from}-"))).count();
        assert_eq!([101, 102, 103, 104, 105].map(bought), [4, 4, 4, 0, 0]);
        assert_eq!(victim.asked().len(), 12);
    });
}

/// Tells the host of others from this address.
async fn submit(host: &Host, from: IpAddr, forged: &str, body: &str) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let mut stream = socket.connect(host.edge()).await.unwrap();
    let head = format!(
        "POST /peers/discover HTTP/1.1\r\nhost: h1.example.test\r\nx-forwarded-for: {forged}\r\nforwarded: for={forged}\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time("an answer", WITHIN, stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// Names, and where a stranger's name server says they are.
const NOWHERE: [(&str, &str); 16] = [
    ("loopback.example.test", "127.0.0.1"),
    ("loopback-6.example.test", "::1"),
    ("loopback-mapped.example.test", "::ffff:127.0.0.1"),
    ("loopback-nat64.example.test", "64:ff9b::7f00:1"),
    ("loopback-6to4.example.test", "2002:7f00:1::1"),
    ("zero.example.test", "0.0.0.0"),
    ("private.example.test", "10.9.9.9"),
    ("private-6.example.test", "fd00::9"),
    ("shared.example.test", "100.64.9.9"),
    ("metadata.example.test", "169.254.169.254"),
    ("link-local.example.test", "fe80::9"),
    ("own.example.test", "11.0.0.1"),
    ("own-second.example.test", "11.0.0.2"),
    ("own-mapped.example.test", "::ffff:11.0.0.1"),
    ("own-6.example.test", "2a00:11::1"),
    ("multicast.example.test", "224.0.0.1"),
];

/// Hosts that may be spoken to: one at a private address, too; one with an IPv6 address only; one that moves away.
const SOMEWHERE: [&str; 3] = ["both.example.test", "six.example.test", "turns.example.test"];

fn astray(machine: &NetMachine) -> u64 {
    let shown = machine.run("nft", &["list", "counter", "inet", "watch", "astray"], "");
    let packets = shown.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    packets.unwrap().parse().unwrap()
}

#[test]
fn no_packet_goes_where_a_stranger_may_not_send_us() {
    Internet::run(async |internet| {
        let authority = Authority::new();
        let machine = Arc::new(internet.machine(1));
        machine.run("ip", &["addr", "add", "11.0.0.2/24", "dev", "eth0"], "");
        machine.run("nft", &["-f", "-"], WATCH);
        let acceptor = authority.acceptor("*.example.test");
        let play = |address: IpAddr, says: fn(&stranger::Asked) -> Says| Stranger::speaking(listen(address), acceptor.clone(), says);
        let honest = |asked: &stranger::Asked| stranger::info(&asked.name);
        let tellers = [70, 71].map(|number| internet.addresses(number)[0]);
        let _first = play(tellers[0], |asked| {
            if asked.is_look() { stranger::info(&asked.name) } else { stranger::knows(&NOWHERE.map(|(name, _)| name)[..8]) }
        });
        let _second = play(tellers[1], |asked| {
            let names: Vec<&str> = NOWHERE[8..].iter().map(|(name, _)| *name).chain(SOMEWHERE).collect();
            if asked.is_look() { stranger::info(&asked.name) } else { stranger::knows(&names) }
        });
        let [[both, _], [_, six], [turns, _], [redirects, _], [regular, _]] = [72, 73, 74, 75, 76].map(|number| internet.addresses(number));
        let [_both, _six, _turns] = [both, six, turns].map(|address| play(address, honest));
        let redirecting = play(redirects, |asked| {
            static TURN: AtomicUsize = AtomicUsize::new(0);
            let to = ["https://10.9.9.9", "http://127.0.0.1:80", "https://own.example.test"];
            stranger::redirect(&format!("{}{}", to[TURN.fetch_add(1, Ordering::Relaxed) % 3], asked.what.trim_start_matches("GET ")))
        });
        let regularly = play(regular, |_| Says::Bytes("no".to_owned()));
        let private: IpAddr = "10.9.9.9".parse().unwrap();
        internet.name(NOWHERE.map(|(name, address)| (name, vec![address.parse().unwrap()])));
        internet.name(SOMEWHERE.into_iter().zip([vec![private, both], vec![six], vec![turns]]));
        internet.name([
            ("teller.example.test", vec![tellers[0]]),
            ("second.example.test", vec![tellers[1]]),
            ("redirects.example.test", vec![redirects]),
            ("regular.example.test", vec![regular]),
        ]);
        let bootstrap = ["teller.example.test", "second.example.test", "redirects.example.test", "regular.example.test"];
        let mut builder = authority.host(&machine, "h1.example.test", &bootstrap);
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            builder = builder.set(proxy, "http://10.9.9.9:3128");
        }
        let host = builder.start().await;

        let [both, six, turns] = SOMEWHERE;
        let tellers = ["teller.example.test", "second.example.test"];
        knows(&host, [both, six, turns].into_iter().chain(tellers)).await;
        for (name, _) in NOWHERE {
            until(&format!("{name} to be looked up"), WITHIN, async || (internet.lookups(name) > 0).then_some(())).await;
        }
        until("three redirects", WITHIN, async || (redirecting.asked().len() >= 3).then_some(())).await;
        // The name of a host that is known leads elsewhere now.
        internet.name([(turns, vec![private, IpAddr::V4(Ipv4Addr::LOCALHOST), machine.v6().into()])]);
        knows(&host, [both, six].into_iter().chain(tellers)).await;
        let before = regularly.asked().len();
        until("a later look", WITHIN, async || (regularly.asked().len() > before).then_some(())).await;
        assert_eq!(astray(&machine), 0);
        machine.within(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", (private, 443)).unwrap());
        assert_eq!(astray(&machine), 1, "what goes astray is counted");
    });
}
