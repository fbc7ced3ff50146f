//! The header of a proxy that passes connections on byte by byte: PROXY protocol, versions 1 and 2. Pure.
//!
//! It stands before everything else on the connection and says whose connection this is
//! (<https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>).
//!
//! | version | bytes | names a client | the proxy itself is the client |
//! |---|---|---|---|
//! | 1 | a line of at most 107, CRLF included | `PROXY TCP4`, `PROXY TCP6` | `PROXY UNKNOWN` |
//! | 2 | 16, and as many as they say, here at most [`LENGTH_MAX`] in all | PROXY of TCP over IPv4 or IPv6 | LOCAL, or another family |
//!
//! Fields after the addresses of version 2 (TLVs) are skipped. Ports are checked, and otherwise of no use here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes a header may have, of either version. Proxies that send client certificates along stay far below.
pub(crate) const LENGTH_MAX: usize = 4096;

/// Bytes a header of version 1 may have; the longest has two full IPv6 addresses.
const LINE_MAX: usize = 107;
/// How a header of version 1 begins.
const WORD: &[u8] = b"PROXY ";
/// How a header of version 2 begins: no other protocol does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Version 2, and the proxy speaks for itself.
const LOCAL: u8 = 0x20;
/// Version 2, and the proxy speaks for a client.
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whose connection it is; none: the proxy's own.
    pub(crate) source: Option<IpAddr>,
    /// Bytes it takes; what follows is the client's.
    pub(crate) length: usize,
}

/// The bytes begin no header, or one that breaks its own rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads the header at the start of `bytes`; none: it goes on after them. Whatever the answer, more bytes behind it don't change it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins(bytes, SIGNATURE) {
        version_2(bytes)
    } else if begins(bytes, WORD) {
        version_1(bytes)
    } else {
        Err(Malformed)
    }
}

/// Whether `bytes` begin like `mark`, as far as both go.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.iter().zip(mark).all(|(byte, expected)| byte == expected)
}

fn version_1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let line_max = bytes.get(..LINE_MAX).unwrap_or(bytes);
    let Some(end) = line_max.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LINE_MAX { Ok(None) } else { Err(Malformed) };
    };
    let line = line_max.get(WORD.len()..end).and_then(|line| std::str::from_utf8(line).ok()).ok_or(Malformed)?;
    let (family, addresses) = line.split_once(' ').unwrap_or((line, ""));
    let source = match family {
        "TCP4" => Some(source_of::<Ipv4Addr>(addresses)?.into()),
        "TCP6" => Some(source_of::<Ipv6Addr>(addresses)?.into()),
        // The rest of such a line means nothing.
        "UNKNOWN" => None,
        _ => return Err(Malformed),
    };
    Ok(Some(Header { source, length: end + 2 }))
}

/// The first of `source destination source-port destination-port`.
fn source_of<A: std::str::FromStr>(addresses: &str) -> Result<A, Malformed> {
    let mut fields = addresses.split(' ');
    let mut field = || fields.next().ok_or(Malformed);
    let source = field()?.parse().map_err(|_| Malformed)?;
    field()?.parse::<A>().map_err(|_| Malformed)?;
    for port in [field()?, field()?] {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        port.parse::<u16>().ok().filter(|_| digits).ok_or(Malformed)?;
    }
    if fields.next().is_some() { Err(Malformed) } else { Ok(source) }
}

fn version_2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let rest = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    let Some((command, rest)) = rest.split_first() else { return Ok(None) };
    if !matches!(*command, LOCAL | PROXY) {
        return Err(Malformed);
    }
    let [family, high, low, rest @ ..] = rest else { return Ok(None) };
    let behind = usize::from(u16::from_be_bytes([*high, *low]));
    let is_short = match (*command, *family) {
        (PROXY, TCP_OVER_IPV4) => behind < 12,
        (PROXY, TCP_OVER_IPV6) => behind < 36,
        _ => false,
    };
    if is_short || FIXED + behind > LENGTH_MAX {
        return Err(Malformed);
    }
    let Some(block) = rest.get(..behind) else { return Ok(None) };
    let source = match (*command, *family) {
        (PROXY, TCP_OVER_IPV4) => block.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
        (PROXY, TCP_OVER_IPV6) => block.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
        _ => None,
    };
    Ok(Some(Header { source, length: FIXED + behind }))
}

#[cfg(test)]
mod tests;
