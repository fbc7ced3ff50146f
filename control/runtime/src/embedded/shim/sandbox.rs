//! The namespaces all containers of a pod share: user, network, ipc, uts.
//!
//! A forked child unshares the user namespace first, so that it owns the others (joining a network namespace needs CAP_SYS_ADMIN in the
//! namespace that owns it). The shim keeps all four alive by bind mounts below its own `/run/ns`, and the child exits: no pause process.
//!
//! ```text
//! shim                               child
//!  |                                  | unshare user
//!  |<------------ ready --------------|
//!  | write uid_map, gid_map           |
//!  |------------- go ---------------->| become root of the namespace; unshare net, ipc, uts; hostname, sysctls
//!  |<------------ ready --------------|
//!  | bind namespaces; veth pair       |
//!  |------------- go ---------------->| lo, eth0, default route
//!  |<------------ ready --------------|
//! ```

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{prctl, signal::Signal, wait::waitpid},
    unistd::{self, ForkResult, Gid, Pid, Uid},
};

use super::{BENCH, Failure, Step, sys};
use crate::embedded::{shim_protocol::ShimRequest, veth};

/// Users and groups of a pod.
const IDS: u32 = 65536;
const READY: u8 = b'+';

/// Creates the namespaces and the pod's network link.
pub(super) fn create(order: &ShimRequest) -> Result<(), Failure> {
    let (mut ours, theirs) = UnixStream::pair().step("making the sandbox")?;
    // SAFETY: the shim has one thread, so the child may continue as an ordinary program.
    match unsafe { unistd::fork() }.step("making the sandbox")? {
        ForkResult::Child => {
            drop(ours);
            sys::exit_child(child(theirs, order));
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let done = parent(&mut ours, child, order);
            drop(ours); // a child that still waits for us exits
            waitpid(child, None).step("making the sandbox")?;
            done
        }
    }
}

fn parent(stream: &mut UnixStream, child: Pid, order: &ShimRequest) -> Result<(), Failure> {
    await_ready(stream).step("making the user namespace")?;
    let map = format!("0 {} {IDS}", order.uid_base);
    fs::write(format!("/proc/{child}/gid_map"), &map).step("mapping groups")?;
    fs::write(format!("/proc/{child}/uid_map"), &map).step("mapping users")?;
    go(stream).step("making the namespaces")?;

    await_ready(stream).step("making the namespaces")?;
    keep_namespaces(child).step("keeping the namespaces")?;
    let netns = File::open(format!("/proc/{child}/ns/net")).step("opening the network namespace")?;
    let (link, owner) = (&order.pod.link, &order.pod.cgroup);
    veth::detach(link, owner.parent().unwrap_or(owner)).step("removing a stale link")?;
    veth::attach(link, owner, netns.as_fd(), order.wire).step("wiring the pod")?;
    go(stream).step("configuring the pod's network")?;

    await_ready(stream).step("configuring the pod's network")
}

fn keep_namespaces(child: Pid) -> io::Result<()> {
    let kept = Path::new(BENCH).join("ns");
    fs::create_dir(&kept)?;
    for kind in ["user", "net", "ipc", "uts"] {
        File::create(kept.join(kind))?;
        mount(Some(&*format!("/proc/{child}/ns/{kind}")), &kept.join(kind), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    Ok(())
}

fn go(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(&[READY])
}

/// Waits for the other side's next byte; anything other than readiness is the text of its error.
fn await_ready(stream: &mut UnixStream) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if byte[0] == READY {
        return Ok(());
    }
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Err(io::Error::other(text))
}

fn child(mut stream: UnixStream, order: &ShimRequest) -> i32 {
    match child_steps(&mut stream, order) {
        Ok(()) => 0,
        Err(error) => {
            stream.write_all(format!("-{error}").as_bytes()).ok(); // without a report the parent gets the end of the stream
            1
        }
    }
}

fn child_steps(stream: &mut UnixStream, order: &ShimRequest) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    unshare(CloneFlags::CLONE_NEWUSER)?;
    go(stream)?;

    await_ready(stream)?;
    unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
    unistd::sethostname(order.pod.id.as_str())?;
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?; // lets users other than root serve port 80
    fs::write("/proc/sys/net/ipv4/ping_group_range", format!("0 {}", IDS - 1))?; // pods have no raw sockets, but every user may ping
    veth::disable_ipv6("default")?; // for links created from here on; loopback keeps it, because programs expect it
    go(stream)?;

    await_ready(stream)?;
    if order.vm.is_none() {
        veth::configure_inside(order.wire)?; // a virtual machine configures its own link
    }
    go(stream)
}
