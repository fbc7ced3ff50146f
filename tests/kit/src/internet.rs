//! An internet of its own: machines in network namespaces with public addresses, and names by a real dnsmasq.
//!
//! ```text
//!  machine 1: 11.0.0.1, 2a00:11::1 --- eth0 ---+
//!  machine 2: 11.0.0.2, 2a00:11::2 --- eth0 ---+--- bridge: 11.0.0.254, 2a00:11::fe (dnsmasq, the test, whoever it plays)
//! ```
//!
//! Nothing of it is joined to this machine's network, and it goes with the processes in it. The addresses are ones that programs take
//! for public.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    panic::resume_unwind,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use tempfile::TempDir;

use crate::process::{Process, Signal};

/// The bridge's number.
const BRIDGE: u8 = 254;
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Machines that reach each other, and nobody else.
#[derive(Debug)]
pub struct Internet {
    names: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    dns: Mutex<Option<Process>>,
    files: TempDir,
}

impl Internet {
    /// Runs a test on a thread that stands at the bridge of a new one. All its sockets and children are there.
    pub fn run(test: impl AsyncFnOnce(&Self) + Send) {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("make a network (root is needed): {error}"));
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
            tokio.unwrap_or_else(|error| panic!("start tokio: {error}")).block_on(async {
                let internet = Self::start().await;
                test(&internet).await;
            });
        });
    }

    async fn start() -> Self {
        let files = tempfile::Builder::new().prefix("internet-").tempdir().unwrap_or_else(|error| panic!("make a directory: {error}"));
        ip(&format!("link set lo up\nlink add bridge type bridge\nlink set bridge up\n{}", addresses("bridge", BRIDGE)));
        let write =
            |name: &str, text: String| fs::write(files.path().join(name), text).unwrap_or_else(|error| panic!("write {name}: {error}"));
        write("hosts", String::new());
        write("resolv.conf", format!("nameserver {}\noptions timeout:2\n", v4(BRIDGE)));
        let internet = Self { names: Mutex::default(), dns: Mutex::default(), files };
        internet.resolve(&[]).await;
        internet
    }

    /// What all names that end in these resolve to from now on; and no longer those of the time before.
    pub async fn wildcards(&self, names: &[(&str, IpAddr)]) {
        let records: Vec<String> = names.iter().map(|(name, address)| format!("--address=/{name}/{address}")).collect();
        self.resolve(&records).await;
    }

    /// Starts the name server, in place of the one before.
    async fn resolve(&self, records: &[String]) {
        drop(self.resolver().take());
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--log-facility=-", "--log-queries"]);
        command.args(["--no-resolv", "--no-hosts", "--local=/test/", "--bind-interfaces", "--interface=bridge", "--cache-size=10000"]);
        command.arg(format!("--addn-hosts={}", self.files.path().join("hosts").display())).args(records);
        let log = self.files.path().join(format!("dnsmasq-{:016x}.log", rand::random::<u64>()));
        let mut dns = Process::spawn("dnsmasq", &mut command, &log);
        dns.line("its start", READY_WITHIN, |line| line.contains("started, version").then_some(())).await;
        *self.resolver() = Some(dns);
    }

    fn resolver(&self) -> MutexGuard<'_, Option<Process>> {
        self.dns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine of its own, by a number that no other has.
    pub fn machine(&self, number: u8) -> NetMachine {
        let network = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("make a network: {error}"));
            File::open("/proc/thread-self/ns/net").unwrap_or_else(|error| panic!("open a network: {error}"))
        });
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), network.as_raw_fd());
        ip(&format!("link add port{number} type veth peer name eth0 netns {namespace}\nlink set port{number} master bridge up\n"));
        let machine = NetMachine { number, network, resolver: self.files.path().join("resolv.conf") };
        // With a way to everywhere: what is sent to a place there is none of leaves the machine, and is seen.
        let routes = format!("route add default via {}\nroute add ::/0 via {}\n", v4(BRIDGE), v6(BRIDGE));
        machine.within(|| ip(&format!("link set lo up\nlink set eth0 up\n{}{routes}", addresses("eth0", number))));
        machine
    }

    /// More addresses of the bridge, for whoever the test plays.
    pub fn addresses(&self, number: u8) -> [IpAddr; 2] {
        ip(&addresses("bridge", number));
        [v4(number).into(), v6(number).into()]
    }

    /// What names resolve to from now on.
    pub fn name<'a>(&self, names: impl IntoIterator<Item = (&'a str, Vec<IpAddr>)>) {
        let mut all = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(names.into_iter().map(|(name, addresses)| (name.to_owned(), addresses)));
        let mut text = String::new();
        for (name, addresses) in &*all {
            for address in addresses {
                let _ = writeln!(text, "{address} {name}"); // a String takes everything
            }
        }
        let file = self.files.path().join("hosts");
        fs::write(&file, text).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
        if let Some(dns) = &*self.resolver() {
            dns.signal(Signal::SIGHUP);
        }
    }

    /// How often machines have asked for a name's addresses.
    pub fn lookups(&self, name: &str) -> usize {
        let asked = format!("query[A] {name} from ");
        let log = self.resolver().as_ref().map(Process::log).unwrap_or_default();
        log.lines().filter(|line| line.contains(&asked)).count()
    }
}

/// A machine: a network of its own, and a way to the name server. Its files are this machine's.
#[derive(Debug)]
pub struct NetMachine {
    number: u8,
    network: File,
    resolver: PathBuf,
}

impl NetMachine {
    /// Its public addresses.
    pub fn v4(&self) -> Ipv4Addr {
        v4(self.number)
    }

    /// Its public addresses.
    pub fn v6(&self) -> Ipv6Addr {
        v6(self.number)
    }

    /// Does `work` there: sockets that are opened and processes that are started stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            let enter = || -> nix::Result<()> {
                setns(&self.network, CloneFlags::CLONE_NEWNET)?;
                unshare(CloneFlags::CLONE_NEWNS)?;
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
                mount(Some(&self.resolver), "/etc/resolv.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>)
            };
            enter().unwrap_or_else(|error| panic!("enter machine {}: {error}", self.number));
            work()
        })
    }

    /// Runs a command there to its end, with `input`; its standard output.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> String {
        self.within(|| run(program, arguments, input))
    }
}

fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(11, 0, 0, number)
}

fn v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2a00, 0x11, 0, 0, 0, 0, 0, number.into())
}

fn addresses(link: &str, number: u8) -> String {
    format!("addr add {}/24 dev {link}\naddr add {}/64 dev {link} nodad\n", v4(number), v6(number))
}

/// A thread's namespaces are its own.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

fn ip(commands: &str) {
    run("ip", &["-batch", "-"], commands);
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let run = || -> io::Result<_> {
        let mut child =
            Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            io::Write::write_all(&mut stdin, input.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?} {input}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
