//! A container's first moments: from the machine's process into its own root, then the command.

use std::{os::unix::process::CommandExt, process::Command};

use nix::unistd::{chdir, chroot, setsid};

/// First word of the command line that leads here; then root, working directory, command and its arguments.
pub(super) const COMMAND: &str = "container";
/// Exit code of a command that isn't there.
pub(super) const FAILED: u8 = 127;

/// Becomes the command. Returns only if that failed, and says why.
pub(super) fn enter(arguments: &[String]) -> String {
    let [root, workdir, program, rest @ ..] = arguments else {
        return "exec failed: No such file or directory".to_owned();
    };
    let entered = setsid().and_then(|_| chroot(root.as_str())).and_then(|()| chdir(workdir.as_str()));
    if let Err(error) = entered {
        return format!("enter {root}: {error}");
    }
    let error = Command::new(program).args(rest).exec();
    format!("exec failed: {}", error.to_string().split(" (os error").next().unwrap_or_default())
}
