//! Connections that a proxy in front passes on byte by byte: whose they are is read from their first bytes, before TLS and HTTP.
//!
//! A header is worth its sender's word, and a forged one would be a new client for every connection: so only
//! [`trusted_proxies`](crate::Policy::trusted_proxies) may connect where headers are expected.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::downstream::proxy_protocol::{self, LENGTH_MAX};

/// Why nobody knows whose connection it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Nameless {
    #[error("the PROXY protocol header took too long")]
    Late,
    #[error("no valid PROXY protocol header")]
    Malformed,
    #[error("the connection ended in its PROXY protocol header")]
    Ended(#[source] io::Error),
}

/// Reads the header, and nothing behind it, within `patience`. The client it names; none: the proxy itself.
pub(crate) async fn client(socket: &mut TcpStream, patience: Duration) -> Result<Option<IpAddr>, Nameless> {
    timeout(patience, read(socket)).await.map_err(|_| Nameless::Late)?
}

/// What is there is looked at first, and taken only as far as it is the header's: what follows it is the client's.
async fn read(socket: &mut TcpStream) -> Result<Option<IpAddr>, Nameless> {
    // No parse leaves a header open at this length: there is always room.
    let mut bytes = vec![0; LENGTH_MAX];
    let mut taken = 0;
    loop {
        let there = socket.peek(bytes.get_mut(taken..).unwrap_or_default()).await.map_err(Nameless::Ended)?;
        if there == 0 {
            return Err(Nameless::Ended(io::ErrorKind::UnexpectedEof.into()));
        }
        let header = proxy_protocol::parse(bytes.get(..taken + there).unwrap_or_default()).map_err(|_| Nameless::Malformed)?;
        let end = header.map_or(taken + there, |header| header.length);
        socket.read_exact(bytes.get_mut(taken..end).unwrap_or_default()).await.map_err(Nameless::Ended)?;
        taken = end;
        if let Some(header) = header {
            return Ok(header.source);
        }
    }
}
