//! Taking all there is. The control rows have the same pod with more of it.

use std::fs;

use codiusd_runtime::Runtime;

use crate::kit::{Host, Report, collect, id, on_host, start};

const ATTACKS: &[(&str, &[&str], &str)] = &[
    ("a fork bomb", &["fork", "200"], "pids of the control group"),
    ("a memory hog", &["memory", "160"], "memory of the control group; the largest process goes"),
    ("filling the disk", &["write", "/tmp/file", "32"], "the pod's own disk"),
    ("filling shared memory", &["write", "/dev/shm/file", "32"], "size of /dev/shm"),
    ("using up inodes", &["files", "/tmp", "6000"], "the pod's own disk"),
    ("opening files", &["descriptors", "300"], "RLIMIT_NOFILE"),
    ("opening sockets", &["sockets", "300"], "RLIMIT_NOFILE"),
    ("a core dump", &["dump-core"], "RLIMIT_CORE 1, also where dumps are piped"),
];

pub(crate) async fn run(report: &mut Report) {
    let actions: Vec<&[&str]> = ATTACKS.iter().map(|(_, action, _)| *action).collect();
    let mut tight = Host::new(1, "");
    tight.config.limits.pids_max = 64;
    tight.disk_bytes = 16 << 20;
    tight.config.limits.shm_bytes_max = 16 << 20;
    tight.config.limits.open_files_max = 128;
    let runtime = tight.open();
    let attacks = tight.in_pod(&runtime, 64, &actions).await;
    drop(runtime);
    let loose = Host::new(2, "");
    let runtime = loose.open();
    let mut controls = loose.in_pod(&runtime, 512, &actions).await;
    drop(runtime);
    // What no setting gives back.
    let last = controls.len() - 1;
    controls[last] = on_host(loose.dir(), &actions[last..]).remove(0);
    for (row, (name, _, defence)) in ATTACKS.iter().enumerate() {
        report.row(name, defence, &attacks[row], Ok(&controls[row]));
    }
    let flooded = flood(3, 32 << 10).await;
    let dry = flood(4, 1 << 40).await;
    report.row("a flood of log lines", "bytes logged per second, size of log files", &flooded, Ok(&dry));
    read_only(report).await;
}

/// A second of lines, where so many bytes per second may be logged.
async fn flood(number: u8, bytes_per_second: u64) -> String {
    let mut host = Host::new(number, "");
    host.config.limits.log_bytes_per_second_max = bytes_per_second;
    host.config.limits.log_file_bytes_max = 1 << 20;
    let runtime = host.open();
    start(&runtime, host.pod('a', 64, "/bin/toolbox", &["flood", "1000", "400000"])).await;
    let said = collect(&runtime, 'a').await;
    let logs = fs::read_dir(host.config.root.join("pods")).unwrap().next().unwrap().unwrap().path().join("logs");
    let bytes: u64 = fs::read_dir(logs).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 2 << 20, "{bytes} bytes on disk");
    runtime.stop(&id('a')).await.unwrap();
    said.last().cloned().unwrap_or_default()
}

async fn read_only(report: &mut Report) {
    let actions: &[&[&str]] = &[&["write", "/tmp/file", "1"], &["write", "/bin/file", "1"]];
    let mut host = Host::new(5, "");
    let runtime = host.open();
    let controls = host.in_pod(&runtime, 64, actions).await;
    drop(runtime);
    host.config.read_only = true;
    let runtime = host.open();
    let attacks = host.in_pod(&runtime, 64, actions).await;
    for (attack, control) in attacks.iter().zip(&controls) {
        report.row("writing where all is read-only", "pods.read_only", attack, Ok(control));
    }
}
