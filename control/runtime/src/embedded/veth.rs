//! A pod's network link: a veth pair whose host end is routed to one /32 (no bridge: `rp_filter` then stops forged sources, and there is no
//! neighbour to impersonate) and whose pod end is `eth0` with an on-link default route. Also blocks requests to addresses without a pod:
//! without a route of their own they would leave the machine.

use std::{fs, io, net::Ipv4Addr, os::fd::AsRawFd, os::fd::BorrowedFd, path::Path};

use codiusd_net::{
    Ipv4Cidr,
    netlink::{Family, Message, Socket, attributes},
};
use nix::{libc, net::if_::if_nametoindex};
use serde::{Deserialize, Serialize};

use crate::network::cap;

/// The pod's end.
pub(crate) const POD_LINK: &str = "eth0";

// From linux/if_link.h, linux/if_addr.h and linux/rtnetlink.h, where libc has none.
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const ROUTE_MAIN: u8 = 254;
const ROUTE_STATIC: u8 = 4;
/// A routing protocol number that marks our routes; no daemon listed by iproute2 has the number.
const ROUTE_OURS: u8 = 200;
const ROUTE_UNICAST: u8 = 1;
const ROUTE_UNREACHABLE: u8 = 7;
const ROUTE_ONLINK: u32 = 4;
const HOST_PREFIX: u8 = 32;
const IPV4: u8 = 2;
/// `struct ifinfomsg`.
const INTERFACE_BYTES: usize = 16;

/// The addresses at both ends of a pod's link, and its bandwidth.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Veth {
    /// The host's address.
    pub(crate) gateway: Ipv4Addr,
    /// The pod's address.
    pub(crate) address: Ipv4Addr,
    /// In each direction; 0: no limit.
    pub(crate) bytes_per_second: u32,
}

/// Creates the pair, with the pod end directly in `netns`, and brings the host end up; its alias is `owner`.
pub(crate) fn attach(link: &str, owner: &Path, netns: BorrowedFd<'_>, wire: Veth) -> io::Result<()> {
    let socket = Socket::open(Family::Route)?;
    let peer_netns = netns.as_raw_fd().to_ne_bytes();
    let pair =
        Message::new(libc::RTM_NEWLINK, create(), &interface(0, 0)).text(libc::IFLA_IFNAME, link).nest(libc::IFLA_LINKINFO, &[], |info| {
            info.text(INFO_KIND, "veth").nest(INFO_DATA, &[], |data| {
                data.nest(VETH_INFO_PEER, &interface(0, 0), |peer| {
                    peer.text(libc::IFLA_IFNAME, POD_LINK).attr(libc::IFLA_NET_NS_FD, &peer_netns)
                })
            })
        });
    socket.transact(vec![pair])?;
    let index = if_nametoindex(link)?;
    let alias = owner.to_string_lossy();
    socket.transact(vec![
        Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &interface(index, 0)).attr(libc::IFLA_IFALIAS, alias.as_bytes()),
    ])?;
    fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "1")?;
    disable_ipv6(link)?;
    cap(link, wire.bytes_per_second)?;
    socket.transact(vec![up(index)])?;
    socket.transact(vec![add_address(index, wire.gateway)])?;
    socket.transact(vec![route_to(index, wire.address)])
}

/// Configures the inside: loopback, bandwidth limit, address and default route. Must be called in the pod's network namespace.
pub(crate) fn configure_inside(wire: Veth) -> io::Result<()> {
    let socket = Socket::open(Family::Route)?;
    let index = if_nametoindex(POD_LINK)?;
    disable_ipv6(POD_LINK)?;
    socket.transact(vec![up(if_nametoindex("lo")?)])?;
    cap(POD_LINK, wire.bytes_per_second)?;
    socket.transact(vec![add_address(index, wire.address)])?;
    socket.transact(vec![up(index)])?;
    socket.transact(vec![default_route(index, wire.gateway)])
}

/// Removes the pair if its alias is `owner` or a path below it; succeeds if there is none. A link of that name with any other alias stays.
pub(crate) fn detach(link: &str, owner: &Path) -> io::Result<()> {
    // By index from here on: the name may belong to another link before this is done.
    let Ok(index) = if_nametoindex(link) else { return Ok(()) };
    let alias = match alias_of(index) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        read => read?,
    };
    if !Path::new(&alias).starts_with(owner) {
        tracing::warn!(link, alias, "network link belongs to another program; left in place");
        return Ok(());
    }
    let delete = Message::new(libc::RTM_DELLINK, libc::NLM_F_ACK, &interface(index, 0));
    unless(libc::ENODEV, Socket::open(Family::Route)?.transact(vec![delete]))
}

