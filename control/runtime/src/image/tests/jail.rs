//! What the program that merges layers can reach, and its end. A script takes its place.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::kit::{Blobs, PATIENCE, Tar, config, text};
use crate::{
    RuntimeError,
    image::{Image, ImageLimits, ImageStore, jail::UID},
};

/// Between two looks at what other processes do.
const PAUSE: Duration = Duration::from_millis(10);
/// Tells the stand-in of a daemon that it is one, and where its store is.
const STORE: &str = "CODIUS_TEST_STORE";

/// A store with one image, whose `mkfs.erofs` is a script.
struct Host {
    dir: TempDir,
    /// Is among the arguments of the script's last program, to find it by.
    token: String,
}

impl Host {
    /// `script` may name the token.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = format!("100000.{}", rand::random::<u32>());
        let path = dir.path().join("mkfs");
        let interpreter = if script.starts_with("#!") { "" } else { "#!/bin/sh\n" };
        fs::write(&path, format!("{interpreter}{}\n", script.replace("TOKEN", &token))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, token }
    }

    async fn open(&self, limits: ImageLimits) -> (ImageStore, Image) {
        open(self.dir.path(), limits).await
    }

    fn merged(&self) -> usize {
        fs::read_dir(self.dir.path().join("images/merged")).unwrap().count()
    }

    /// Runs the script to its end, which is a failure; returns what it said.
    async fn told(&self) -> String {
        let (store, image) = self.open(ImageLimits::default()).await;
        let error = store.merged(&image).await.unwrap_err();
        assert_eq!(self.merged(), 0);
        let RuntimeError::Failed { source: Some(source), .. } = error else { panic!("{error:?}") };
        source.to_string()
    }

    /// The script's processes on this machine.
    fn processes(&self) -> Vec<i32> {
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let is_ours = |pid: &i32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(); // it may have ended meanwhile
            arguments.starts_with(b"sleep") && String::from_utf8_lossy(&arguments).contains(&self.token)
        };
        pids.filter(is_ours).collect()
    }

    /// The script's next process, which isn't one of `earlier`.
    async fn next(&self, earlier: &[i32]) -> i32 {
        let new = |pids: Vec<i32>| pids.into_iter().find(|pid| !earlier.contains(pid));
        self.until("the script runs", || new(self.processes())).await
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "waiting until {what}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn open(root: &Path, limits: ImageLimits) -> (ImageStore, Image) {
    let mut blobs = Blobs::default();
    let manifest = blobs.image(&[Tar::new().file("f", "x").bytes()]);
    blobs.write(&root.join("layout")).unwrap();
    let config = config(root, &[&root.join("layout")], None, limits);
    let store = ImageStore::open_with(config, vec![PathBuf::from("/nowhere/mkfs.erofs"), root.join("mkfs")]).unwrap();
    let image = store.ensure(&format!("local/thing@{}", text(&manifest["digest"]))).await.unwrap();
    (store, image)
}

/// A field of `/proc/PID/status`.
fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn limit(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_program_is_confined_and_leaves_nothing_when_killed() {
    let host = Host::new("exec sleep TOKEN");
    let (store, image) = host.open(ImageLimits::default()).await;
    let work = tokio::spawn(async move { store.merged(&image).await });
    let pid = host.next(&[]).await;
    // Bit 2 is CAP_DAC_READ_SEARCH.
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000004", "{set}");
    }
    let id = UID.to_string();
    assert_eq!(status(pid, "Uid"), [&*id; 4].join(" "));
    assert_eq!(status(pid, "Gid"), [&*id; 4].join(" "));
    assert_eq!((status(pid, "Groups"), status(pid, "NoNewPrivs"), status(pid, "Seccomp")), (String::new(), "1".to_owned(), "2".to_owned()));
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
    }
    assert!(status(pid, "NSpid").ends_with(" 1"), "{}", status(pid, "NSpid"));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "1000");
    assert_eq!(limit(pid, "Max address space"), "2147483648 2147483648");
    assert_eq!(limit(pid, "Max core file size"), "1 1"); // with 0 the kernel would pipe dumps into a program of the host
    assert_eq!(limit(pid, "Max cpu time"), "600 600");
    assert!(limit(pid, "Max file size").starts_with("10"), "{}", limit(pid, "Max file size"));
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    let at: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    for place in &at {
        let usual = ["/", "/usr", "/mkfs.erofs", "/tree", "/out", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin"];
        assert!(usual.contains(place), "{at:?}");
    }
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter(|entry| {
        let number: u32 = entry.as_ref().unwrap().file_name().to_str().unwrap().parse().unwrap();
        number > 2
    });
    assert_eq!(open.count(), 0, "files are open that it has no business with");

    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let error = tokio::time::timeout(PATIENCE, work).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, RuntimeError::Failed { .. }), "{error:?}");
    assert_eq!(host.merged(), 0);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(host.dir.path().to_str().unwrap()), "{mounts}");
}

#[tokio::test]
async fn the_program_sees_the_tree_and_nothing_of_the_host() {
    let host = Host::new("for name in /*; do echo \"$name\"; done >&2; exit 3");
    let told = host.told().await;
    assert!(told.contains("exit status: 3"), "{told}");
    let names: Vec<&str> = told.lines().filter(|line| line.starts_with('/')).collect();
    for name in ["/out", "/tree", "/usr", "/mkfs.erofs"] {
        assert!(told.contains(name), "{told}");
    }
    for name in ["/etc", "/proc", "/root", "/dev", "/tmp", "/var", "/run", "/sys", "/home"] {
        assert!(!names.contains(&name), "{told}");
    }
}

