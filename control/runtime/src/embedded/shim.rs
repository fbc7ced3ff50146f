//! The supervisor of one pod: this program executed again as `pod-shim DIRECTORY`, with one thread.
//!
//! ```text
//! daemon                         shim
//!   | order (stdin, one line) --->| lock, mount namespace, control group, sandbox, containers created
//!   |                             | stdin closed by now? the daemon has died: undo
//!   |<-- answer (stdout, a line) -| containers started, status.json written
//!   |                             | log lines and exits, until all containers have exited
//!   | SIGTERM ------------------->| SIGTERM to every first process, SIGKILL after the grace
//!   |                             | undo: control group, link; namespaces and mounts go with the process
//! ```
//!
//! libcontainer forks without exec and changes the caller's directory and priority, so it may only be called where
//! there is one thread: here. The containers die with the shim (parent-death signal), however it ends.

mod allowance;
mod container;
mod failure;
mod mounts;
mod sandbox;
mod seccomp;
mod serve;
mod spec;
mod surroundings;
mod sys;
mod verify;
mod vm;

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead, Write},
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::Path,
    process::ExitCode,
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{prctl, stat::Mode, stat::umask},
    unistd,
};

use super::{
    Defence, cgroup, lock,
    shim_protocol::{DISK_FULL_STEP, DISK_STEP, STATUS_FILE, ShimReply, ShimRequest, Status, VERSION, write_json},
    subnet_lock, veth,
};
use crate::image::LayerUse;
use container::Created;
use failure::{Failure, Step};

/// The first argument that makes this program a shim.
pub const SHIM_ARGUMENT: &str = "pod-shim";

/// Directory of the pod's working files, in the shim's own mount namespace.
const BENCH: &str = "/run";
/// When memory is short, the shim is killed last: it is small and holds what must be undone. The second value is for a daemon that runs
/// without CAP_SYS_RESOURCE.
const OOM_SCORES: [&str; 2] = ["-900", "0"];

/// The shim's main function. `main` calls it with the arguments after [`SHIM_ARGUMENT`], before anything else: no thread may have been
/// started.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let (Some(dir), None) = (args.next(), args.next()) else {
        eprintln!("usage: {SHIM_ARGUMENT} DIRECTORY");
        return ExitCode::from(64);
    };
    match run(Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let cause = failure.cause();
            writeln!(io::stderr(), "{}: {cause}", failure.step).ok(); // the log's disk may be full
            answer(&ShimReply::Failed { fault: failure.fault, step: failure.step, cause }).ok(); // the daemon may have died
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> Result<(), Failure> {
    let dir = fs::canonicalize(dir).step("opening the pod's directory")?;
    let _lock = detach(&dir).step("detaching from the daemon")?;
    let order = read_order().step("reading the order")?;
    let _claim = subnet_lock::share(&order.claim).step("keeping the pod's network")?;
    let done = match &order.vm {
        Some(vm) => vm::supervise(&dir, &order, vm),
        None => supervise(&dir, &order),
    };
    // Runs every step even if one fails; reports the first failure.
    let emptied = cgroup::destroy(&order.pod.cgroup).step("removing the control group");
    if order.vm.is_none() {
        mounts::abandon(&order).ok(); // not mounted yet, or the unmount takes a moment longer
    }
    let unwired = veth::detach(&order.pod.link, &order.pod.cgroup).step("removing the link");
    done.and(emptied).and(unwired)
}

fn supervise(dir: &Path, order: &ShimRequest) -> Result<(), Failure> {
    let _layers = keep_layers(order)?;
    mounts::enter().step("making the mount namespace")?;
    let disk = mounts::scratch(dir, order);
    let full = disk.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull);
    let disk = disk.step(if full { DISK_FULL_STEP } else { DISK_STEP })?;
    let mut containers = create(dir, order)?;
    if daemon_is_gone().step("looking for the daemon")? {
        return Err(Failure::host("the daemon went away"));
    }
    containers.iter_mut().try_for_each(|container| container.start(order))?;
    let started_at_ms = now_ms();
    if order.probe {
        return answer(&ShimReply::Started { started_at_ms }).step("answering");
    }
    let pod = serve::supervise(dir, order, containers).step("opening the logs")?;
    report_started(dir, started_at_ms)?;
    serve::until_all_exited(order, pod, disk).step("supervising")
}

/// Records the start, and answers the daemon.
fn report_started(dir: &Path, started_at_ms: u64) -> Result<(), Failure> {
    write_json(&dir.join(STATUS_FILE), &Status { version: VERSION, started_at_ms }).step("recording the start")?;
    answer(&ShimReply::Started { started_at_ms }).step("answering")?;
    close_standard_streams().step("closing the standard streams")
}

/// Keeps the layers from being removed while this process lives.
fn keep_layers(order: &ShimRequest) -> Result<Vec<LayerUse>, Failure> {
    let step = "keeping the image";
    let take = |layer: &std::path::PathBuf| LayerUse::take(layer).step(step)?.ok_or_else(|| Failure::host(step));
    order.containers.iter().flat_map(|container| &container.layers).map(take).collect()
}

fn create(dir: &Path, order: &ShimRequest) -> Result<Vec<Created>, Failure> {
    let filters = match order.without {
        Some(Defence::Seccomp) => Vec::new(),
        Some(Defence::SetUserId) => Vec::new(), // applying a filter sets `no_new_privs`
        _ => seccomp::filters().step("compiling the system call filter")?,
    };
    cgroup::create(&order.pod.cgroup, order.machine, order.bounds.pids).step("setting the pod's limits")?;
    sandbox::create(order)?;
    fs::DirBuilder::new().mode(0o700).create(dir.join(super::shim_protocol::LOGS_DIR)).step("making the log directory")?;
    let mut containers = Vec::new();
    for container in &order.containers {
        surroundings::prepare(order, container).step("preparing what the container sees of itself")?;
        let rootfs = mounts::rootfs(order, container).step("mounting the image")?;
        let prepared = container::prepare(order, container, rootfs).map_err(|failure| failure.of(&container.name))?;
        containers.push(container::create(order, container, prepared, &filters)?);
    }
    cgroup::verify(&order.pod.cgroup, order.machine, order.bounds.pids).step("reading back the pod's limits")?;
    for container in &order.containers {
        let group = order.pod.cgroup.join(&container.name);
        cgroup::verify(&group, order.machine, order.bounds.pids).step("reading back a container's limits")?;
    }
    Ok(containers)
}

/// Detaches from the daemon's session, directory and lifetime; returns the lock that marks the pod as having a shim.
fn detach(dir: &Path) -> io::Result<fs::File> {
    std::env::set_current_dir("/")?;
    umask(Mode::from_bits_truncate(0o022));
    unistd::setsid()?;
    prctl::set_child_subreaper(true)?; // orphans of a container's first process are reparented to us
    protect_from_oom();
    lock::hold(dir)
}

/// Lowers the OOM score as far as permitted; the shim works without this, too.
fn protect_from_oom() {
    let set = |score: &&str| fs::write("/proc/self/oom_score_adj", score).is_ok();
    OOM_SCORES.iter().find(|score| set(score));
}

fn read_order() -> io::Result<ShimRequest> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// The daemon keeps its end of our stdin open until it has our answer.
fn daemon_is_gone() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut polled, PollTimeout::ZERO)? > 0)
}

fn answer(answer: &ShimReply) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

fn close_standard_streams() -> io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO] {
        unistd::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), standard)?;
    }
    Ok(())
}

fn now_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