/// A link's alias. Not read from `/sys`, which may be mounted for another network namespace.
fn alias_of(index: u32) -> io::Result<String> {
    let told = Socket::open(Family::Route)?.ask(Message::new(libc::RTM_GETLINK, 0, &interface(index, 0)))?;
    let attributes = told.first().and_then(|link| link.get(INTERFACE_BYTES..)).map(attributes);
    let alias = attributes.into_iter().flatten().find(|(kind, _)| *kind == libc::IFLA_IFALIAS);
    Ok(alias.map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()).unwrap_or_default())
}

/// Makes addresses of the network without a pod unreachable; repeatable. Pods' own routes are more specific, and take precedence.
pub(crate) fn block(subnet: Ipv4Cidr) -> io::Result<()> {
    unblock(subnet)?; // removes one of an earlier process
    let socket = Socket::open(Family::Route)?;
    match socket.transact(vec![unreachable(libc::RTM_NEWROUTE, create(), subnet)]) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(io::Error::other(format!("this machine has a route to {subnet} already; choose another network for pods")))
        }
        done => done,
    }
}

/// Undoes [`block`]; succeeds if there is nothing to undo.
pub(crate) fn unblock(subnet: Ipv4Cidr) -> io::Result<()> {
    let delete = unreachable(libc::RTM_DELROUTE, libc::NLM_F_ACK, subnet);
    unless(libc::ESRCH, Socket::open(Family::Route)?.transact(vec![delete]))
}

/// Treats the error that means "nothing to do" as success.
fn unless(nothing: i32, done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(nothing) => Ok(()),
        done => done,
    }
}

/// The policy covers only IPv4: IPv6 is off until there are rules for it. Succeeds on a kernel without IPv6.
pub(crate) fn disable_ipv6(link: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn create() -> i32 {
    libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL
}

/// `struct ifinfomsg`; `up` sets IFF_UP.
pub(crate) fn interface(index: u32, up: u32) -> [u8; INTERFACE_BYTES] {
    let mut header = [0; INTERFACE_BYTES];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&up.to_ne_bytes());
    header[12..16].copy_from_slice(&up.to_ne_bytes());
    header
}

/// Brings a link up.
pub(crate) fn up(index: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &interface(index, libc::IFF_UP.unsigned_abs()))
}

/// `struct ifaddrmsg` and a /32.
fn add_address(index: u32, address: Ipv4Addr) -> Message {
    let mut header = [IPV4, HOST_PREFIX, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    Message::new(libc::RTM_NEWADDR, create(), &header).attr(libc::IFA_LOCAL, &address.octets()).attr(libc::IFA_ADDRESS, &address.octets())
}

fn route_to(index: u32, address: Ipv4Addr) -> Message {
    Message::new(libc::RTM_NEWROUTE, create(), &route(ROUTE_UNICAST, HOST_PREFIX, libc::RT_SCOPE_LINK, 0))
        .attr(libc::RTA_DST, &address.octets())
        .attr(libc::RTA_OIF, &index.to_ne_bytes())
}

fn default_route(index: u32, gateway: Ipv4Addr) -> Message {
    Message::new(libc::RTM_NEWROUTE, create(), &route(ROUTE_UNICAST, 0, libc::RT_SCOPE_UNIVERSE, ROUTE_ONLINK))
        .attr(libc::RTA_GATEWAY, &gateway.octets())
        .attr(libc::RTA_OIF, &index.to_ne_bytes())
}

fn unreachable(kind: u16, flags: i32, subnet: Ipv4Cidr) -> Message {
    let mut header = route(ROUTE_UNREACHABLE, subnet.prefix, libc::RT_SCOPE_UNIVERSE, 0);
    header[5] = ROUTE_OURS;
    Message::new(kind, flags, &header).attr(libc::RTA_DST, &subnet.address(0).octets())
}

/// `struct rtmsg`.
fn route(kind: u8, prefix: u8, scope: u8, flags: u32) -> [u8; 12] {
    let mut header = [IPV4, prefix, 0, 0, ROUTE_MAIN, ROUTE_STATIC, scope, kind, 0, 0, 0, 0];
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header
}
