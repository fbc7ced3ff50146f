//! What a hostile pod or image would try, and what stops it: one line per attack.
//!
//! Every row names its defence. An attack must come to nothing, and its control row must work: the same action where this one
//! defence is missing (a pod with another limit or without the system call filter, or the host itself, as root). So a row
//! can't pass because its attack never was one.
//!
//! The binary plays two parts: `pod-shim DIR` is what the runtime executes for each pod, anything else runs the tables.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "all of this is test code")]

mod calls;
mod images;
mod kit;
mod limits;
mod neighbour;
mod places;
mod registries;

use std::{panic::AssertUnwindSafe, process::ExitCode};

use codiusd_runtime::embedded::{SHIM_ARGUMENT, shim_main};
use futures::FutureExt;
use kit::Report;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().unwrap_or_default() == SHIM_ARGUMENT {
        return shim_main(args);
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("containers need root: nothing was tested");
        return ExitCode::FAILURE;
    }
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |table: &str| words.is_empty() || words.iter().any(|word| table.contains(word.as_str()));
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut report = Report::default();
    macro_rules! tables {
        ($($table:ident),+) => { $(
            if wanted(stringify!($table)) {
                println!("{}:", stringify!($table));
                let ran = tokio.block_on(AssertUnwindSafe($table::run(&mut report)).catch_unwind());
                report.ended(stringify!($table), ran.is_ok());
            }
        )+ };
    }
    tables!(calls, limits, places, images, registries, neighbour);
    report.print();
    if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
