//! What is in deploy/: tried with the programs it is made for, on machines with a systemd of their own.

mod dns;
mod guide;
mod install;
mod notify;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use codiusd_kit::Machine;

/// Longer than any script takes, also on a busy machine.
const SCRIPT_WITHIN: Duration = Duration::from_secs(180);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn deploy() -> PathBuf {
    repository().join("deploy")
}

/// A server with the package in /srv/codiusd, as the guide has it.
async fn server() -> Machine {
    let binary = Path::new(env!("CARGO_BIN_EXE_codiusd"));
    let brought = tempfile::tempdir().expect("make a directory");
    let mut build = Command::new(deploy().join("debian/build"));
    // Packing takes longer than all else, and only its content matters here.
    let built = build.arg(binary).arg(brought.path()).env("DEB_COMPRESSION", "none").output().expect("run deploy/debian/build");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let server = Machine::boot(&[(brought.path(), "/srv/brought"), (&deploy(), "/srv/deploy")]).await;
    // The machine has what it needs of it before the directory here is gone.
    server.does("mkdir -p /srv/codiusd; cp /srv/brought/*.deb /srv/codiusd/", SCRIPT_WITHIN).await;
    server
}
