//! The link of a virtual machine: in the pod's network namespace, a bridge without an address joins the pod's end of the veth pair and a tap
//! device, whose descriptor QEMU gets. Addresses, routes, network policy and bandwidth limit of the veth pair are those of any pod.
//!
//! Ports learn no addresses, so that a guest can't fill the bridge's table: with two ports the bridge is a wire.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use codiusd_net::netlink::{Family, Message, Socket};
use nix::{
    errno::Errno,
    libc,
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
};

use super::veth::{self, POD_LINK, Veth};
use crate::network::cap;

const BRIDGE: &str = "br0";
const TAP: &str = "tap0";

// From linux/if_link.h, where libc has none.
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const BRIDGE_FORWARD_DELAY: u16 = 1;
const BRIDGE_STP_STATE: u16 = 5;
const BRIDGE_MULTICAST_SNOOPING: u16 = 23;
const PORT_LEARNING: u16 = 8;

/// `_IOW('T', 202, int)`: TUNSETIFF.
const SET_INTERFACE: libc::c_ulong = 0x4004_54ca;

/// `struct ifreq` with flags.
#[repr(C)]
struct TapRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    rest: [u8; 22],
}

/// Creates bridge and tap in `netns`, which holds the pod's end of the veth pair; returns the tap's descriptor. Called by a thread of the
/// host's network namespace, which is in the pod's meanwhile.
pub(crate) fn create(netns: BorrowedFd<'_>, wire: Veth) -> io::Result<OwnedFd> {
    let own = File::open("/proc/thread-self/ns/net")?;
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    let created = create_here(wire);
    setns(own.as_fd(), CloneFlags::CLONE_NEWNET)?;
    created
}

fn create_here(wire: Veth) -> io::Result<OwnedFd> {
    let socket = Socket::open(Family::Route)?;
    let index = if_nametoindex(POD_LINK)?;
    for link in ["default", POD_LINK] {
        veth::disable_ipv6(link)?;
    }
    cap(POD_LINK, wire.bytes_per_second)?;
    socket.transact(vec![bridge()])?;
    let tap = open_tap()?;
    let bridge = if_nametoindex(BRIDGE)?;
    let ports = [index, if_nametoindex(TAP)?];
    for port in ports {
        socket.transact(vec![join(port, bridge)])?;
        socket.transact(vec![without_learning(port)])?;
    }
    for link in ports.into_iter().chain([bridge, if_nametoindex("lo")?]) {
        socket.transact(vec![veth::up(link)])?;
    }
    Ok(tap)
}

/// A bridge that forwards from the start and sends nothing of its own.
fn bridge() -> Message {
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Message::new(libc::RTM_NEWLINK, flags, &veth::interface(0, 0)).text(libc::IFLA_IFNAME, BRIDGE).nest(libc::IFLA_LINKINFO, &[], |info| {
        info.text(INFO_KIND, "bridge").nest(INFO_DATA, &[], |data| {
            data.attr(BRIDGE_FORWARD_DELAY, &0_u32.to_ne_bytes())
                .attr(BRIDGE_STP_STATE, &0_u32.to_ne_bytes())
                .attr(BRIDGE_MULTICAST_SNOOPING, &[0])
        })
    })
}

fn join(port: u32, bridge: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &veth::interface(port, 0)).attr(libc::IFLA_MASTER, &bridge.to_ne_bytes())
}

fn without_learning(port: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &veth::interface(port, 0)).nest(libc::IFLA_LINKINFO, &[], |info| {
        info.text(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, &[], |data| data.attr(PORT_LEARNING, &[0]))
    })
}

/// The tap exists as long as the descriptor is open.
fn open_tap() -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "/dev/net/tun is missing; the kernel needs its tun driver"),
        _ => error,
    })?;
    let flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR).map_err(io::Error::other)?;
    let mut request = TapRequest { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    request.name.iter_mut().zip(TAP.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the kernel reads and writes the structure, whose layout is its own, during the call.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), SET_INTERFACE, &raw mut request) })?;
    Ok(file.into())
}
