// Part of control/runtime/build.rs and of the tests here: compiles `codius-guest` into one static file, for which a virtual machine needs
// nothing but a kernel.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

/// Cargo's variables that say where crates come from, and how many jobs may run; all others are about the outer build.
const KEPT: [&str; 7] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];

/// Compiles it for `target` with this cargo, the lock file of the workspace at `root`, and a target directory of its own.
pub(crate) fn compile(cargo: &OsStr, root: &Path, target: &str, target_dir: &Path) -> Result<PathBuf, String> {
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["build", "--quiet", "--locked", "--profile", "guest", "--target", target]);
    command.arg("--manifest-path").arg(root.join("guest/Cargo.toml")).arg("--target-dir").arg(target_dir);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        // A linker is told by a variable with the target in its name.
        let kept = KEPT.iter().any(|kept| text.starts_with(kept)) || text.ends_with("_LINKER");
        let of_cargo = text.starts_with("CARGO") || text.ends_with("RUSTFLAGS") || text == "RUSTC_WORKSPACE_WRAPPER";
        if of_cargo && !kept {
            command.env_remove(&name);
        }
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    match command.status() {
        Ok(status) if status.success() => Ok(target_dir.join(target).join("guest/codius-guest")),
        Ok(status) => Err(format!("cargo ended with {status}; a static C library is needed (Debian: libc6-dev, Fedora: glibc-static)")),
        Err(error) => Err(format!("cargo can't be run: {error}")),
    }
}
