//! Starting, serving, logging, stopping.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use codiusd_runtime::{
    PodState, Runtime, RuntimeError,
    embedded::{Limits, ScratchLimit},
    error::Fault,
};
use futures::StreamExt;
use tokio::time::timeout;

use crate::kit::{Host, PATIENCE, collect, get, id, output_of, state_of, try_get, until, until_exited};

pub(crate) async fn containers_of_a_pod_share_loopback(host: Host) {
    let runtime = host.open();
    let ask = "until busybox wget -q -O - http://127.0.0.1:8081/; do busybox usleep 10000; done 2>/dev/null; busybox hostname";
    runtime.start(host.pod('a', vec![host.web("back", 8081), host.script("front", ask)])).await.unwrap();
    let log = runtime.logs(&id('a'), true).await.unwrap();
    let lines: Vec<_> = timeout(PATIENCE, log.take(2).collect()).await.expect("two lines");
    let texts: Vec<_> = lines.into_iter().map(|line| line.unwrap()).collect();
    assert_eq!(texts[0].text, "back");
    assert_eq!(texts[0].container, "front");
    assert_eq!(texts[1].text, id('a').as_str());
    runtime.stop(&id('a')).await.unwrap();
}

pub(crate) async fn the_host_reaches_the_pod(host: Host) {
    let runtime = host.open();
    let one = runtime.start(host.pod('a', vec![host.web("one", 80)])).await.unwrap();
    let two = runtime.start(host.pod('b', vec![host.web("two", 80)])).await.unwrap();
    assert_eq!((get(one, 80).await, get(two, 80).await), ("one".to_owned(), "two".to_owned()));
    runtime.stop(&id('a')).await.unwrap();
    assert_eq!(get(two, 80).await, "two");
    runtime.stop(&id('b')).await.unwrap();
}

pub(crate) async fn process_settings_are_applied(host: Host) {
    let runtime = host.open();
    let script = "echo $GREETING; pwd; busybox id -u; busybox cat /etc/resolv.conf /etc/hosts; busybox ls /proc/self/fd | busybox wc -l; ulimit -c; umask; echo err >&2";
    let mut container = host.script("main", script);
    container.env = vec![("GREETING".to_owned(), "good day".to_owned())];
    container.workdir = Some("/not/there/yet".to_owned());
    let lines = output_of(&host, &runtime, container).await;
    assert_eq!(lines[..3], ["good day", "/not/there/yet", "0"]);
    assert!(lines.iter().any(|line| line.starts_with("nameserver ")), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with(id('z').as_str())), "{lines:?}");
    assert_eq!(lines[lines.len() - 4..], ["4", "0", "0022", "err"], "descriptors (and ls's own), core size, umask: {lines:?}");
}

pub(crate) async fn an_exit_is_noticed(host: Host) {
    let runtime = host.open();
    runtime.start(host.pod('a', vec![host.script("main", "echo done; exit 7")])).await.unwrap();
    until_exited(&runtime, &id('a')).await;
    assert!(matches!(runtime.start(host.pod('a', vec![host.web("web", 80)])).await, Err(RuntimeError::AlreadyExists(_))));
    assert_eq!(collect(runtime.logs(&id('a'), true).await.unwrap()).await, ["done"]);
    assert_eq!(host.holdings().len(), 1, "only its directory: {:?}", host.holdings());
    runtime.stop(&id('a')).await.unwrap();
    assert_eq!(host.holdings().len(), 0);
}

pub(crate) async fn a_bad_command_leaves_nothing(host: Host) {
    let runtime = host.open();
    for (command, said) in [
        (
            &["no-such-program"][..],
            "container main: \"no-such-program\" isn't in the image: no directory of its PATH has it (/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)",
        ),
        (&["/etc/passwd"], "container main: \"/etc/passwd\" is not an executable file (mode 0644)"),
        (
            &["/bin/not-a-program"],
            "container main: /bin/not-a-program can't be executed: it is neither a program of this machine nor a script with an interpreter (exec format error)",
        ),
    ] {
        let error = runtime.start(host.pod('a', vec![host.web("web", 80), host.command("main", command)])).await.unwrap_err();
        assert_eq!(error.to_string(), format!("pod {} failed to start: {said}", id('a')));
        assert_eq!(error.fault(), Fault::Image);
        assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
        assert_eq!(runtime.list().await.unwrap(), []);
    }
    let mut nowhere = host.web("web", 80);
    nowhere.workdir = Some("/etc/passwd/x".to_owned());
    let error = runtime.start(host.pod('a', vec![nowhere])).await.unwrap_err().to_string();
    assert!(error.contains("working directory /etc/passwd/x: Not a directory"), "{error}");

    let running = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    assert_eq!(get(running, 80).await, "web");
    runtime.stop(&id('a')).await.unwrap();
}

