//! A pod: from an order to containers that wait for their start.

use std::io;

use codiusd_container_rootfs::names;
use codiusd_guest_protocol::Order;
use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
};

use crate::{
    container::Container,
    failure::{Failure, Step},
    groups, network, settings, storage, sys,
};

/// A pod whose containers have been created.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) containers: Vec<Container>,
    /// Readable when a child has exited.
    pub(crate) exits: SignalFd,
}

impl Pod {
    /// Creates everything that is ordered.
    pub(crate) fn create(order: Order) -> Result<Self, Failure> {
        settings::set_clock(order.unix_ns).step("setting the clock")?;
        settings::apply(&order.hostname).step("setting the pod's names")?;
        network::configure(order.network).step("configuring the pod's network")?;
        groups::create_pod(&order.bounds).step("setting the pod's limits")?;
        storage::mount_scratch(&order.bounds).step("mounting the pod's disk")?;
        let exits = watch_exits().step("watching for exits")?;
        let files = names::files(&order.hostname, order.network.address, network::has_ipv6(), &order.resolv_conf);
        let filters: Vec<sys::Filter> = order.seccomp.iter().map(|program| sys::Filter::new(program)).collect();
        let mut containers = Vec::new();
        for (index, container) in (0..).zip(&order.containers) {
            containers.push(Container::create(index, &order, container, &files, &filters).map_err(|failure| failure.of(index))?);
        }
        Ok(Self { containers, exits })
    }

    /// Executes the containers' programs.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        self.containers.iter_mut().try_for_each(Container::start)
    }
}

fn watch_exits() -> io::Result<SignalFd> {
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&watched), None)?;
    Ok(SignalFd::with_flags(&watched, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}
