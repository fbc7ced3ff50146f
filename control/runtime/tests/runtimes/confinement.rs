//! What a pod can't do.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use codiusd_runtime::{
    PodState, Runtime,
    error::Fault,
    network::{self, Grade},
};
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};

use crate::busybox;
use crate::kit::{Host, PATIENCE, collect, get, get_path, id, output_of, state_of, try_get};

pub(crate) async fn pods_are_confined(host: Host) {
    let runtime = host.open();
    let script = "busybox grep -E '^(Seccomp|NoNewPrivs|CapEff|CapBnd):' /proc/self/status; busybox cat /proc/self/uid_map
        try() { \"$@\" >/dev/null 2>&1 && echo \"$* worked\" || echo refused; }
        try busybox unshare -U true; try busybox unshare -m true; try busybox mount -t tmpfs none /mnt; try busybox mknod /dev/x b 8 0
        try busybox arping -c 1 127.0.0.1; try busybox sysctl -w kernel.hostname=x
        try busybox chroot / true; try busybox ip link set lo down; try busybox cat /proc/kcore; busybox mkfifo /pipe && echo fifo";
    let lines = output_of(&host, &runtime, host.script("main", script)).await;
    let text = lines.join("\n");
    let field =
        |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}")).trim().to_owned();
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2".to_owned(), "1".to_owned()));
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service
    assert_eq!((field("CapEff:"), field("CapBnd:")), ("00000000000005fb".to_owned(), "00000000000005fb".to_owned()));
    let map: Vec<String> = lines[4].split_whitespace().map(str::to_owned).collect();
    assert_eq!((&*map[0], &*map[2]), ("0", "65536"));
    assert!(map[1].parse::<u32>().unwrap() >= 0x1000_0000, "{map:?}");
    assert!(!text.contains("worked"), "{text}");
    assert_eq!(lines.last().map(String::as_str), Some("fifo"));
}

pub(crate) async fn users_of_images_have_no_capabilities(host: Host) {
    let runtime = host.open();
    let script =
        "busybox id; busybox grep -E '^Cap' /proc/self/status; echo through a name >/dev/stdout; exec busybox httpd -f -p 80 -h /etc";
    let mut container = host.script("main", script);
    container.image = busybox::write(&host.config.images.layouts[0], "web");
    let pod = runtime.start(host.pod('a', vec![container])).await.unwrap();
    assert!(get_path(pod, 80, "/shadowed").await.ends_with("upper"));
    // The page answers before its last line need have reached the log.
    let lines = collect(runtime.logs(&id('a'), true).await.unwrap().take(7).boxed()).await;
    assert!(lines[0].starts_with("uid=101(web) gid=102"), "{lines:?}");
    assert!(lines[1..6].iter().all(|line| line.ends_with("\t0000000000000000")), "{lines:?}");
    assert_eq!(lines[6], "through a name");
    runtime.stop(&id('a')).await.unwrap();
}

pub(crate) async fn pods_do_not_reach_each_other_or_the_host(host: Host) {
    let runtime = host.open();
    let web = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    assert_eq!(get(web, 80).await, "web");
    let listener = tokio::net::TcpListener::bind((host.config.subnet.network, 0)).await;
    assert!(listener.is_err(), "the subnet is nobody's address");
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let gateway = std::net::Ipv4Addr::from_bits(host.config.subnet.network.to_bits() + 1);
    let script = format!(
        "try() {{ busybox timeout 1 busybox nc \"$@\" </dev/null >/dev/null 2>&1 && echo \"$* answered\" || echo no; }}
        try {} 80; try {gateway} {port}; try 169.254.169.254 80; try 127.0.0.1 81",
        web.address
    );
    assert_eq!(output_of(&host, &runtime, host.script("main", &script)).await, ["no"; 4]);
    let reply = try_get(web.address, 80, "/").await;
    assert_eq!(reply.unwrap(), "web");
    runtime.stop(&id('a')).await.unwrap();
}

/// Long enough for bytes to be counted.
const SENT_FOR: Duration = Duration::from_secs(1);

/// A network beyond this host: a namespace that knows no way back to pods, so that only a masqueraded request is answered.
pub(crate) struct Outside {
    name: String,
    pub(crate) address: String,
    server: Child,
}

impl Outside {
    /// With a server of what is in the directory.
    pub(crate) fn new(served: &Path) -> Self {
        let pid = std::process::id();
        let name = format!("out{pid}");
        let [.., second, third] = pid.to_be_bytes();
        let net = format!("198.18.{second}.{}", third & !3);
        let at = |last: u8| format!("{}.{}", net.rsplit_once('.').unwrap().0, (third & !3) + last);
        let ip = |args: &str| assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success(), "ip {args}");
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name out netns {name}"));
        ip(&format!("addr add {}/30 dev {name}", at(1)));
        ip(&format!("link set {name} up"));
        ip(&format!("-n {name} addr add {}/30 dev out", at(2)));
        ip(&format!("-n {name} link set out up"));
        let server = Command::new("nsenter")
            .args([&*format!("--net=/run/netns/{name}"), "busybox", "httpd", "-f", "-p", "80", "-h", &served.to_string_lossy()])
            .spawn()
            .unwrap();
        Self { name, address: at(2), server }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
        Command::new("ip").args(["link", "del", &self.name]).stderr(Stdio::null()).status().ok();
    }
}

