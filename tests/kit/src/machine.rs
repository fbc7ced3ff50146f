//! A machine to install things on: this one's systemd and files in namespaces, where nothing that is done lasts.
//!
//! tests/kit/machine boots it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    process::{Output, Process},
    wait::{until, until_blocking},
};

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/machine");
const BOOT_WITHIN: Duration = Duration::from_secs(60);
const END_WITHIN: Duration = Duration::from_secs(10);
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// A machine that runs; gone with all it had when dropped.
#[derive(Debug)]
pub struct Machine {
    boot: Process,
    init: String,
    name: String,
    files: TempDir,
}

impl Machine {
    /// Boots it. `shown` are directories of this machine, and where they are to be there.
    pub async fn boot(shown: &[(&Path, &str)]) -> Self {
        let files =
            tempfile::Builder::new().prefix("codiusd-machine-").tempdir().unwrap_or_else(|error| panic!("make a directory: {error}"));
        let (data, pid) = (files.path().join("data"), files.path().join("pid"));
        fs::create_dir(&data).unwrap_or_else(|error| panic!("make a directory: {error}"));
        let name = format!("codiusd-machine-{:016x}", rand::random::<u64>());
        let mut command = Command::new(BOOT);
        command.arg(&name).arg(&pid).arg(&data);
        command.args(shown.iter().map(|(from, to)| format!("{}:{to}", from.display())));
        let boot = Process::spawn("a machine", &mut command, &files.path().join("boot.log"));
        let mut machine = Self { boot, init: String::new(), name, files };
        machine.init = until("a machine to have an init", BOOT_WITHIN, async || {
            machine.is_up();
            fs::read_to_string(&pid).ok()
        })
        .await;
        until("a machine to be up", BOOT_WITHIN, async || {
            machine.is_up();
            let state = machine.command("systemctl is-system-running").output().unwrap_or_else(|error| panic!("nsenter: {error}"));
            ["running", "degraded"].contains(&String::from_utf8_lossy(&state.stdout).trim()).then_some(())
        })
        .await;
        machine
    }

    fn is_up(&mut self) {
        if let Some(status) = self.boot.ended() {
            panic!("a machine ended ({status}) before it was up\n{}", self.boot.log_tail());
        }
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init, "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd", "--"]);
        let environment = ["HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
        command.args(["env", "-i"]).args(environment).args(["bash", "-euo", "pipefail", "-c", script]);
        command
    }

    /// Runs a script of bash there, to its end.
    pub async fn run(&self, script: &str, within: Duration) -> Output {
        let log = self.files.path().join(format!("script-{:016x}.log", rand::random::<u64>()));
        Process::run(script, &mut self.command(script), &log, within).await
    }

    /// The same, of a script that succeeds; what it has written.
    pub async fn does(&self, script: &str, within: Duration) -> String {
        let Output { status, text } = self.run(script, within).await;
        if !status.success() {
            let journal = self.run("journalctl -o cat --no-pager -n 30", within).await.text;
            panic!("{script}\n--- {status}\n{text}\n--- the journal\n{journal}");
        }
        text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its init goes with it, and with that every process.
        self.boot.kill();
        let mut groups = vec![Path::new(CONTROL_GROUPS).join(&self.name)];
        let hierarchies = fs::read_dir(CONTROL_GROUPS).into_iter().flatten().flatten();
        groups.extend(hierarchies.map(|hierarchy| hierarchy.path().join(&self.name)));
        for group in groups.iter().filter(|group| group.is_dir()) {
            // The last processes may be on their way out.
            if until_blocking(END_WITHIN, || remove_group(group).then_some(())).is_none() {
                eprintln!("{} couldn't be removed", group.display());
            }
        }
    }
}

/// Removes a control group and those below; false if it is in use.
fn remove_group(group: &Path) -> bool {
    let below: Vec<PathBuf> = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let below_gone = below.iter().filter(|path| path.is_dir()).all(|path| remove_group(path));
    below_gone && fs::remove_dir(group).is_ok()
}
