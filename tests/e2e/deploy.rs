//! What is in deploy/: tried with the programs it is made for, on machines with a systemd of their own.

mod dns;
mod guide;
mod install;
mod notify;

use std::{
    path::{Path, PathBuf},
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

/// A server with what was brought to it, as the guide says: the program and deploy/.
async fn server() -> Machine {
    let binary = Path::new(env!("CARGO_BIN_EXE_codiusd"));
    let built = binary.parent().expect("a program is in a directory");
    let server = Machine::boot(&[(&deploy(), "/srv/codiusd/deploy"), (built, "/srv/built")]).await;
    server.does("ln -s /srv/built/codiusd /srv/codiusd/codiusd", SCRIPT_WITHIN).await;
    server
}
