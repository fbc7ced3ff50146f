//! Compiles the first process of virtual machines (`guest/`) into a static binary, so that codiusd carries it along: it always fits the shim
//! that speaks with it.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[path = "../../guest/compile.rs"]
mod guest;

/// Everything it is made of, from the root of the workspace.
const SOURCES: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "container-rootfs/Cargo.toml",
    "container-rootfs/src",
    "guest-protocol/Cargo.toml",
    "guest-protocol/src",
    "guest/Cargo.toml",
    "guest/compile.rs",
    "guest/src",
    "net/Cargo.toml",
    "net/src",
];

fn main() -> ExitCode {
    let variable = |name: &str| env::var_os(name).unwrap_or_default();
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let root = root.ancestors().nth(2).unwrap_or_else(|| Path::new("/"));
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let (target, target_dir) = (variable("TARGET"), PathBuf::from(variable("OUT_DIR")).join("guest"));
    let target = target.to_string_lossy();
    match guest::compile(&variable("CARGO"), root, &target, &target_dir) {
        Ok(binary) => {
            println!("cargo::rustc-env=CODIUS_GUEST_BINARY={}", binary.display());
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("cargo::error=the first process of virtual machines (guest/) can't be built for {target}: {problem}");
            ExitCode::FAILURE
        }
    }
}