pub(crate) async fn twenty_starts_leave_nothing(host: Host) {
    let runtime = host.open();
    for _ in 0..20 {
        let running = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
        assert_eq!(get(running, 80).await, "web");
        runtime.stop(&id('a')).await.unwrap();
    }
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

pub(crate) async fn logs_follow_over_rotation(mut host: Host) {
    host.config.limits.log_file_bytes_max = 1 << 20;
    let runtime = host.open();
    let script = "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); [ $((i % 500)) = 0 ] && busybox usleep 20000; done";
    runtime.start(host.pod('a', vec![host.script("main", script)])).await.unwrap();
    let lines = collect(runtime.logs(&id('a'), true).await.unwrap()).await;
    let wanted: Vec<String> = (0..60000).map(|number| format!("line {number}")).collect();
    assert_eq!(lines.len(), wanted.len());
    assert!(lines == wanted, "in order");
    let logs = fs::read_dir(host.pods_dir()).unwrap().next().unwrap().unwrap().path().join("logs");
    let files: Vec<u64> = fs::read_dir(logs).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert!(files.len() == 2 && files.iter().all(|length| *length <= 1 << 20), "{files:?}");
    runtime.stop(&id('a')).await.unwrap();
}

pub(crate) async fn a_stop_ends_followers(host: Host) {
    let runtime = host.open();
    runtime.start(host.pod('a', vec![host.script("main", "echo hello; exec busybox sleep 1000")])).await.unwrap();
    let mut lines = runtime.logs(&id('a'), true).await.unwrap();
    assert_eq!(timeout(PATIENCE, lines.next()).await.expect("a line").unwrap().unwrap().text, "hello");
    runtime.stop(&id('a')).await.unwrap();
    assert!(timeout(PATIENCE, lines.next()).await.expect("the end").is_none());
}

pub(crate) async fn the_same_pod_starts_again_at_once(host: Host) {
    let runtime = host.open();
    let patient = "trap 'echo stopping; exit 0' TERM; echo up; while :; do busybox sleep 1 & wait; done";
    for _ in 0..3 {
        runtime.start(host.pod('a', vec![host.script("main", patient)])).await.unwrap();
        let name = id('a');
        let (stopped, also) = tokio::join!(runtime.stop(&name), runtime.stop(&name));
        stopped.and(also).unwrap();
        assert_eq!(state_of(&runtime, &id('a')).await, None);
    }
    // A caller who goes away leaves nothing half done: the start is finished, and a stop waits for it.
    let gone = timeout(Duration::from_millis(1), runtime.start(host.pod('a', vec![host.web("web", 80)]))).await;
    assert!(gone.is_err());
    runtime.stop(&id('a')).await.unwrap();
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

pub(crate) async fn too_many_starts_are_refused(mut host: Host) {
    host.config.limits.starts_max = 1;
    host.config.limits.starts_waiting_max = 1;
    let runtime = host.open();
    let pod = |seed| runtime.start(host.pod(seed, vec![host.web("web", 80)]));
    let (one, two, three) = tokio::join!(pod('a'), pod('b'), pod('c'));
    assert!(one.is_ok() && two.is_ok());
    let busy = three.unwrap_err();
    assert!(matches!(busy, RuntimeError::Busy));
    for seed in ['a', 'b', 'c'] {
        assert!(seed == 'c' || matches!(state_of(&runtime, &id(seed)).await, Some(PodState::Running(_))));
        runtime.stop(&id(seed)).await.unwrap();
    }
}

pub(crate) async fn a_pod_that_ignores_sigterm_ends_in_time(mut host: Host) {
    host.config.limits.stop_grace = Limits::default().stop_grace;
    let runtime = host.open();
    let deaf = "trap '' TERM; busybox sleep 1000 & echo up; while :; do busybox sleep 1; done";
    runtime.start(host.pod('a', vec![host.script("one", deaf), host.script("two", deaf)])).await.unwrap();
    let log = runtime.logs(&id('a'), true).await.unwrap();
    assert_eq!(timeout(PATIENCE, log.take(2).count()).await.expect("both ignore it by now"), 2);
    let began = Instant::now();
    runtime.stop(&id('a')).await.unwrap();
    // The grace, and what a busy machine takes for the rest; an emulated one takes longer to power off.
    let limit = Duration::from_millis(if host.runs_vms() { 4000 } else { 1500 });
    assert!(began.elapsed() < limit, "{:?} of run time nobody paid for", began.elapsed());
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

pub(crate) async fn the_log_of_a_fast_writer_ends(mut host: Host) {
    host.config.limits.log_file_bytes_max = 256 << 10;
    let runtime = host.open();
    let text = "x".repeat(200);
    runtime.start(host.pod('a', vec![host.command("main", &["/bin/busybox", "yes", &text])])).await.unwrap();
    until("both files are full", || async { runtime.logs(&id('a'), false).await.unwrap().count().await > 1500 }).await;
    let mut lines = runtime.logs(&id('a'), false).await.unwrap();
    let file = fs::read_dir(host.pods_dir()).unwrap().next().unwrap().unwrap().path().join("logs/main.log");
    let written = || fs::metadata(&file).ok().map(|data| (data.ino(), data.len()));
    let (began, mut count, mut bytes) = (Instant::now(), 0, 0);
    while let Some(line) = lines.next().await {
        bytes += line.unwrap().text.len();
        count += 1;
        // A reader as slow as a client far away: meanwhile the pod writes on.
        if count % 100 == 0 {
            let before = written();
            until("the pod writes on", || async { written().is_some_and(|now| before != Some(now)) }).await;
        }
        assert!(bytes <= 2 * (256 << 10) && began.elapsed() < PATIENCE, "{count} lines so far");
    }
    runtime.stop(&id('a')).await.unwrap();
}

pub(crate) async fn requests_for_a_pod_that_is_gone_stay_here(host: Host) {
    let runtime = host.open();
    let gone = runtime.start(host.pod('a', vec![host.script("main", "exit 0")])).await.unwrap();
    let there = runtime.start(host.pod('b', vec![host.web("web", 80)])).await.unwrap();
    until_exited(&runtime, &id('a')).await;
    let refused = async |what: &str| {
        let began = Instant::now();
        let error = try_get(gone.address, 80, "/").await.expect_err(what);
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{what}: {error}");
        assert!(began.elapsed() < Duration::from_millis(100), "{what}: {:?}", began.elapsed());
    };
    refused("just exited").await;
    assert_eq!(get(there, 80).await, "web");
    drop(runtime);
    refused("while nobody looks after pods").await;
    let runtime = host.open();
    refused("after a restart").await;
    assert_eq!(get(there, 80).await, "web");
    for seed in ['a', 'b'] {
        runtime.stop(&id(seed)).await.unwrap();
    }
}

pub(crate) async fn nothing_of_a_host_without_pods_is_left(host: Host) {
    assert_eq!(host.fixtures().len(), 0, "{:?}", host.fixtures());
    let runtime = host.open();
    assert_eq!(host.holdings().len(), 0, "of the self-check: {:?}", host.holdings());
    until("the self-check's disk is free again", || async { host.disks().is_empty() }).await;
    runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    let with_a_pod = host.fixtures();
    assert!(with_a_pod.iter().any(|line| line.starts_with("table")), "{with_a_pod:?}");
    assert!(with_a_pod.iter().any(|line| line.starts_with("unreachable")), "{with_a_pod:?}");
    assert!(with_a_pod.len() > 2, "{with_a_pod:?}");
    assert_eq!(host.disks().len(), 1, "the self-check's is gone");
    drop(runtime);
    assert_eq!(host.fixtures(), with_a_pod, "the pod runs on and needs it");
    let runtime = host.open();
    runtime.stop(&id('a')).await.unwrap();
    drop(runtime);
    assert_eq!(host.fixtures().len(), 0, "{:?}", host.fixtures());
}

pub(crate) async fn files_of_pods_are_for_root_alone(host: Host) {
    fs::create_dir_all(&host.config.root).unwrap();
    fs::write(host.config.root.join("runtime.lock"), "").unwrap();
    let runtime = host.open();
    let running = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
    get(running, 80).await;
    let (mut seen, mut open) = (Vec::new(), vec![host.config.root.join("runtime.lock"), host.pods_dir()]);
    while let Some(path) = open.pop() {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o077, 0, "{}: {:o}", path.display(), metadata.mode());
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        seen.push(if name.starts_with(id('a').as_str()) { "a pod".to_owned() } else { name });
    }
    seen.sort();
    assert_eq!(seen, ["a pod", "lock", "logs", "pod.json", "pods", "runtime.lock", "shim.log", "status.json", "web.log"]);
    runtime.stop(&id('a')).await.unwrap();
}

/// Image cached -> HTTP 200 from the pod, and stop; printed, not judged.
pub(crate) async fn start_latency(host: Host) {
    latency(&host).await;
}

pub(crate) async fn start_latency_in_memory(mut host: Host) {
    host.config.limits.scratch = ScratchLimit::Memory;
    latency(&host).await;
}

async fn latency(host: &Host) {
    let began = Instant::now();
    let runtime = host.open();
    println!("opening, with the self-check: {:?}", began.elapsed());
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for _ in 0..21 {
        let began = Instant::now();
        let running = runtime.start(host.pod('a', vec![host.web("web", 80)])).await.unwrap();
        get(running, 80).await;
        starts.push(began.elapsed());
        let began = Instant::now();
        runtime.stop(&id('a')).await.unwrap();
        stops.push(began.elapsed());
    }
    starts.remove(0); // unpacked the image
    for (what, mut times) in [("start to HTTP 200", starts), ("stop (with 200 ms grace)", stops)] {
        times.sort();
        println!("{what}: median {:?}, fastest {:?}, slowest {:?}", times[times.len() / 2], times[0], times[times.len() - 1]);
    }
}
