//! The guest in a real virtual machine, without hardware support: QEMU emulates one. Needs root, QEMU, busybox-static, mkfs.erofs and a
//! guest's kernel (`CODIUS_TEST_GUEST_KERNEL`).

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "all of this is test code")]

mod machine;
mod parts;

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use codiusd_guest_protocol::{Bounds, Container, Exit, FromGuest, Network, Order, ToGuest};
use machine::Machine;
use tempfile::TempDir;

static BUSYBOX: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    parts::image(&[
        ("bin/nonsense", "neither a program nor a script"),
        ("bin/lost", "#!/bin/nowhere\n"),
        ("bin/plain.txt", ""),
        ("etc/plain", "not executable"),
    ])
});

fn busybox() -> &'static Path {
    &BUSYBOX.1
}

/// A container that runs a script.
fn container(script: &str) -> Container {
    Container {
        name: "main".to_owned(),
        image: 0,
        argv: ["busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/usr/bin:/bin".to_owned()],
        cwd: "/".to_owned(),
        user: String::new(),
        volumes: Vec::new(),
    }
}

fn order(containers: Vec<Container>) -> Order {
    Order {
        hostname: "pod-in-a-test".to_owned(),
        network: Network { address: [10, 200, 0, 2].into(), gateway: [10, 200, 0, 1].into() },
        resolv_conf: "nameserver 10.200.0.1\n".to_owned(),
        unix_ns: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap(),
        bounds: Bounds { pids: 100, open_files: 512, shm_bytes: 1 << 20, scratch_memory_bytes: None, memory_bytes: 96 << 20 },
        read_only: false,
        seccomp: vec![without_mkdir()],
        containers,
    }
}

/// A filter that refuses `mkdir`, with EPERM, and nothing else.
fn without_mkdir() -> Vec<u64> {
    let instruction = |code: u64, jt: u64, jf: u64, k: u64| code | jt << 16 | jf << 24 | k << 32;
    let (load, equal, answer) = (0x20, 0x15, 0x06);
    let (mkdir, refuse, allow) = (83, 0x0005_0001, 0x7fff_0000);
    vec![instruction(load, 0, 0, 0), instruction(equal, 0, 1, mkdir), instruction(answer, 0, 0, refuse), instruction(answer, 0, 0, allow)]
}

fn exited(container: u16, exit: Exit) -> FromGuest {
    FromGuest::Exited { container, exit, out_of_memory: false }
}

fn out_of_memory(container: u16, exit: Exit) -> FromGuest {
    FromGuest::Exited { container, exit, out_of_memory: true }
}

/// The exits in a machine's last messages, by container; the last of all must be the end.
#[track_caller]
fn exits(mut rest: Vec<FromGuest>, machine: &Machine) -> Vec<FromGuest> {
    assert_eq!(rest.pop(), Some(FromGuest::Done), "{rest:?} {}", machine.told());
    rest.sort_by_key(|message| match message {
        FromGuest::Exited { container, .. } => *container,
        other => panic!("{other:?}: {}", machine.told()),
    });
    rest
}

#[test]
fn two_containers_share_loopback_and_exit_as_their_programs_do() {
    let server = "echo serving; nc -l -p 80 127.0.0.1 >/tmp/got; echo got $(cat /tmp/got); echo wrong >&2; exit 7";
    let client = "until echo hello | nc 127.0.0.1 80 2>/dev/null; do usleep 10000; done; sh -c 'kill -9 $$'; exit $?";
    let mut machine = Machine::start(&[busybox()], order(vec![container(server), container(client)]));
    let rest = machine.rest();
    assert_eq!(exits(rest, &machine), [exited(0, Exit::Code(7)), exited(1, Exit::Code(137))]);
    assert_eq!((machine.stdout(0), machine.stderr(0)), ("serving\ngot hello\n".to_owned(), "wrong\n".to_owned()));
}

