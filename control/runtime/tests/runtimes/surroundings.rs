//! What a program finds when it starts: as in any container engine.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, ToSocketAddrs, UdpSocket},
    path::PathBuf,
    process::{Command, ExitCode},
};

use codiusd_runtime::{Runtime, embedded::ScratchLimit};
use nix::sys::{
    signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
    socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};

use crate::{
    busybox,
    confinement::Outside,
    kit::{Host, PATIENCE, collect, id, output_of},
};

/// Programs of this machine, with their libraries.
fn with_libraries(programs: &[&str]) -> Vec<PathBuf> {
    let mut files: BTreeSet<PathBuf> = programs.iter().map(PathBuf::from).collect();
    for program in programs {
        let output = Command::new("ldd").arg(program).output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        files.extend(listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    files.into_iter().collect()
}

/// What a shell prints for each question.
async fn answers(host: &Host, questions: &[(&str, &str)]) -> Vec<String> {
    let runtime = host.open();
    let script: String = questions.iter().map(|(question, _)| format!("echo \"$({question})\"; ")).collect();
    output_of(host, &runtime, host.script("main", &script)).await
}

fn assert_answers(answers: &[String], questions: &[(&str, &str)]) {
    assert_eq!(answers.len(), questions.len(), "{answers:?}");
    for (answer, (question, wanted)) in answers.iter().zip(questions) {
        assert_eq!(answer, wanted, "{question}");
    }
}

const START: &[(&str, &str)] = &[
    // The program itself and its directory.
    ("busybox readlink /proc/self/cwd", "/"),
    ("umask", "0022"),
    ("busybox readlink /proc/1/fd/0", "/dev/null"),
    ("busybox readlink /proc/1/fd/1 | busybox sed 's/[0-9]*//g'", "pipe:[]"),
    ("busybox env | busybox grep -vE '^(PATH|HOME|HOSTNAME|PWD|SHLVL|OLDPWD)='", ""),
    ("busybox id -G", "0"),
    // A session of its own, without a terminal.
    ("busybox awk '{ print $1, $5, $6, $7, $8 }' /proc/1/stat", "1 1 1 0 -1"),
    ("busybox cat /proc/1/oom_score_adj", "500"),
    // What it may use.
    ("ulimit -c", "0"),
    ("busybox test $(ulimit -n) -ge 1024 && busybox test $(ulimit -n) = $(ulimit -Hn) && echo enough", "enough"),
    ("busybox date +%Z", "UTC"),
    ("busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("busybox awk '{ print $1, $2 }' /proc/sys/net/ipv4/ping_group_range", "0 65535"),
    ("busybox hostname", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"),
    ("busybox cat /etc/hostname", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"),
    // Loopback has both; the wire has no IPv6.
    ("busybox awk '{ print $1, $6 }' /proc/net/if_inet6", "00000000000000000000000000000001 lo"),
    // Devices.
    (
        "for name in null zero full random urandom tty; do busybox test -c /dev/$name && busybox printf \"$name \"; done",
        "null zero full random urandom tty ",
    ),
    ("echo to the log >/dev/stderr; busybox su web -c 'echo of somebody else >/dev/stderr'; echo x >/dev/stdout", "x"),
    ("echo x | busybox cat /dev/stdin /dev/fd/0", "x"),
    ("busybox stat -c '%a %u:%g' /dev/shm /dev/mqueue | busybox tr '\\n' ' '", "1777 0:0 1777 0:0 "),
];

/// Written to a name of the output, by root and by another user of the container.
const LOGGED: [&str; 2] = ["to the log", "of somebody else"];

pub(crate) async fn a_program_finds_a_clean_start(host: Host) {
    // As one started with `nohup`, by a parent that blocks a signal: nothing of it is for pods.
    let ignored = [Signal::SIGHUP, Signal::SIGUSR1];
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR2);
    // SAFETY: no handler is installed.
    let before: Vec<_> = ignored.iter().map(|number| unsafe { signal(*number, SigHandler::SigIgn) }.unwrap()).collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();
    let said = answers(&host, START).await;
    let runtime = host.open();
    let status = output_of(&host, &runtime, host.command("main", &["/bin/busybox", "cat", "/proc/self/status"])).await;
    sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&blocked), None).unwrap();
    for (number, before) in ignored.iter().zip(before) {
        // SAFETY: what was there before.
        unsafe { signal(*number, before) }.unwrap();
    }
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        let line = status.iter().find(|line| line.starts_with(field)).unwrap();
        assert_eq!(line, &format!("{field}:\t0000000000000000"));
    }
    let (logged, said): (Vec<_>, Vec<_>) = said.into_iter().partition(|line| LOGGED.contains(&&**line));
    assert_eq!(logged, LOGGED);
    assert_answers(&said, START);
}

const LIMITS: &[(&str, &str)] = &[
    ("cd /sys/fs/cgroup; busybox cat memory.max memory/memory.limit_in_bytes 2>/dev/null", "67108864"),
    ("cd /sys/fs/cgroup; busybox cat cpu.max cpu/cpu.cfs_quota_us 2>/dev/null | busybox cut -d ' ' -f 1", "100000"),
    ("cd /sys/fs/cgroup; busybox cat pids.max pids/pids.max 2>/dev/null", "1024"),
    // Its own group and nothing else, under no name of the host's.
    ("busybox cut -d : -f 3 /proc/self/cgroup | busybox sort -u", "/"),
    ("busybox find /sys/fs/cgroup/ -mindepth 2 -type d; busybox find /sys/fs/cgroup/ -name release_agent", ""),
    ("busybox awk '$9 ~ /^cgroup/ && ($4 != \"/\" || $6 !~ /^ro,nosuid,nodev,noexec/)' /proc/self/mountinfo", ""),
    ("busybox grep -c -e codius-test -e state /proc/self/mountinfo", "0"),
    // Nothing to be changed, by root of the pod either.
    ("busybox find /sys/fs/cgroup/ -type f | while read file; do (echo 1 >$file) 2>/dev/null && echo $file; done", ""),
    (
        "busybox mkdir /sys/fs/cgroup/more /sys/fs/cgroup/memory/more 2>/dev/null; busybox ls -d /sys/fs/cgroup/more /sys/fs/cgroup/memory/more 2>/dev/null",
        "",
    ),
    ("busybox stat -c '%F %A' /sys/fs/cgroup/", "directory drwxr-xr-x"),
];

pub(crate) async fn limits_are_seen_from_within(host: Host) {
    assert_answers(&answers(&host, LIMITS).await, LIMITS);
}

pub(crate) async fn heaps_of_real_runtimes_follow_the_limit(mut host: Host) {
    host.image = busybox::write_with(&host.config.images.layouts[0], "", &with_libraries(&[&which("node")]));
    let runtime = host.open();
    let ask = "console.log(process.constrainedMemory()); console.log(v8.getHeapStatistics().heap_size_limit)";
    let mut pod = host.pod('a', vec![host.command("main", &[&which("node"), "-e", ask])]);
    pod.machine.memory_bytes = 256 << 20;
    let limit = pod.machine.memory_bytes;
    runtime.start(pod).await.unwrap();
    let said = collect(runtime.logs(&id('a'), true).await.unwrap()).await;
    runtime.stop(&id('a')).await.unwrap();
    let [constrained, heap] = said.iter().map(|line| line.parse::<u64>().unwrap()).collect::<Vec<_>>()[..] else { panic!("{said:?}") };
    assert_eq!(constrained, limit);
    // Node's own rule; without a limit it is gigabytes.
    assert!(heap < limit + limit / 4, "a heap of {heap} bytes in a pod of {limit}");
}

fn which(program: &str) -> String {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file());
    found.unwrap_or_else(|| panic!("{program} is installed")).to_str().unwrap().to_owned()
}

