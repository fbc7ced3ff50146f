//! Reads the command line; everything else is in the library.

use std::{env, process::ExitCode};

use codiusd_runtime::embedded::{SHIM_ARGUMENT, shim_main};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A pod's shim is this same binary. It must stay single-threaded, so this check comes first.
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == SHIM_ARGUMENT) {
        return shim_main(arguments);
    }
    codiusd::run()
}