#[test]
fn what_the_image_lacks_is_told_as_on_the_host() {
    let program = |program: &str| Container { argv: vec![program.to_owned()], ..container("") };
    let table = [
        (program("nope"), "\"nope\" isn't in the image: no directory of its PATH has it (/usr/bin:/bin)"),
        (Container { user: "nobody".to_owned(), ..container("") }, "it has no user \"nobody\": /etc/passwd doesn't name it"),
        (Container { cwd: "/etc/passwd".to_owned(), ..container("") }, "working directory /etc/passwd: Not a directory"),
        (program("lost"), "/bin/lost needs the interpreter /bin/nowhere, which isn't in the image"),
        (Container { cwd: "/proc/nowhere".to_owned(), ..container("") }, "working directory /proc/nowhere: No such file or directory"),
    ];
    for (wrong, told) in table {
        let mut machine = Machine::boot(&[busybox()], order(vec![container("sleep 100"), wrong]));
        let mut last = machine.next();
        if last == FromGuest::Created {
            machine.send(&ToGuest::Go);
            last = machine.next();
        }
        let FromGuest::Failed { container, uploader, step, cause } = last else { panic!("{told}: {last:?}") };
        assert_eq!((container, uploader, &*step, &*cause), (Some(1), true, told, ""));
        assert_eq!(machine.rest(), [], "that was its last message");
    }
}

#[test]
fn what_is_confined_is_read_back_from_inside() {
    let script = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|SigIgn|SigBlk):' /proc/self/status | tr '\\t' ' '; umask; \
        ulimit -n; ulimit -c; echo pid $$; cat /proc/self/cgroup; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; \
        cat /proc/self/oom_score_adj; echo $HOME $HOSTNAME $PWD; hostname; cat /etc/hostname /etc/resolv.conf; grep 10.200 /etc/hosts; \
        ls /dev /proc/acpi /sys/kernel /sys/firmware 2>/dev/null | tr '\\n' ' '; echo; wc -c </proc/kallsyms; wc -c </proc/keys; \
        for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/fs/cgroup/cgroup.procs; do echo 0 2>/dev/null >$path && echo wrote $path; \
        done; mkdir /tmp/x 2>/dev/null || echo no mkdir; mount -t tmpfs x /tmp 2>/dev/null || echo no mount; \
        echo out >/dev/stdout; ip -o addr show dev eth0 | grep -o 'inet.*/32'; ip route; date +%Y; \
        cut -d ' ' -f 5,6 /proc/self/mountinfo | grep -E '^(/|/proc|/dev|/dev/shm|/sys|/sys/fs/cgroup|/etc/hosts|/sys/kernel|/proc/sys) '";
    let user = Container { user: "web".to_owned(), cwd: "/srv".to_owned(), ..container(script) };
    let order = Order { unix_ns: 1_000_000_000_000_000_000, ..order(vec![container(script), user]) };
    let mut machine = Machine::start(&[busybox()], order);
    let rest = machine.rest();
    assert_eq!(exits(rest, &machine), [exited(0, Exit::Code(0)), exited(1, Exit::Code(0))]);
    let expected = |uid: u32, capabilities: &str, home: &str, cwd: &str| {
        let own = "ro,nosuid,nodev,noexec,relatime";
        format!(
            "Uid: {uid} {uid} {uid} {uid}\nGid: {uid} {uid} {uid} {uid}\nGroups: {uid} \nSigBlk: 0000000000000000\n\
             SigIgn: 0000000000000000\nCapInh: 0000000000000000\nCapPrm: {capabilities}\nCapEff: {capabilities}\nCapBnd: {capabilities}\n\
             CapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n0022\n512\n0\npid 1\n0::/\n{}\n100\n0\n{home} pod-in-a-test {cwd}\n\
             pod-in-a-test\npod-in-a-test\nnameserver 10.200.0.1\n10.200.0.2\tpod-in-a-test\n\
             /dev: fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero  /proc/acpi:  /sys/firmware:  /sys/kernel: \n\
             0\n0\nno mkdir\nno mount\nout\ninet 10.200.0.2/32\ndefault via 10.200.0.1 dev eth0 onlink \n2001\n\
             / rw,nosuid,nodev,relatime\n/proc rw,nosuid,nodev,noexec,relatime\n/dev rw,nosuid\n\
             /dev/shm rw,nosuid,nodev,noexec,relatime\n/sys {own}\n/sys/fs/cgroup {own}\n\
             /etc/hosts rw,nosuid,nodev,noexec,noatime\n/proc/sys {own}\n/sys/kernel {own}\n",
            96 << 20
        )
    };
    assert_eq!(machine.stdout(0), expected(0, "00000000000005fb", "/root", "/"));
    assert_eq!(machine.stdout(1), expected(1000, "0000000000000000", "/srv", "/srv"));
}