pub(crate) async fn everybody_may_ping(mut host: Host) {
    let outside = Outside::new(host.config.root.parent().unwrap());
    let own = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let name = id('z').to_string();
    let asked = ["127.0.0.1", "::1", "localhost", &name, &outside.address];
    let files = with_libraries(&[&own]);
    for user in ["", "web", "4711:65535"] {
        host.image = busybox::write_with(&host.config.images.layouts[0], user, &files);
        let runtime = host.open();
        let command = [&[&*own, PING_ARGUMENT], &asked[..]].concat();
        let answered = output_of(&host, &runtime, host.command("main", &command)).await;
        assert_eq!(answered, asked.map(|address| format!("{address} answers")), "as {user:?}");
    }
}

/// The first argument that makes this program ask each of the others for an echo.
pub(crate) const PING_ARGUMENT: &str = "ping";

pub(crate) fn ping(addresses: &[String]) -> ExitCode {
    for address in addresses {
        match echo(address) {
            Ok(()) => println!("{address} answers"),
            Err(error) => println!("{address}: {error}"),
        }
    }
    ExitCode::SUCCESS
}

/// By the sockets everybody may have whose group is let, not by raw ones.
fn echo(name: &str) -> io::Result<()> {
    const ECHO: [u8; 16] = [8, 0, 0, 0, 0, 0, 0, 1, b'c', b'o', b'd', b'i', b'u', b's', 0, 0];
    const ECHO_V6: u8 = 128;
    let address = (name, 0).to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address"))?;
    let (family, protocol, request, reply) = match address.ip() {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, ECHO[0], 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, ECHO_V6, 129),
    };
    let socket = UdpSocket::from(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address)?;
    let mut message = ECHO;
    message[0] = request;
    socket.send(&message)?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    if answer[0] == reply && answer[8..length] == ECHO[8..] { Ok(()) } else { Err(io::Error::other("no echo")) }
}