#[tokio::test]
async fn the_program_writes_to_its_file_alone() {
    let host = Host::new("for file in /new /tree/f /tree/new /usr/new /mkfs.erofs; do echo x > $file; done; echo fine > /out; exit 3");
    let told = host.told().await;
    assert_eq!(told.matches("cannot create").count(), 5, "{told}");
    assert!(!told.contains("/out"), "{told}");
}

/// The calls that its capability makes dangerous, and those that would lead to others.
#[tokio::test]
async fn the_program_makes_no_calls_it_does_not_need() {
    let script = "#!/usr/bin/perl
        my %calls = (mount => 165, unshare => 272, setns => 308, socket => 41, ptrace => 101, open_by_handle_at => 304,
            name_to_handle_at => 303, bpf => 321, keyctl => 250, io_uring_setup => 425, userfaultfd => 323, chroot => 161, clone3 => 435);
        for (keys %calls) { $! = 0; syscall($calls{$_}, 0, 0, 0, 0, 0); print STDERR \"$_ $!\n\" unless $!{ENOSYS}; }
        $! = 0; syscall(56, 0x10000000 | 17, 0, 0, 0, 0); print STDERR \"clone $!\n\" unless $!{ENOSYS};
        print STDERR \"all tried\n\"; exit 3;";
    if cfg!(target_arch = "x86_64") {
        let told = Host::new(script).told().await;
        assert!(told.ends_with("exit status: 3: all tried"), "{told}");
    }
}

#[tokio::test]
async fn the_file_is_no_larger_than_its_room() {
    let host = Host::new("while echo 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef; do :; done > /out; exit 3");
    let told = host.told().await;
    assert!(told.contains("I/O error"), "{told}"); // the shell's word for it
}

#[tokio::test]
async fn a_talkative_program_is_heard_in_part() {
    let host = Host::new(
        "for a in 1 2 3 4 5 6 7 8 9; do for b in 1 2 3 4 5 6 7 8 9; do head -c 2000 /mkfs.erofs /mkfs.erofs /mkfs.erofs; done; done >&2; exit 3",
    );
    let told = host.told().await;
    assert!(told.len() < 2200, "{}", told.len());
}

#[tokio::test]
async fn the_program_has_only_so_much_time() {
    let host = Host::new("exec sleep TOKEN");
    let (store, image) = host.open(ImageLimits { seconds_max: 1, ..ImageLimits::default() }).await;
    let error = tokio::time::timeout(PATIENCE, store.merged(&image)).await.unwrap().unwrap_err();
    let told = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(told.contains("took too long"), "{error:?}");
    assert_eq!((host.merged(), host.processes()), (0, Vec::new()));
}

#[tokio::test]
async fn callers_wait_for_the_one_that_merges_even_if_its_caller_gave_up() {
    let host = Host::new("exec sleep TOKEN");
    let (store, image) = host.open(ImageLimits::default()).await;
    let call = || {
        let (store, image) = (store.clone(), image.clone());
        tokio::spawn(async move { store.merged(&image).await })
    };
    let first = call();
    let mut ran = vec![host.next(&[]).await];
    let waiting = [call(), call()];
    first.abort();
    for _ in &waiting {
        assert_eq!((host.processes(), host.merged()), (vec![ran[ran.len() - 1]], 1), "one at a time");
        kill(Pid::from_raw(ran[ran.len() - 1]), Signal::SIGKILL).unwrap();
        ran.push(host.next(&ran).await);
    }
    kill(Pid::from_raw(ran[ran.len() - 1]), Signal::SIGKILL).unwrap();
    for call in waiting {
        tokio::time::timeout(PATIENCE, call).await.unwrap().unwrap().unwrap_err();
    }
    assert_eq!((host.processes(), host.merged()), (Vec::new(), 0));
}

#[tokio::test]
async fn without_mkfs_it_says_what_to_install() {
    let host = Host::new("exit 3");
    let (store, image) = host.open(ImageLimits::default()).await;
    fs::remove_file(host.dir.path().join("mkfs")).unwrap();
    let error = store.merged(&image).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("erofs-utils"), "{error}");
}

#[tokio::test]
async fn a_killed_daemon_takes_the_program_with_it() {
    let host = Host::new("exec sleep TOKEN");
    let mut daemon = Command::new(env::current_exe().unwrap())
        .args(["--exact", "image::tests::jail::stand_in_of_a_daemon"])
        .env(STORE, host.dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    host.next(&[]).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    host.until("the script is gone", || host.processes().is_empty().then_some(())).await;
    drop(host.open(ImageLimits::default()).await);
    assert_eq!(host.merged(), 0);
}

/// Does nothing unless another test runs it, which kills it.
#[tokio::test]
async fn stand_in_of_a_daemon() {
    let Some(root) = env::var_os(STORE) else { return };
    let (store, image) = open(Path::new(&root), ImageLimits::default()).await;
    store.merged(&image).await.unwrap_err();
}