#[test]
fn a_read_only_root_has_writable_volumes_and_the_disk_has_an_end() {
    let script = "touch /x; touch /etc/hosts; touch /data/x && echo a volume; dd if=/dev/zero of=/data/y bs=1M count=100; echo still here";
    let volumes = vec!["/data".to_owned()];
    let order = Order { read_only: true, ..order(vec![Container { volumes, ..container(script) }]) };
    let mut machine = Machine::start(&[busybox()], order);
    let rest = machine.rest();
    assert_eq!(exits(rest, &machine), [exited(0, Exit::Code(0))]);
    assert_eq!(machine.stdout(0), "a volume\nstill here\n");
    let told = machine.stderr(0);
    for problem in ["touch: /x: Read-only file system", "touch: /etc/hosts: Read-only file system", "No space left on device"] {
        assert!(told.contains(problem), "{told}");
    }
}

#[test]
fn a_container_that_wants_too_much_memory_is_killed_and_its_sibling_lives() {
    let sibling = "trap 'date +%s; exit 5' TERM; dd if=/dev/zero of=/full bs=1M count=16 2>&1; echo ready; while true; do sleep 0.1; done";
    let mut order = order(vec![container("sleep 2; exec tail /dev/zero"), container(sibling)]);
    order.bounds.scratch_memory_bytes = Some(8 << 20);
    let mut machine = Machine::start(&[busybox()], order);
    machine.await_output(1, "ready\n");
    assert_eq!(machine.next(), out_of_memory(0, Exit::Signal(9)));
    machine.send(&ToGuest::Clock { unix_ns: 2_000_000_000_000_000_000 });
    machine.send(&ToGuest::Stop { grace_ms: 60_000 });
    let rest = machine.rest();
    assert_eq!(exits(rest, &machine), [exited(1, Exit::Code(5))]);
    assert!(machine.stdout(1).contains("No space left on device") && machine.stdout(1).contains("ready\n20000000"), "{}", machine.told());
}

#[test]
fn an_unread_flood_keeps_neither_a_ping_nor_the_end_from_anyone() {
    let stubborn = "trap '' TERM; echo stubborn; while true; do sleep 0.1; done";
    let mut machine = Machine::start(&[busybox()], order(vec![container("yes"), container(stubborn)]));
    machine.await_output(1, "stubborn\n");
    for _ in 0..3 {
        machine.send(&ToGuest::Ping);
        assert_eq!(machine.next_unread(), FromGuest::Pong);
    }
    let stopped = Instant::now();
    machine.send(&ToGuest::Stop { grace_ms: 700 });
    let mut last = vec![machine.next_unread(), machine.next_unread()];
    assert!(stopped.elapsed() >= Duration::from_millis(700), "the grace is over: {:?}", stopped.elapsed());
    let read = machine.written_bytes;
    last.extend(machine.rest());
    assert_eq!(exits(last, &machine), [exited(0, Exit::Signal(9)), exited(1, Exit::Signal(9))]);
    assert!(machine.written_bytes > read, "what was written before the end is sent");
    assert!(machine.stdout(0).starts_with("y\ny\n") && machine.stdout(1) == "stubborn\n");
}

#[test]
fn without_containers_a_machine_answers_and_ends() {
    for last in [ToGuest::Go, ToGuest::Stop { grace_ms: 60_000 }] {
        let mut machine = Machine::boot(&[], order(Vec::new()));
        assert_eq!(machine.next(), FromGuest::Created);
        machine.send(&last);
        assert_eq!(machine.rest(), [FromGuest::Done]);
    }
}

#[test]
fn a_machine_ends_with_its_host() {
    let mut machine = Machine::start(&[busybox()], order(vec![container("echo runs; sleep 1000")]));
    machine.await_output(0, "runs\n");
    machine.leave();
    assert_eq!(machine.rest(), []);
}

#[test]
fn containers_that_were_never_started_end_at_once() {
    let mut machine = Machine::boot(&[busybox()], order(vec![container("echo never")]));
    // Both arrive together with the order.
    machine.send(&ToGuest::Ping);
    machine.send(&ToGuest::Stop { grace_ms: 600_000 });
    assert_eq!([machine.next(), machine.next()], [FromGuest::Created, FromGuest::Pong]);
    let rest = machine.rest();
    assert_eq!(exits(rest, &machine), [exited(0, Exit::Signal(9))]);
    assert_eq!(machine.stdout(0), "");
}
