//! Connections that a proxy in front passes on byte by byte: whose they are is read from their first bytes, before TLS and HTTP.
//!
//! A header is worth its sender's word, and a forged one would be a new client for every connection: so only
//! [`trusted_proxies`](crate::Policy::trusted_proxies) may connect where headers are expected.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use pingora::protocols::l4::stream::Stream as Socket;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::downstream::proxy_protocol::{self, LENGTH_MAX};

/// Room for the headers that proxies really send.
const USUAL: usize = 512;

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
pub(crate) async fn client(socket: &mut Socket, patience: Duration) -> Result<Option<IpAddr>, Nameless> {
    timeout(patience, read(socket)).await.map_err(|_| Nameless::Late)?
}

async fn read(socket: &mut Socket) -> Result<Option<IpAddr>, Nameless> {
    let mut bytes = Vec::with_capacity(USUAL);
    loop {
        // No parse leaves a header open at this length: there is always room.
        let room = u64::try_from(LENGTH_MAX.saturating_sub(bytes.len())).unwrap_or(0);
        if (&mut *socket).take(room).read_buf(&mut bytes).await.map_err(Nameless::Ended)? == 0 {
            return Err(Nameless::Ended(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(header) = proxy_protocol::parse(&bytes).map_err(|_| Nameless::Malformed)? {
            socket.rewind(bytes.get(header.length..).unwrap_or_default());
            return Ok(header.source);
        }
    }
}