const NAMES: &[(&str, &str)] = &[
    ("cd /etc; busybox stat -c '%u:%g %a %h' hosts hostname resolv.conf | busybox sort -u", "0:0 644 1"),
    ("busybox awk '$2 == \"localhost\" { print $1 }' /etc/hosts | busybox tr '\\n' ' '", "127.0.0.1 ::1 "),
    ("echo 192.0.2.7 more >>/etc/hosts; busybox tail -n 1 /etc/hosts", "192.0.2.7 more"),
    ("echo options ndots:1 >>/etc/resolv.conf; busybox tail -n 1 /etc/resolv.conf", "options ndots:1"),
    ("echo name >/etc/hostname; busybox cat /etc/hostname", "name"),
    ("busybox chmod 600 /etc/hosts && busybox chown 101:102 /etc/hosts && busybox stat -c '%u:%g %a' /etc/hosts", "101:102 600"),
    // Mounts: in every engine these are written to, and not replaced.
    ("busybox mv /etc/hosts /etc/other 2>/dev/null || echo in place", "in place"),
    ("busybox rm -f /etc/resolv.conf 2>/dev/null || echo in place", "in place"),
];

pub(crate) async fn the_files_of_names_are_the_pods_own(mut host: Host) {
    assert_answers(&answers(&host, NAMES).await, NAMES);
    // The next pod has its own.
    let untouched =
        &[("busybox grep -c -e more -e ndots /etc/hosts /etc/resolv.conf | busybox tr '\\n' ' '", "/etc/hosts:0 /etc/resolv.conf:0 ")];
    assert_answers(&answers(&host, untouched).await, untouched);
    // What is written there is the pod's, wherever that is kept.
    host.disk_bytes = 16 << 20;
    let full = &[("busybox dd if=/dev/zero of=/etc/hosts bs=1M count=40 2>&1 | busybox grep -c 'No space left'", "1")];
    for scratch in [ScratchLimit::Disk, ScratchLimit::Memory] {
        host.config.limits.scratch = scratch;
        assert_answers(&answers(&host, full).await, full);
    }
    host.config.read_only = true;
    let refused = &[("{ echo x >>/etc/hosts; } 2>/dev/null || echo read-only", "read-only")];
    assert_answers(&answers(&host, refused).await, refused);
}
