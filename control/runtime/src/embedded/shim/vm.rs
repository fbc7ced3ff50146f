//! A pod as a virtual machine: QEMU in a jail, with a first process of ours as its guest, which runs the pod's containers.
//!
//! ```text
//! shim                                    QEMU (jail: the pod's user, no capabilities, no files)
//!   | control port: messages  <---------->| guest: network, disk, images; containers
//!   | output port: what containers write <| ext4 on the pod's disk, erofs per image, tap at the pod's link
//!   | standard error, bounded <-----------|
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `jail`, `filter` | the process that becomes QEMU, and the system calls it may not make |
//! | `machine` | the running process, and its messages during the start |
//! | `control`, `errors` | its control port; its standard error |
//! | `serve` | the main loop |
//! | `confinement` | reads back from the kernel that the jail is as it should be |
//!
//! Nothing a guest sends is trusted: the kernel of the host parses no file system a guest wrote, and the shim no unbounded message.

mod confinement;
mod control;
mod errors;
mod filter;
mod jail;
mod machine;
mod serve;

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use codiusd_guest_protocol::{Bounds, Container, FromGuest, Network, Order, ToGuest, VERSION};

use super::{BENCH, Failure, Step, mounts, sandbox, seccomp};
use crate::{
    embedded::{
        cgroup, disk,
        shim_protocol::{DISK_FULL_STEP, DISK_STEP, LOGS_DIR, Scratch, ShimReply, ShimRequest, VmRequest},
        tap,
        vm::engine::{self, Layout},
    },
    error::Fault,
    image::LayerUse,
};
use control::Control;
use errors::Errors;
use jail::Program;
use machine::Machine;
use serve::Output;

/// Longest text of a guest that is passed on, in characters.
const GUEST_TEXT_MAX: usize = 4096;
/// The control group of QEMU, below the pod's.
const GROUP: &str = "vm";
/// Processes and threads of QEMU: virtual CPUs, and workers of its block devices.
const THREADS_MAX: u32 = 256;

/// Runs the pod until it ends.
pub(super) fn supervise(dir: &Path, order: &ShimRequest, vm: &VmRequest) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_millis(vm.start_timeout_ms);
    let (_uses, images) = keep_images(vm)?;
    let _kernel = vm.kernel.use_lock().step("keeping the guest kernel")?;
    mounts::enter().step("making the mount namespace")?;
    let disk = disk(dir, order)?;
    let limits = crate::Machine { memory_bytes: vm.host_memory_bytes, ..order.machine };
    let group = order.pod.cgroup.join(GROUP);
    cgroup::create(&order.pod.cgroup, limits, THREADS_MAX).step("setting the pod's limits")?;
    cgroup::create_container(&group, limits, THREADS_MAX).step("setting the pod's limits")?;
    sandbox::create(order)?;
    let netns = File::open(Path::new(BENCH).join("ns/net")).step("opening the network namespace")?;
    let tap = tap::create(netns.as_fd(), order.wire).step("wiring the virtual machine")?;
    fs::DirBuilder::new().mode(0o700).create(dir.join(LOGS_DIR)).step("making the log directory")?;
    let (mut output, output_end) = Output::pair(dir, order).step("opening the logs")?;
    let (control, control_end) = Control::pair().step("making the control port")?;
    let (errors, errors_end) = Errors::pair().step("making the control port")?;

    let devices = Devices { control: control_end, output: output_end, tap, images, disk };
    let pid = jail::spawn(&devices.program(order, vm, errors_end), netns.as_fd(), &group)?;
    let mut machine = Machine::new(pid, control, errors);
    drop(devices); // QEMU has them; when it ends, so do the ports
    create(order, &mut machine, deadline)?;
    confinement::check(&machine, order, limits, THREADS_MAX).step("checking that the virtual machine is confined")?;
    if super::daemon_is_gone().step("looking for the daemon")? {
        return Err(Failure::host("the daemon went away"));
    }
    start(order, &mut machine, deadline)?;
    let started_at_ms = super::now_ms();
    if order.probe {
        return super::answer(&ShimReply::Started { started_at_ms }).step("answering");
    }
    super::report_started(dir, started_at_ms)?;
    serve::until_ended(order, vm, &mut machine, &mut output).step("supervising")
}

/// Keeps the image files from being removed as long as the first value lives, and opens them.
fn keep_images(vm: &VmRequest) -> Result<(Vec<LayerUse>, Vec<File>), Failure> {
    let step = "keeping the image";
    let take = |image: &std::path::PathBuf| {
        let used = LayerUse::take(image).step(step)?.ok_or_else(|| Failure::host(step))?;
        Ok((used, File::open(image).step(step)?))
    };
    let taken = vm.images.iter().map(take).collect::<Result<Vec<_>, Failure>>()?;
    Ok(taken.into_iter().unzip())
}

/// The file of the pod's disk. The guest mounts it: the host never interprets its content.
fn disk(dir: &Path, order: &ShimRequest) -> Result<Option<File>, Failure> {
    let Scratch::Disk { template } = &order.bounds.scratch else { return Ok(None) };
    let disk = disk::create(template, dir);
    let full = disk.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull);
    disk.map(Some).step(if full { DISK_FULL_STEP } else { DISK_STEP })
}