pub(crate) async fn pods_reach_the_world_under_the_hosts_address(host: Host) {
    std::fs::write(host.config.root.with_file_name("index.html"), "the world").unwrap();
    let outside = Outside::new(host.config.root.parent().unwrap());
    let runtime = host.open();
    let script = format!("until busybox wget -q -O - http://{}/; do busybox usleep 50000; done 2>/dev/null", outside.address);
    assert_eq!(output_of(&host, &runtime, host.script("main", &script)).await, ["the world"]);
}

/// What crosses the pod's wire each way while a connection sends all it can, in bytes a second.
async fn throughput(host: &Host) -> [f64; 2] {
    let runtime = host.open();
    let script = "busybox nc -l -p 81 </dev/null >/dev/null & exec busybox nc -l -p 80 </dev/zero";
    let address = runtime.start(host.pod('a', vec![host.script("main", script)])).await.unwrap().address;
    let connect = async |port: u16| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_send_buffer_size(64 << 10).unwrap(); // what waits here hasn't been sent
            match socket.connect((address, port).into()).await {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < deadline, "the pod's port {port}: {error}"),
            }
        }
    };
    let (mut source, mut sink) = (connect(80).await, connect(81).await);
    let mut buffer = vec![0; 64 << 10];
    let (mut sent, mut received) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < SENT_FOR {
        received += timeout(PATIENCE, source.read(&mut buffer)).await.expect("the pod sends").unwrap();
    }
    let out = received as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    while began.elapsed() < SENT_FOR {
        sent += timeout(PATIENCE, sink.write(&buffer)).await.expect("the pod receives").unwrap();
    }
    let rates = [out, sent as f64 / began.elapsed().as_secs_f64()];
    if host.config.network.bytes_per_second > 0 {
        let carries = format!("{} Mbit/s", host.config.network.bytes_per_second / 125_000);
        let found = network::check(&host.config.policy()).unwrap();
        assert!(found.iter().any(|found| found.grade == Grade::Good && found.text.ends_with(&carries)), "{found:?}");
    }
    runtime.stop(&id('a')).await.unwrap();
    rates
}

pub(crate) async fn what_is_sent_is_limited(mut host: Host) {
    const CAP: u32 = 2_000_000;
    host.config.network.bytes_per_second = CAP;
    let capped = throughput(&host).await;
    host.config.network.bytes_per_second = 0;
    let free = throughput(&host).await;
    // What may come at once, and what waits.
    let beyond = f64::from(512 << 10) / SENT_FOR.as_secs_f64();
    for ((way, capped), free) in ["from the pod", "to the pod"].into_iter().zip(capped).zip(free) {
        println!("     {way}: {:.1} MB/s of {:.1}, without a cap {:.1}", capped / 1e6, f64::from(CAP) / 1e6, free / 1e6);
        assert!((0.6 * f64::from(CAP)..1.2 * f64::from(CAP) + beyond).contains(&capped), "{way}: {capped} bytes a second");
        assert!(free > 2.0 * f64::from(CAP), "{way}, without a cap: {free} bytes a second");
    }
}

pub(crate) async fn memory_is_limited_in_the_pod_alone(host: Host) {
    let runtime = host.open();
    let eat = "x=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; (while :; do x=$x$x; done); echo the rest lives";
    let neighbour = runtime.start(host.pod('b', vec![host.web("web", 80)])).await.unwrap();
    let lines = output_of(&host, &runtime, host.script("main", eat)).await;
    assert!(lines.iter().any(|line| line == "the rest lives") && lines.iter().any(|line| line == "Killed"), "{lines:?}");
    assert_eq!(state_of(&runtime, &id('b')).await, Some(PodState::Running(neighbour)));
    assert_eq!(get(neighbour, 80).await, "web");
    runtime.stop(&id('b')).await.unwrap();
}

pub(crate) async fn processes_are_limited(mut host: Host) {
    host.config.limits.pids_max = 32;
    let runtime = host.open();
    runtime.start(host.pod('a', vec![host.script("main", "while :; do busybox sleep 100 & done")])).await.unwrap();
    let lines = collect(runtime.logs(&id('a'), true).await.unwrap()).await;
    assert!(lines.iter().any(|line| line.contains("can't fork: Resource temporarily unavailable")), "{lines:?}");
    runtime.stop(&id('a')).await.unwrap();
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

pub(crate) async fn what_is_written_is_limited(mut host: Host) {
    host.disk_bytes = 16 << 20;
    let runtime = host.open();
    let script = "busybox dd if=/dev/zero of=/big bs=1M count=32 2>&1; busybox rm /big; echo fine >/small && busybox cat /small";
    let lines = output_of(&host, &runtime, host.script("main", script)).await;
    assert!(lines.iter().any(|line| line.contains("No space left on device")), "{lines:?}");
    assert_eq!(lines.last().map(String::as_str), Some("fine"));
}

pub(crate) async fn room_that_is_not_there_is_not_sold(mut host: Host) {
    std::fs::create_dir_all(&host.config.root).unwrap();
    let disk = nix::sys::statvfs::statvfs(&host.config.root).unwrap();
    let free = disk.blocks_available() * disk.fragment_size();
    host.disk_bytes = (free + (8 << 30)).next_multiple_of(1 << 20);
    let runtime = host.open(); // pods of before run on, whatever room there is
    let error = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap_err();
    assert_eq!((error.fault(), error.to_string().contains("the host's is full")), (Fault::Capacity, true), "{error}");
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
    drop(runtime);
    host.disk_bytes = 16 << 20;
    let runtime = host.open();
    let templates = || {
        let names = std::fs::read_dir(&host.config.root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("disk-")).count()
    };
    assert_eq!(templates(), 1, "none of before, and that of the self-check");
    runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    runtime.stop(&id('a')).await.unwrap();
}
