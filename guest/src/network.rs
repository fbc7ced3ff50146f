//! The pod's addresses: loopback, `eth0`, and an on-link default route.

use std::{fs, io, net::Ipv4Addr, path::Path, time::Duration};

use codiusd_guest_protocol::Network;
use codiusd_net::netlink::{Family, Message, Socket};
use nix::{errno::Errno, libc, net::if_::if_nametoindex};

use crate::wait;

const LINK: &str = "eth0";
/// How long the link may take to appear after its module has been loaded.
const LINK_WAIT: Duration = Duration::from_secs(10);

// From linux/if_addr.h and linux/rtnetlink.h, where libc has none.
const IPV4: u8 = 2;
const HOST_PREFIX: u8 = 32;
const ROUTE_MAIN: u8 = 254;
const ROUTE_STATIC: u8 = 4;
const ROUTE_UNICAST: u8 = 1;
const ROUTE_ONLINK: u32 = 4;

/// Brings loopback and the pod's link up.
pub(crate) fn configure(network: Network) -> io::Result<()> {
    let socket = Socket::open(Family::Route)?;
    let index = wait::until("network link", LINK_WAIT, || match if_nametoindex(LINK) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    })?;
    // The host's policy covers only IPv4; loopback keeps IPv6, because programs expect it.
    for link in ["default", LINK] {
        disable_ipv6(link)?;
    }
    socket.transact(vec![up(if_nametoindex("lo")?)])?;
    socket.transact(vec![address(index, network.address)])?;
    socket.transact(vec![up(index)])?;
    socket.transact(vec![default_route(index, network.gateway)])
}

/// Whether the kernel has IPv6.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

fn disable_ipv6(link: &str) -> io::Result<()> {
    if has_ipv6() { fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1") } else { Ok(()) }
}

fn create() -> i32 {
    libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL
}

/// `struct ifinfomsg` with IFF_UP set.
fn up(index: u32) -> Message {
    let mut header = [0; 16];
    let up = libc::IFF_UP.unsigned_abs().to_ne_bytes();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&up);
    header[12..16].copy_from_slice(&up);
    Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &header)
}

/// `struct ifaddrmsg` and a /32.
fn address(index: u32, address: Ipv4Addr) -> Message {
    let mut header = [IPV4, HOST_PREFIX, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    Message::new(libc::RTM_NEWADDR, create(), &header).attr(libc::IFA_LOCAL, &address.octets()).attr(libc::IFA_ADDRESS, &address.octets())
}

/// `struct rtmsg`, the gateway and the link: the gateway is in no network of ours.
fn default_route(index: u32, gateway: Ipv4Addr) -> Message {
    let mut header = [IPV4, 0, 0, 0, ROUTE_MAIN, ROUTE_STATIC, libc::RT_SCOPE_UNIVERSE, ROUTE_UNICAST, 0, 0, 0, 0];
    header[8..12].copy_from_slice(&ROUTE_ONLINK.to_ne_bytes());
    Message::new(libc::RTM_NEWROUTE, create(), &header).attr(libc::RTA_GATEWAY, &gateway.octets()).attr(libc::RTA_OIF, &index.to_ne_bytes())
}