/// What QEMU gets as descriptors.
struct Devices {
    control: OwnedFd,
    output: OwnedFd,
    tap: OwnedFd,
    images: Vec<File>,
    disk: Option<File>,
}

impl Devices {
    fn program<'a>(&self, order: &ShimRequest, vm: &'a VmRequest, errors: OwnedFd) -> Program<'a> {
        let images: Vec<_> = self.images.iter().map(AsRawFd::as_raw_fd).collect();
        let disk = self.disk.as_ref().map(AsRawFd::as_raw_fd);
        let (control, output, tap) = (self.control.as_raw_fd(), self.output.as_raw_fd(), self.tap.as_raw_fd());
        let [a, b, c, d] = order.pod.address.octets();
        let layout = Layout {
            name: &order.pod.link,
            accelerator: vm.accelerator,
            vcpus: order.machine.vcpus,
            memory_bytes: vm.guest_memory_bytes,
            kernel: Path::new(jail::KERNEL),
            initramfs: Path::new(jail::INITRAMFS),
            firmware: &vm.firmware,
            control,
            output,
            tap,
            mac: [2, 0, a, b, c, d],
            images: &images,
            disk,
        };
        Program {
            exe: &vm.program,
            arguments: engine::arguments(&layout),
            descriptors: images.iter().copied().chain(disk).chain([control, output, tap]).collect(),
            kernel: &vm.kernel.vmlinux,
            initramfs: &vm.kernel.initramfs,
            user: order.uid_base,
            oom_score_adj: order.bounds.oom_score_adj,
            kvm: vm.accelerator == engine::Accelerator::Kvm,
            errors,
        }
    }
}

/// Sends the order, and waits until the guest has created the containers.
fn create(order: &ShimRequest, machine: &mut Machine, deadline: Instant) -> Result<(), Failure> {
    let step = "booting the virtual machine";
    match machine.message(deadline, step)? {
        FromGuest::Hello { version: VERSION } => {}
        other => return Err(out_of_turn(order, step, other)),
    }
    let step = "creating the containers";
    machine.control.send(&ToGuest::Order(Box::new(guest_order(order)?))).step(step)?;
    match machine.message(deadline, step)? {
        FromGuest::Created => Ok(()),
        other => Err(out_of_turn(order, step, other)),
    }
}

/// Lets the containers execute their programs. The probe has none: its guest ends.
fn start(order: &ShimRequest, machine: &mut Machine, deadline: Instant) -> Result<(), Failure> {
    let step = "starting the containers";
    machine.control.send(&ToGuest::Go).step(step)?;
    match machine.message(deadline, step)? {
        FromGuest::Started => Ok(()),
        FromGuest::Done if order.probe => Ok(()),
        other => Err(out_of_turn(order, step, other)),
    }
}

/// The failure that a message other than the expected one means.
fn out_of_turn(order: &ShimRequest, step: &str, message: FromGuest) -> Failure {
    let FromGuest::Failed { container, uploader, step, cause } = message else {
        return Failure { cause: Some(printable(&format!("{message:?} is out of turn")).into()), ..Failure::host(step) };
    };
    let fault = if uploader { Fault::Image } else { Fault::Host };
    let failure = Failure { fault, step: printable(&step), cause: (!cause.is_empty()).then(|| printable(&cause).into()) };
    match container.and_then(|index| order.pod.containers.get(usize::from(index))) {
        Some(name) => failure.of(name),
        None => failure,
    }
}

fn guest_order(order: &ShimRequest) -> Result<Order, Failure> {
    let bounds = &order.bounds;
    let scratch_memory_bytes = match bounds.scratch {
        Scratch::Disk { .. } => None,
        Scratch::Memory { bytes } => Some(bytes),
    };
    let containers = if order.probe { &[][..] } else { &order.containers };
    let container = |container: &crate::embedded::shim_protocol::ContainerRequest| Container {
        name: container.name.clone(),
        image: container.image,
        argv: container.argv.clone(),
        env: container.env.clone(),
        cwd: container.cwd.clone(),
        user: container.user.clone(),
        volumes: container.volumes.clone(),
    };
    Ok(Order {
        hostname: order.pod.id.as_str().to_owned(),
        network: Network { address: order.wire.address, gateway: order.wire.gateway },
        resolv_conf: order.resolv_conf.clone(),
        unix_ns: unix_ns(),
        bounds: Bounds {
            pids: bounds.pids,
            open_files: bounds.open_files,
            shm_bytes: bounds.shm_bytes,
            scratch_memory_bytes,
            memory_bytes: order.machine.memory_bytes,
        },
        read_only: order.read_only,
        seccomp: seccomp::filters().step("compiling the system call filter")?.iter().map(|program| packed(program)).collect(),
        containers: containers.iter().map(container).collect(),
    })
}

/// A guest's text as it may reach a log, or the uploader: of limited length, on one line.
fn printable(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(GUEST_TEXT_MAX).map(plain).collect()
}

/// A filter's instructions as the protocol has them.
fn packed(program: &[seccompiler::sock_filter]) -> Vec<u64> {
    let packed = |instruction: &seccompiler::sock_filter| {
        u64::from(instruction.code) | u64::from(instruction.jt) << 16 | u64::from(instruction.jf) << 24 | u64::from(instruction.k) << 32
    };
    program.iter().map(packed).collect()
}

/// Now, for the guest's clock.
fn unix_ns() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
