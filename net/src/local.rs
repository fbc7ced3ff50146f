//! Which addresses are this machine's. Peer URIs from other hosts and pod addresses from a runtime are checked against it, so that they
//! can't make a host connect to itself.
//!
//! The kernel answers from its routing table, as for `ip route get` (rtnetlink(7), `RTM_GETROUTE`): addresses of interfaces and networks that are
//! routed to the machine itself (`ip route add local`) are local there, of IPv4 and of IPv6.

use std::{io, net::IpAddr};

use nix::libc;

use crate::netlink::{Family, Message, Socket};

/// Offset of the route type in `struct rtmsg`.
const TYPE_AT: usize = 7;

/// Whether packets to an address stay on this machine; none if there is no route to it. Sends no packet to it.
///
/// # Errors
///
/// The query to the kernel fails.
pub fn is_local(address: IpAddr) -> io::Result<Option<bool>> {
    let answers = Socket::open(Family::Route)?.ask(route_to(address.to_canonical()));
    match answers {
        Ok(answers) => Ok(answers.first().and_then(|route| route.get(TYPE_AT)).and_then(|kind| match *kind {
            libc::RTN_LOCAL | libc::RTN_ANYCAST => Some(true),
            libc::RTN_UNICAST => Some(false),
            _ => None, // unreachable, prohibited, multicast
        })),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `RTM_GETROUTE` for one destination.
fn route_to(address: IpAddr) -> Message {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let byte = |number: i32| u8::try_from(number).unwrap_or_default();
    let prefix = u8::try_from(bytes.len() * 8).unwrap_or_default();
    // struct rtmsg: family, length of the destination's prefix, and fields the query leaves at 0.
    let route = [byte(family), prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Message::new(libc::RTM_GETROUTE, 0, &route).attr(libc::RTA_DST, &bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{SocketAddr, TcpListener, TcpStream},
        process::{Command, Stdio},
        thread,
        time::{Duration, Instant},
    };

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Runs `ip` commands in this thread's network namespace.
    fn ip(commands: &str) {
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success(), "{commands}");
    }

    /// Runs the test in a new thread: its namespaces end with it.
    fn in_a_network_of_its_own(test: impl FnOnce() + Send) {
        let work = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test();
        };
        thread::scope(|scope| scope.spawn(work).join()).unwrap();
    }

    #[test]
    fn the_kernel_knows_the_machines_addresses() {
        in_a_network_of_its_own(|| {
            ip("link set lo up\nlink add eth0 type bridge\nlink set eth0 up\n\
                addr add 10.200.0.1/16 dev eth0\naddr add 10.200.0.2/16 dev eth0\n\
                addr add fd00::1/64 dev eth0 nodad\naddr add fd00::2/64 dev eth0 nodad\n\
                route add local 10.201.0.0/16 dev lo\nroute add local fd01::/64 dev lo\n");
            let own = |address: &str| is_local(address.parse().unwrap()).unwrap();
            // The kernel adds the route of an IPv6 address after `addr add` has returned (addrconf_dad_work), even without DAD.
            let deadline = Instant::now() + Duration::from_secs(10);
            for address in ["fd00::1", "fd00::2"] {
                while own(address) != Some(true) {
                    assert!(Instant::now() < deadline, "the local route of {address} after 10 s");
                    thread::yield_now();
                }
            }
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

    /// A listener on the wildcard address serves every address of an IPv6 network that is routed to the machine.
    #[test]
    fn a_wildcard_listener_answers_at_every_local_address() {
        in_a_network_of_its_own(|| {
            ip("link set lo up\nroute add local fd01::/64 dev lo\n");
            let listener = TcpListener::bind("[::]:0").unwrap();
            let address = SocketAddr::new("fd01::3".parse().unwrap(), listener.local_addr().unwrap().port());
            assert!(TcpStream::connect(address).is_ok());
            assert_eq!(is_local(address.ip()).unwrap(), Some(true));
        });
    }
}
