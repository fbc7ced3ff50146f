//! Which addresses are this machine's. Peers that strangers name and addresses that a runtime says pods have are held against it: nobody is
//! to make a host connect to itself.
//!
//! The kernel is asked for its route, as `ip route get` does (rtnetlink(7), `RTM_GETROUTE`): addresses of interfaces and networks that are
//! routed to the machine itself (`ip route add local`) are local there, of IPv4 and of IPv6.

use std::{io, net::IpAddr, os::fd::AsRawFd};

use nix::{
    libc,
    sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType},
};

/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Where `struct rtmsg` behind it has the type of the route.
const TYPE_AT: usize = HEADER_BYTES + 7;
/// A route and its attributes have some hundred.
const ANSWER_BYTES_MAX: usize = 4096;

/// Whether what is sent to an address stays on this machine; none if there is no way there. Sends nothing.
///
/// # Errors
///
/// The kernel can't be asked.
pub fn is_own(address: IpAddr) -> io::Result<Option<bool>> {
    let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    socket::send(socket.as_raw_fd(), &question(address.to_canonical()), MsgFlags::empty())?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    let length = socket::recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    verdict(&answer[..length])
}

/// `RTM_GETROUTE` for one destination.
fn question(address: IpAddr) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let byte = |number: i32| u8::try_from(number).unwrap_or_default();
    let (prefix, attribute) = (u8::try_from(bytes.len() * 8).unwrap_or_default(), u16::try_from(4 + bytes.len()).unwrap_or_default());
    // struct rtmsg: family, lengths of the prefixes, and what isn't asked for.
    let route = [byte(family), prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let length = u32::try_from(HEADER_BYTES + route.len() + usize::from(attribute)).unwrap_or_default();
    let flags = u16::try_from(libc::NLM_F_REQUEST).unwrap_or_default();
    let mut message = Vec::from(length.to_ne_bytes());
    message.extend(libc::RTM_GETROUTE.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend(route);
    message.extend(attribute.to_ne_bytes());
    message.extend(libc::RTA_DST.to_ne_bytes());
    message.extend(bytes);
    message
}

fn verdict(answer: &[u8]) -> io::Result<Option<bool>> {
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    match kind {
        Some(libc::RTM_NEWROUTE) => Ok(answer.get(TYPE_AT).and_then(|kind| match *kind {
            libc::RTN_LOCAL | libc::RTN_ANYCAST => Some(true),
            libc::RTN_UNICAST => Some(false),
            _ => None, // unreachable, prohibited, many at once
        })),
        Some(kind) if i32::from(kind) == libc::NLMSG_ERROR => no_way(answer).map(|()| None),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Fine if an error says that there is no way.
fn no_way(answer: &[u8]) -> io::Result<()> {
    let code = answer.get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
    match -code {
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL => Ok(()),
        other => Err(io::Error::from_raw_os_error(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{SocketAddr, TcpListener, TcpStream},
        process::{Command, Stdio},
        thread,
    };

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Changes the network of this thread.
    fn ip(commands: &str) {
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success(), "{commands}");
    }

    /// A thread's namespaces go with it.
    fn in_a_network_of_its_own(test: impl FnOnce() + Send) {
        let work = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test();
        };
        thread::scope(|scope| scope.spawn(work).join()).unwrap();
    }

    #[test]
    fn what_the_kernel_keeps_here_is_its_own() {
        in_a_network_of_its_own(|| {
            ip("link set lo up\nlink add eth0 type bridge\nlink set eth0 up\n\
                addr add 10.200.0.1/16 dev eth0\naddr add 10.200.0.2/16 dev eth0\n\
                addr add fd00::1/64 dev eth0 nodad\naddr add fd00::2/64 dev eth0 nodad\n\
                route add local 10.201.0.0/16 dev lo\nroute add local fd01::/64 dev lo\n");
            let own = |address: &str| is_own(address.parse().unwrap()).unwrap();
            for ours in ["127.0.0.1", "::1", "10.200.0.1", "10.200.0.2", "::ffff:10.200.0.2", "10.201.2.3", "fd00::1", "fd00::2", "fd01::3"]
            {
                assert_eq!(own(ours), Some(true), "{ours}");
            }
            for other in ["10.200.0.3", "::ffff:10.200.0.3", "fd00::3"] {
                assert_eq!(own(other), Some(false), "{other}");
            }
            for nowhere in ["1.1.1.1", "2606:4700::1111", "10.200.255.255", "224.0.0.1"] {
                assert_eq!(own(nowhere), None, "{nowhere}");
            }
            ip("route add unreachable 10.202.0.0/16\nroute add prohibit fd02::/64\nroute add blackhole fd03::/64\n");
            for nowhere in ["10.202.0.1", "fd02::1", "fd03::1"] {
                assert_eq!(own(nowhere), None, "{nowhere}");
            }
        });
    }

    /// What it is for: a network of IPv6 that is routed to the machine is served by whoever listens everywhere.
    #[test]
    fn whoever_listens_everywhere_is_reached_where_it_says_so() {
        in_a_network_of_its_own(|| {
            ip("link set lo up\nroute add local fd01::/64 dev lo\n");
            let listener = TcpListener::bind("[::]:0").unwrap();
            let address = SocketAddr::new("fd01::3".parse().unwrap(), listener.local_addr().unwrap().port());
            assert!(TcpStream::connect(address).is_ok());
            assert_eq!(is_own(address.ip()).unwrap(), Some(true));
        });
    }
}
