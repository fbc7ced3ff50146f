//! Builds the demo page (`demo/`) as a static binary, so that `codiusd image demo` and `codiusd demo` carry it along.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

/// Set by the cargo that runs us, for our own crate: they'd make the inner build another one.
const INHERITED: &[&str] = &[
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=demo/src");
    println!("cargo::rerun-if-changed=demo/Cargo.toml");
    println!("cargo::rerun-if-changed=demo/Cargo.lock");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    let target = format!("{architecture}-unknown-linux-gnu");
    let directory = PathBuf::from(variable("OUT_DIR")).join("demo");
    let mut build = Command::new(variable("CARGO"));
    build.args(["build", "--quiet", "--release", "--locked", "--manifest-path", "demo/Cargo.toml", "--target", &target]);
    build.arg("--target-dir").arg(&directory);
    build.args(["--config", "build.rustflags=[\"-Ctarget-feature=+crt-static\"]"]);
    for name in INHERITED {
        build.env_remove(name);
    }
    match build.status() {
        Ok(status) if status.success() => {
            let binary = directory.join(&target).join("release/codius-demo-page");
            println!("cargo::rustc-env=CODIUS_DEMO_BINARY={}", binary.display());
            ExitCode::SUCCESS
        }
        Ok(status) => {
            println!("cargo::error=the demo page (demo/) can't be built for {target}: {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("cargo::error=cargo can't be run to build the demo page (demo/): {error}");
            ExitCode::FAILURE
        }
    }
}
