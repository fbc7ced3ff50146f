//! The first process of a pod's virtual machine: it runs the pod's containers, as the shim on the host orders (`guest-protocol/`).
//!
//! | module | what is in it |
//! |---|---|
//! | `boot` | from the kernel's initramfs to a machine with devices |
//! | `devices` | ports and disks, by their names |
//! | `control` | messages to and from the shim |
//! | `pod` | from an order to containers that wait for their start |
//! | `network`, `settings`, `groups`, `storage` | the parts of a pod: addresses; clock and names; limits; disk and images |
//! | `container` | one container, seen from this process: creation, start |
//! | `inside` | the same, seen from within: the steps of the container's first process before its program |
//! | `mounts`, `confine` | what such a process sees, and what it may do |
//! | `verify` | reading back from the kernel that it is confined |
//! | `serve` | the main loop: messages, exits, output |
//! | `output` | from the containers' pipes to the output port |
//!
//! One thread and one loop. When this process ends, so does the machine: every way out powers it off.

mod boot;
mod confine;
mod container;
mod control;
mod devices;
mod failure;
mod groups;
mod inside;
mod mounts;
mod network;
mod output;
mod pod;
mod report;
mod serve;
mod settings;
mod storage;
mod sys;
mod verify;
mod wait;

use std::{fs, panic, process::ExitCode};

use nix::{
    sys::{
        prctl,
        reboot::{RebootMode, reboot, set_cad_enabled},
    },
    unistd::{Pid, getpid},
};

use codiusd_guest_protocol::{CONTROL_PORT, FromGuest, OUTPUT_PORT, VERSION};
use control::Control;
use failure::{Failure, Step};
use output::Outputs;
use pod::Pod;

fn main() -> ExitCode {
    // Elsewhere it would load modules, mount, and switch the machine off.
    if getpid() != Pid::from_raw(1) {
        eprintln!("codius-guest is the first process of a virtual machine");
        return ExitCode::from(64);
    }
    panic::set_hook(Box::new(|panic| {
        log(&panic.to_string());
        power_off();
    }));
    if let Err(failure) = run() {
        log(&failure.to_string());
    }
    power_off()
}

fn run() -> Result<(), Failure> {
    prctl::set_name(c"codius-guest").ok(); // only a name
    set_cad_enabled(false).ok(); // there is no keyboard
    boot::boot()?;
    let mut control = Control::new(devices::port(CONTROL_PORT).step("opening the control port")?);
    let told = match devices::port(OUTPUT_PORT).step("opening the output port") {
        Ok(port) => serve(&mut control, Outputs::new(port)),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &told
        && !failure.is_late()
    {
        control.send(&failure.message()).step("telling a failure")?;
        control.flush().step("telling a failure")?;
    }
    told
}

fn serve(control: &mut Control, outputs: Outputs) -> Result<(), Failure> {
    control.send(&FromGuest::Hello { version: VERSION }).step("greeting the host")?;
    let Some(order) = control.order().step("waiting for the order")? else { return Ok(()) };
    let pod = Pod::create(*order)?;
    control.send(&FromGuest::Created).step("telling that the pod is created")?;
    serve::until_done(control, outputs, pod)
}

/// Writes into the kernel's log, the only place that is there from the beginning.
fn log(text: &str) {
    fs::write("/dev/kmsg", format!("<3>codius-guest: {}", text.replace('\n', " "))).ok(); // nobody to tell
}

/// Nothing needs a clean end: what containers wrote isn't needed any more.
fn power_off() -> ! {
    reboot(RebootMode::RB_AUTOBOOT).ok(); // which the host has turned into an end; unlike a power-off it needs no ACPI
    // Refused: the kernel panics when its first process ends, and then restarts, too.
    std::process::abort()
}
