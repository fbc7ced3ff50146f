//! The kernel's view of a bridge's network: its address, its neighbours' hardware addresses, and that of the bridge itself.

use std::{fs, io, net::Ipv4Addr, path::Path};

use codiusd_net::netlink::{Family, Message, Socket, attributes};
use nix::{libc, net::if_::if_nametoindex};

use super::addresses::{Mac, Pool};

/// Bytes of `struct ifaddrmsg`, `struct ndmsg` and `struct ifinfomsg`.
const ADDRESS_BYTES: usize = 8;
const NEIGHBOUR_BYTES: usize = 12;
const LINK_BYTES: usize = 16;
const IPV4: u8 = 2;
/// From linux/if_addr.h: not the interface's first address in its network.
const SECONDARY: u8 = 0x01;
/// From linux/neighbour.h.
const DESTINATION: u16 = 1;
const HARDWARE: u16 = 2;
const INCOMPLETE: u16 = 0x01;
const STALE: u16 = 0x04;
const FAILED: u16 = 0x20;
const PERMANENT: u16 = 0x80;
/// The value in `/sys` for a hardware address that was set explicitly.
const CHOSEN: &str = "3";

/// A neighbour of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) address: Ipv4Addr,
    pub(super) mac: Option<Mac>,
    state: u16,
}

impl Neighbour {
    /// Whether the entry stays until it is removed explicitly.
    pub(super) fn is_permanent(self) -> bool {
        self.state & PERMANENT != 0
    }

    /// Whether the neighbour hasn't been heard of for a while, and may not exist any more.
    pub(super) fn is_stale(self) -> bool {
        self.state & STALE != 0
    }
}

/// The bridge's address and prefix; none if there is no such link, or it has no address.
pub(super) fn address(bridge: &str) -> io::Result<Option<(Ipv4Addr, u8)>> {
    let Some(index) = index(bridge)? else { return Ok(None) };
    let mut question = [0; ADDRESS_BYTES];
    question[0] = IPV4;
    let all = Socket::open(Family::Route)?.ask(Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &question))?;
    let of_bridge = |found: &&Vec<u8>| {
        found.first() == Some(&IPV4)
            && found.get(2).is_some_and(|flags| flags & SECONDARY == 0)
            && found.get(4..8) == Some(&index.to_ne_bytes())
    };
    Ok(all.iter().filter(of_bridge).find_map(|found| {
        let local = attributes(found.get(ADDRESS_BYTES..)?).find(|(kind, _)| *kind == libc::IFA_LOCAL)?.1;
        Some((ipv4(local)?, *found.get(1)?))
    }))
}

/// The bridge's neighbours, without those that didn't answer.
pub(super) fn known(bridge: &str) -> io::Result<Vec<Neighbour>> {
    let Some(index) = index(bridge)? else { return Ok(Vec::new()) };
    let mut question = [0; NEIGHBOUR_BYTES];
    question[0] = IPV4;
    let all = Socket::open(Family::Route)?.ask(Message::new(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &question))?;
    let neighbour = |found: &Vec<u8>| {
        let state = u16::from_ne_bytes(*found.get(8..10)?.first_chunk()?);
        if found.get(4..8) != Some(&index.to_ne_bytes()) || state & (INCOMPLETE | FAILED) != 0 {
            return None;
        }
        let value = |wanted: u16| attributes(found.get(NEIGHBOUR_BYTES..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let mac = value(HARDWARE).and_then(|mac| mac.first_chunk().copied()).map(Mac);
        Some(Neighbour { address: ipv4(value(DESTINATION)?)?, mac, state })
    };
    Ok(all.iter().filter_map(neighbour).collect())
}

/// Makes the neighbour entries permanent of pods that have a port at the bridge, and deletes those of pods without one.
pub(super) fn settle(bridge: &str, pool: Pool, ports: &[String]) -> io::Result<()> {
    let Some(index) = index(bridge)? else { return Ok(()) };
    let known = known(bridge)?;
    let here: Vec<Ipv4Addr> = ports.iter().filter_map(|port| pool.address_of(port)).collect();
    let is_settled =
        |address: Ipv4Addr| known.iter().any(|each| each.address == address && each.is_permanent() && each.mac == Some(pool.mac(address)));
    let socket = Socket::open(Family::Route)?;
    for address in here.iter().filter(|address| !is_settled(**address)) {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        socket.transact(vec![entry(libc::RTM_NEWNEIGH, flags, index, *address).attr(HARDWARE, &pool.mac(*address).0)])?;
    }
    let left = known.iter().filter(|each| each.is_permanent() && is_ours(pool, each) && !here.contains(&each.address));
    left.map(|each| each.address).try_for_each(|address| forget(&socket, index, address))
}

/// Deletes all neighbour entries that [`settle`] has made.
pub(super) fn unsettle(bridge: &str, pool: Pool) -> io::Result<()> {
    settle(bridge, pool, &[])
}

pub(super) fn is_ours(pool: Pool, neighbour: &Neighbour) -> bool {
    neighbour.mac == Some(pool.mac(neighbour.address)) && pool.contains(neighbour.address)
}

fn forget(socket: &Socket, index: u32, address: Ipv4Addr) -> io::Result<()> {
    match socket.transact(vec![entry(libc::RTM_DELNEIGH, libc::NLM_F_ACK, index, address)]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}

/// `struct ndmsg`, and the entry's address.
fn entry(kind: u16, flags: i32, index: u32, address: Ipv4Addr) -> Message {
    let mut header = [0; NEIGHBOUR_BYTES];
    header[0] = IPV4;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    Message::new(kind, flags, &header).attr(DESTINATION, &address.octets())
}

/// Whether the bridge has a hardware address that doesn't depend on its ports.
pub(super) fn has_own_mac(bridge: &str) -> bool {
    let path = Path::new("/sys/class/net").join(bridge).join("addr_assign_type");
    fs::read_to_string(path).is_ok_and(|kind| kind.trim() == CHOSEN)
}

/// Sets the bridge's hardware address, unless it was set explicitly: by default a bridge uses the lowest of its ports', which changes when
/// that pod ends, while the others keep sending to the old one. Announces the new address to running pods.
pub(super) fn pin_mac(bridge: &str, pool: Pool) -> io::Result<()> {
    let Some(index) = index(bridge)?.filter(|_| !has_own_mac(bridge)) else { return Ok(()) };
    fs::write(Path::new("/proc/sys/net/ipv4/conf").join(bridge).join("arp_notify"), "1")?;
    let mut header = [0; LINK_BYTES];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &header).attr(libc::IFLA_ADDRESS, &pool.mac(pool.gateway).0);
    Socket::open(Family::Route)?.transact(vec![message])
}

fn index(link: &str) -> io::Result<Option<u32>> {
    match if_nametoindex(link) {
        Ok(index) => Ok(Some(index)),
        Err(nix::Error::ENODEV | nix::Error::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}
