//! Compiles the demo page (`demo/`) into a static binary, so that `codiusd image demo` and `codiusd demo` carry it along. The page has no
//! dependencies: rustc alone makes it, without a second cargo, a lock file or the network.

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=demo");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let target = variable("TARGET");
    let binary = PathBuf::from(variable("OUT_DIR")).join("codius-demo-page");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["demo/src/main.rs", "--crate-name", "codius_demo_page", "--edition", "2024", "--target", &target, "-o"]).arg(&binary);
    rustc.args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-Clto=fat", "-Ctarget-feature=+crt-static"]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let problem = match rustc.status() {
        Ok(status) if status.success() => {
            println!("cargo::rustc-env=CODIUS_DEMO_BINARY={}", binary.display());
            return ExitCode::SUCCESS;
        }
        Ok(status) => format!("rustc ended with {status}; a static C library is needed (Debian: libc6-dev, Fedora: glibc-static)"),
        Err(error) => format!("rustc can't be run: {error}"),
    };
    println!("cargo::error=the demo page (demo/) can't be built for {target}: {problem}");
    ExitCode::FAILURE
}
