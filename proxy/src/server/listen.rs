//! The sockets the edge listens on: bound here, or inherited from whoever started the process.
//!
//! A socket that outlives the process (systemd's, by socket activation) keeps connections waiting while there is none: a restart
//! refuses nobody. An inherited socket serves one of the configured addresses, or, by its name, takes the place of all of a kind:
//!
//! | name | serves |
//! |---|---|
//! | `http` | plain HTTP, in place of [`EdgeConfig::listen`](crate::EdgeConfig::listen) |
//! | `https` | TLS, in place of [`TlsConfig::listen`](crate::TlsConfig::listen) |
//! | any other | the configured address it is bound to |

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

/// As pingora does; the kernel's own bound (`net.core.somaxconn`) is lower.
const BACKLOG: i32 = 65_535;
/// A client that has vanished is noticed after 60 s + 6 x 10 s.
const CLIENT_PROBE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);

/// A listening socket from outside.
#[derive(Debug)]
pub struct Inherited {
    /// What errors call it, such as `fd 3`.
    pub label: String,
    /// What whoever made it calls it; may be empty.
    pub name: String,
    /// The socket.
    pub socket: TcpListener,
}

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is in use, not ours, or privileged.
    #[error("cannot listen on {address}")]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// An inherited socket is for nothing that is configured.
    #[error("the inherited socket {label} ({name:?}, {address}) is for no listener: it is none by address, nor named http or https")]
    Unwanted {
        /// What it is called here.
        label: String,
        /// What whoever made it calls it.
        name: String,
        /// Where it is bound.
        address: SocketAddr,
    },
    /// An inherited socket can't be used.
    #[error("the inherited socket {label} is of no use")]
    Unusable {
        /// What it is called here.
        label: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing listens where PROXY protocol was asked for.
    #[error("PROXY protocol is asked for on {0}, where nothing listens")]
    NoSuchListener(SocketAddr),
}

/// One listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) address: SocketAddr,
    /// As which it was asked for; none: it was inherited under the name of its kind.
    configured: Option<SocketAddr>,
    /// Its connections begin with a PROXY protocol header.
    pub(crate) proxied: bool,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) plain: Vec<Listener>,
    pub(crate) secure: Vec<Listener>,
}

impl Listeners {
    /// Takes the inherited sockets, and binds what they don't cover. `proxied` are addresses as configured, or as bound.
    pub(crate) fn open(
        plain: SocketAddr,
        secure: &[SocketAddr],
        proxied: &[SocketAddr],
        mut inherited: Vec<Inherited>,
    ) -> Result<Listeners, ListenError> {
        let configured: Vec<SocketAddr> = std::iter::once(plain).chain(secure.iter().copied()).collect();
        let opening = Opening { configured: &configured, proxied };
        let listeners =
            Listeners { plain: opening.all("http", &[plain], &mut inherited)?, secure: opening.all("https", secure, &mut inherited)? };
        if let Some(Inherited { label, name, socket }) = inherited.pop() {
            let address = socket.local_addr().map_err(|source| ListenError::Unusable { label: label.clone(), source })?;
            return Err(ListenError::Unwanted { label, name, address });
        }
        let served = |wanted: &SocketAddr| listeners.all().any(|listener| listener.is_at(*wanted));
        match proxied.iter().find(|wanted| !served(wanted)) {
            Some(missing) => Err(ListenError::NoSuchListener(*missing)),
            None => Ok(listeners),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Listener> {
        self.plain.iter().chain(&self.secure)
    }
}

impl Listener {
    fn is_at(&self, address: SocketAddr) -> bool {
        address == self.address || Some(address) == self.configured
    }
}

/// What the opening of each socket depends on.
struct Opening<'a> {
    configured: &'a [SocketAddr],
    proxied: &'a [SocketAddr],
}

impl Opening<'_> {
    /// The listeners of one kind: the inherited sockets with its name, or one for each address that is wanted.
    fn all(&self, name: &str, wanted: &[SocketAddr], inherited: &mut Vec<Inherited>) -> Result<Vec<Listener>, ListenError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let named: Vec<Inherited> = inherited.extract_if(.., |socket| socket.name == name).collect();
        if !named.is_empty() {
            return named.into_iter().map(|socket| self.adopt(socket, None)).collect();
        }
        let one = |address: &SocketAddr| {
            let is_there = |socket: &Inherited| socket.socket.local_addr().is_ok_and(|bound| bound == *address);
            match inherited.iter().position(is_there) {
                Some(at) => self.adopt(inherited.swap_remove(at), Some(*address)),
                None => self.bind(*address),
            }
        };
        wanted.iter().map(one).collect()
    }

    fn adopt(&self, inherited: Inherited, configured: Option<SocketAddr>) -> Result<Listener, ListenError> {
        let Inherited { label, socket, .. } = inherited;
        let unusable = |source| ListenError::Unusable { label: label.clone(), source };
        if !SockRef::from(&socket).is_listener().map_err(unusable)? {
            return Err(unusable(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen")));
        }
        self.listener(socket, configured).map_err(unusable)
    }

    fn bind(&self, address: SocketAddr) -> Result<Listener, ListenError> {
        let bound = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            // A socket for all of IPv6 would take IPv4 as well, and be refused where that has one of its own.
            let is_split = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
            if address.is_ipv6() && address.port() != 0 && self.configured.iter().any(is_split) {
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            self.listener(socket.into(), Some(address))
        };
        bound().map_err(|source| ListenError::Bind { address, source })
    }

    fn listener(&self, socket: TcpListener, configured: Option<SocketAddr>) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        // What it accepts inherits these, at no call of its own.
        let options = SockRef::from(&socket);
        options.set_tcp_nodelay(true)?;
        options.set_tcp_keepalive(&CLIENT_PROBE)?;
        let mut listener = Listener { address: socket.local_addr()?, socket, configured, proxied: false };
        listener.proxied = self.proxied.iter().any(|wanted| listener.is_at(*wanted));
        Ok(listener)
    }
}
